use std::io;

use rustix::{
    io::Errno,
    mm::{MlockAllFlags, mlockall},
    process::{DumpableBehavior, set_dumpable_behavior},
};

/// Forbids core dumps of this process and debuggers of the same user (`PR_SET_DUMPABLE`). With `lock_memory` also keeps
/// all of its memory, now and later, out of swap (`mlockall`), which needs a sufficient `RLIMIT_MEMLOCK`; without that
/// the memory stays unlocked and the answer is `false`.
///
/// Call it first thing: the setting does not survive `execve`.
///
/// # Errors
/// What the system says, other than that the limit is too low.
pub fn harden_process(lock_memory: bool) -> io::Result<bool> {
    set_dumpable_behavior(DumpableBehavior::NotDumpable)?;
    if !lock_memory {
        return Ok(false);
    }
    match mlockall(MlockAllFlags::CURRENT | MlockAllFlags::FUTURE | MlockAllFlags::ONFAULT) {
        Ok(()) => Ok(true),
        Err(Errno::NOMEM | Errno::PERM | Errno::AGAIN) => Ok(false),
        Err(error) => Err(error.into()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Without locking: that would hold for all other tests in this process, too.
    #[test]
    fn a4_the_process_can_no_longer_be_dumped() {
        assert!(!harden_process(false).unwrap());
        let behavior = rustix::process::dumpable_behavior().unwrap();
        assert_eq!(behavior, DumpableBehavior::NotDumpable);
    }
}
