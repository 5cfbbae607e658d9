//! Describes the activity of a connection.

use super::connection::Activity;
use super::timestamp::Timestamp;
use std::time::Duration;

/// A connection without data for this long is idle.
const IDLE_TIMEOUT: Duration = Duration::from_secs(60);

impl Activity {
    /// Whether the connection was in use at this time, as far as the capture shows.
    pub(super) fn is_busy(&self, now: Timestamp) -> bool {
        self.waiting || self.quiet(now).is_some_and(|quiet| quiet < IDLE_TIMEOUT)
    }

    /// The time since the last data; `None` if none was captured before.
    pub(super) fn quiet(&self, now: Timestamp) -> Option<Duration> {
        self.last.map(|last| now.since(last))
    }

    /// Describes the activity: "reading", "idle for 5 minutes".
    pub(super) fn words(&self, now: Timestamp) -> String {
        let Some(quiet) = self.quiet(now) else {
            return "no data was captured before".to_owned();
        };
        if !self.is_busy(now) {
            return format!("idle for {} minutes", quiet.as_secs() / 60);
        }
        let doing = self.command.map_or("busy", doing);
        match self.waiting {
            true => format!("{doing}, waiting for a response"),
            false => doing.to_owned(),
        }
    }
}

/// The purpose of a command (MS-CIFS section 2.2.2.1).
fn doing(command: u8) -> &'static str {
    match command {
        0x0A | 0x1A | 0x1B | 0x2E => "reading",
        0x0B | 0x0C | 0x1D..=0x20 | 0x2F => "writing",
        0x02 | 0x03 | 0x0F | 0x2D | 0xA2 => "opening a file",
        0x04 => "closing a file",
        0x24 => "locking",
        0x32 | 0x33 | 0x80..=0x84 => "listing files",
        0x25 | 0x26 => "calling a service",
        0x72..=0x74 => "logging on",
        0x70 | 0x75 => "connecting to a share",
        0x2B => "testing the connection",
        _ => "busy",
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn says_what_it_was_doing() {
        let at = |seconds: u64| Timestamp::from_nanoseconds(seconds * 1_000_000_000);
        let mut activity = Activity {
            command: Some(0x2E),
            waiting: false,
            last: Some(at(100)),
        };
        assert_eq!(activity.words(at(101)), "reading");
        assert_eq!(activity.words(at(400)), "idle for 5 minutes");
        activity.waiting = true;
        assert_eq!(activity.words(at(400)), "reading, waiting for a response");
        activity.last = None;
        assert_eq!(activity.words(at(1)), "no data was captured before");
    }
}
