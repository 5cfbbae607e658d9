//! Paths that take datagrams of some length only in fragments, as IPv6 over PPPoE does those of a
//! tunnel with 1,420 bytes. The kernel cuts no burst into such, and says so when it has copied all
//! of it; so it is not asked for every burst anew.

use hashbrown::HashMap;
use std::net::IpAddr;
use std::time::{Duration, Instant};

/// How long a path is taken to be as it was.
const WHILE: Duration = Duration::from_secs(5);
/// The most paths that are known; with one more, all are found out anew.
const MOST: usize = 1024;

/// What is known of such paths, by where they lead.
#[derive(Debug, Default)]
pub(super) struct GsoBlocklist(HashMap<IpAddr, Limit>);

#[derive(Debug)]
struct Limit {
    /// The shortest segment that was too long.
    segment: usize,
    until: Instant,
}

impl GsoBlocklist {
    /// The kernel refused to cut a burst into segments of this length, and sent them one by one.
    pub fn note(&mut self, remote: IpAddr, segment: usize, now: Instant) {
        if self.0.len() >= MOST {
            self.0.clear();
        }
        let until = now + WHILE;
        self.0.insert(remote, Limit { segment, until });
    }

    /// Whether it would do so again.
    pub fn refuses(&self, remote: IpAddr, segment: usize, now: Instant) -> bool {
        let limit = self.0.get(&remote);
        limit.is_some_and(|limit| limit.segment <= segment && now < limit.until)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_path_is_narrow_for_a_while_and_from_a_length_on() {
        let (here, there) = ([192, 0, 2, 1].into(), [192, 0, 2, 2].into());
        let (mut narrow, now) = (GsoBlocklist::default(), Instant::now());
        assert!(!narrow.refuses(here, 1452, now));
        narrow.note(here, 1452, now);
        let lengths = |narrow: &GsoBlocklist, at| {
            [1000, 1451, 1452, 1500].map(|length| narrow.refuses(here, length, at))
        };
        assert_eq!(lengths(&narrow, now), [false, false, true, true]);
        assert!(!narrow.refuses(there, 1452, now));
        narrow.note(here, 1000, now);
        assert_eq!(lengths(&narrow, now), [true; 4]);
        assert_eq!(lengths(&narrow, now + WHILE), [false; 4]);
    }

    #[test]
    fn no_number_of_paths_fills_the_memory() {
        let (mut narrow, now) = (GsoBlocklist::default(), Instant::now());
        for n in 0..10 * MOST as u32 {
            narrow.note(IpAddr::V4(n.into()), 1452, now);
            assert!(narrow.refuses(IpAddr::V4(n.into()), 1452, now));
            assert!(narrow.0.len() <= MOST);
        }
    }
}
