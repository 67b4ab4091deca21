//! Where a log that was left behind goes on: after its last whole record, whatever the end of the process left there.

use std::sync::Arc;

use super::{
    chain::{Digest, Line, MAX_LINE_BYTES, Position, hash},
    keys::AuditKeys,
};

/// How much of a log's end is read. Holds the longest line, and more torn ends than a server that dies at every start
/// leaves behind before somebody looks.
pub(super) const TAIL_BYTES: usize = 8 * MAX_LINE_BYTES;

/// What a log's end and its last published head say.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Resume {
    /// Where the chain goes on.
    pub(super) position: Position,
    /// What lies behind the last whole record and has to be sealed by the next one.
    pub(super) torn: Option<(u64, Digest)>,
    /// Whether the log lacks its last line feed.
    pub(super) unterminated: bool,
    /// The log ends before this signed head: somebody cut it.
    pub(super) behind: Option<u64>,
}

impl Resume {
    /// A log that begins now.
    pub(super) const FRESH: Self = Self {
        position: Position::START,
        torn: None,
        unterminated: false,
        behind: None,
    };
}

/// A log's end from which nothing can be continued: it is no log of ours.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Foreign;

/// Reads the end of a log.
///
/// `tail`: the last bytes, at most [`TAIL_BYTES`]; `whole`: whether that is all of it. `head`: the last head that was
/// published beside the log.
///
/// # Errors
/// When there are [`TAIL_BYTES`] without a record of ours.
pub(super) fn resume(
    tail: &[u8],
    whole: bool,
    head: Option<&[u8]>,
    keys: &Arc<AuditKeys>,
) -> Result<Resume, Foreign> {
    let ours = |raw: &[u8]| {
        Line::parse(raw)
            .filter(|line| keys.all().any(|epoch| line.has_mac_of(epoch)))
            .map(|line| Position::after(&line))
    };
    let terminated = tail.is_empty() || tail.ends_with(b"\n");
    let mut end = tail.len();
    let mut found = None;
    while end > 0 {
        let stop = end - usize::from(tail[end - 1] == b'\n');
        let start = tail[..stop]
            .iter()
            .rposition(|byte| *byte == b'\n')
            .map_or(0, |at| at + 1);
        if start == 0 && !whole {
            break;
        }
        if let Some(position) = ours(&tail[start..stop]) {
            found = Some((position, end));
            break;
        }
        end = start;
    }
    let (position, behind_it) = match found {
        Some((position, end)) => (Some(position), &tail[end..]),
        None if whole => (None, tail),
        None => return Err(Foreign),
    };
    // The line feed that the next run writes belongs to what it seals.
    let torn = (!behind_it.is_empty()).then(|| {
        let mut sealed = behind_it.to_vec();
        if !terminated {
            sealed.push(b'\n');
        }
        (sealed.len() as u64, hash(&sealed))
    });
    let position = position.unwrap_or(Position::START);
    let published = head
        .map(|head| head.strip_suffix(b"\n").unwrap_or(head))
        .and_then(Line::parse)
        .filter(|line| keys.all().any(|epoch| line.is_signed_by(&epoch.public)));
    let resumed = Resume {
        position,
        torn,
        unterminated: !terminated,
        behind: None,
    };
    Ok(match published {
        Some(line) if line.seq >= position.next => Resume {
            position: Position::after(&line),
            // After a rotation that was not finished there is no file, and nothing is missing.
            behind: (!tail.is_empty()).then_some(line.seq),
            ..resumed
        },
        _ => resumed,
    })
}
