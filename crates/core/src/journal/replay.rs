//! Reads a journal.
//!
//! A process that is killed leaves at most a part of the last frame, which is cut off. Any other
//! deviation means that the contents are unknown: no flow is continued then.

use super::encode::{self, FORMAT, FRAME_OVERHEAD, MAGIC, MAX_FRAME_LEN, Timestamp};
use super::{Record, State};

/// The contents of a journal.
#[derive(Debug, Clone)]
pub struct Replayed {
    /// The result of all whole frames.
    pub state: State,
    /// Length of the torn frame at the end, in bytes.
    pub torn: usize,
}

/// The reason why a journal cannot be read.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum ReplayError {
    /// The head is not that of a journal.
    #[error("it is not a flow journal of this version of vcgate")]
    Head,
    /// The format is that of another version.
    #[error("it has format {0} of another version of vcgate")]
    Format(u32),
    /// A frame has another checksum than its contents, or contains anything but records.
    #[error("it is damaged at byte {0}")]
    Damaged(usize),
}

/// Replays a journal.
///
/// # Errors
/// If the bytes are not a journal of this format, or damaged before their last frame.
pub fn replay(journal: &[u8]) -> Result<Replayed, ReplayError> {
    let mut state = State::default();
    let mut at = check_head(journal)?;
    while let Some((overhead, rest)) = journal[at..].split_first_chunk::<FRAME_OVERHEAD>() {
        let (len, checksum) = overhead.split_at(4);
        let body_len = u32::from_le_bytes([len[0], len[1], len[2], len[3]]) as usize;
        if body_len > MAX_FRAME_LEN {
            return Err(ReplayError::Damaged(at));
        }
        let Some(body) = rest.get(..body_len) else {
            break;
        };
        if encode::checksum(len, body).to_le_bytes() != *checksum {
            return Err(ReplayError::Damaged(at));
        }
        apply(&mut state, body).map_err(|_| ReplayError::Damaged(at))?;
        at += FRAME_OVERHEAD + body_len;
    }
    let torn = journal.len() - at;
    Ok(Replayed { state, torn })
}

/// Returns the length of the head.
fn check_head(journal: &[u8]) -> Result<usize, ReplayError> {
    let (magic, rest) = journal.split_first_chunk().ok_or(ReplayError::Head)?;
    let (format, _) = rest.split_first_chunk().ok_or(ReplayError::Head)?;
    match u32::from_le_bytes(*format) {
        _ if *magic != MAGIC => Err(ReplayError::Head),
        FORMAT => Ok(encode::HEAD_LEN),
        other => Err(ReplayError::Format(other)),
    }
}

/// Applies the body of a frame.
fn apply(state: &mut State, body: &[u8]) -> postcard::Result<()> {
    let (at, mut rest): (Timestamp, _) = postcard::take_from_bytes(body)?;
    state.advance(at);
    while !rest.is_empty() {
        let (record, after): (Record, _) = postcard::take_from_bytes(rest)?;
        state.apply(record);
        rest = after;
    }
    Ok(())
}
