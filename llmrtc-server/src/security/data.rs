//! The folder of what a server keeps by itself: keys that it makes at its first start, stored conversations, the audit
//! log. Readable by its owner alone.

use std::{
    fs, io,
    path::{Path, PathBuf},
};

use anyhow::Context;
use llmrtc_core::redact::Secret;
use rand::Rng;

/// Makes the folder, for its owner alone.
///
/// # Errors
/// When it cannot be made or belongs to everybody.
pub fn prepare(folder: &Path) -> io::Result<()> {
    #[cfg(unix)]
    {
        use std::os::unix::fs::DirBuilderExt;
        fs::DirBuilder::new()
            .recursive(true)
            .mode(0o700)
            .create(folder)
    }
    #[cfg(not(unix))]
    fs::create_dir_all(folder)
}

/// The token of the admin API in `file`, made if there is none.
///
/// # Errors
/// When the file cannot be read or written.
pub fn admin_token(file: &Path) -> anyhow::Result<Secret> {
    let failed = || format!("cannot use the admin token {}", file.display());
    match fs::read_to_string(file) {
        Ok(text) if !text.trim().is_empty() => return Ok(Secret::new(text.trim())),
        Ok(_) => {}
        Err(error) if error.kind() == io::ErrorKind::NotFound => {}
        Err(error) => return Err(error).with_context(failed),
    }
    let mut bytes = [0_u8; 32];
    rand::rng().fill_bytes(&mut bytes);
    let token: String = bytes.iter().map(|byte| format!("{byte:02x}")).collect();
    write_private(file, &token).with_context(failed)?;
    Ok(Secret::new(token))
}

fn write_private(file: &Path, text: &str) -> io::Result<()> {
    use io::Write;
    let mut options = fs::OpenOptions::new();
    options.write(true).create_new(true);
    #[cfg(unix)]
    std::os::unix::fs::OpenOptionsExt::mode(&mut options, 0o600);
    options.open(file)?.write_all(text.as_bytes())
}

/// Where data is kept unless configured: `$STATE_DIRECTORY` (systemd), `$XDG_DATA_HOME/llmrtc`, `~/.local/share/llmrtc`.
pub(crate) fn default_folder(variable: impl Fn(&str) -> Option<String>) -> Option<PathBuf> {
    if let Some(state) = variable("STATE_DIRECTORY") {
        // systemd gives several, separated by colons.
        return state.split(':').next().map(PathBuf::from);
    }
    if let Some(data) = variable("XDG_DATA_HOME") {
        return Some(Path::new(&data).join("llmrtc"));
    }
    variable("HOME").map(|home| Path::new(&home).join(".local/share/llmrtc"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_folder_is_where_the_system_wants_it() {
        let with = |pairs: &'static [(&str, &str)]| {
            default_folder(|name| {
                let found = pairs.iter().find(|(key, _)| *key == name);
                found.map(|(_, value)| (*value).to_owned())
            })
        };
        assert_eq!(with(&[]), None);
        assert_eq!(
            with(&[("HOME", "/var/people/ann")]),
            Some("/var/people/ann/.local/share/llmrtc".into())
        );
        assert_eq!(
            with(&[("XDG_DATA_HOME", "/data")]),
            Some("/data/llmrtc".into())
        );
        assert_eq!(
            with(&[("STATE_DIRECTORY", "/var/lib/a:/var/lib/b")]),
            Some("/var/lib/a".into())
        );
    }

    #[test]
    fn keys_and_tokens_are_made_once_and_for_their_owner() {
        let folder = tempfile::tempdir().unwrap();
        let inside = folder.path().join("a/b");
        prepare(&inside).unwrap();
        let token = admin_token(&inside.join("admin-token")).unwrap();
        assert_eq!(token.expose().len(), 64);
        let again = admin_token(&inside.join("admin-token")).unwrap();
        assert_eq!(token.expose(), again.expose());
        #[cfg(unix)]
        for path in [inside.clone(), inside.join("admin-token")] {
            use std::os::unix::fs::PermissionsExt;
            let mode = fs::metadata(&path).unwrap().permissions().mode();
            assert_eq!(mode & 0o077, 0, "{}", path.display());
        }
    }
}
