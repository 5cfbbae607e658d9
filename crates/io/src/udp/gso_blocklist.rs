//! Paths with an MTU below the length of some datagrams, such as IPv6 over PPPoE for a tunnel with
//! 1,420 bytes. The kernel does not segment a burst into datagrams that need fragments, and refuses
//! it after copying all of it. The list avoids such attempts.

use hashbrown::HashMap;
use std::net::IpAddr;
use std::time::{Duration, Instant};

/// Time for which a refusal is remembered.
const BLOCK_TIME: Duration = Duration::from_secs(5);
/// Maximum number of paths; one more clears the list.
const MAX_PATHS: usize = 1024;

/// The limits of such paths, by remote address.
#[derive(Debug, Default)]
pub(super) struct GsoBlocklist(HashMap<IpAddr, Limit>);

#[derive(Debug)]
struct Limit {
    /// The shortest segment that was refused, in bytes.
    segment: usize,
    until: Instant,
}

impl GsoBlocklist {
    /// Notes that the kernel refused a burst with segments of this length, but sent them singly.
    pub(super) fn note(&mut self, remote: IpAddr, segment: usize, now: Instant) {
        if self.0.len() >= MAX_PATHS {
            self.0.clear();
        }
        let until = now + BLOCK_TIME;
        self.0.insert(remote, Limit { segment, until });
    }

    /// Returns whether a burst with segments of this length would be refused.
    pub(super) fn refuses(&self, remote: IpAddr, segment: usize, now: Instant) -> bool {
        let limit = self.0.get(&remote);
        limit.is_some_and(|limit| limit.segment <= segment && now < limit.until)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_path_is_listed_for_some_time_from_a_segment_length_on() {
        let (here, there) = ([192, 0, 2, 1].into(), [192, 0, 2, 2].into());
        let (mut blocklist, now) = (GsoBlocklist::default(), Instant::now());
        assert!(!blocklist.refuses(here, 1452, now));
        blocklist.note(here, 1452, now);
        let lengths = |blocklist: &GsoBlocklist, at| {
            [1000, 1451, 1452, 1500].map(|length| blocklist.refuses(here, length, at))
        };
        assert_eq!(lengths(&blocklist, now), [false, false, true, true]);
        assert!(!blocklist.refuses(there, 1452, now));
        blocklist.note(here, 1000, now);
        assert_eq!(lengths(&blocklist, now), [true; 4]);
        assert_eq!(lengths(&blocklist, now + BLOCK_TIME), [false; 4]);
    }

    #[test]
    fn the_number_of_paths_is_bounded() {
        let (mut blocklist, now) = (GsoBlocklist::default(), Instant::now());
        for n in 0..10 * MAX_PATHS as u32 {
            blocklist.note(IpAddr::V4(n.into()), 1452, now);
            assert!(blocklist.refuses(IpAddr::V4(n.into()), 1452, now));
            assert!(blocklist.0.len() <= MAX_PATHS);
        }
    }
}
