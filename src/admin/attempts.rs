//! Limits failed logins, for each source and for all sources together.
//!
//! It has no clock and no socket: the time is a parameter. A login takes a token from two buckets
//! before the password is compared, and a correct password gives both back, so that only failures
//! count. A source whose bucket is full again is forgotten: the overall limit bounds the memory.

use std::collections::HashMap;
use std::net::{IpAddr, Ipv6Addr};
use std::time::{Duration, Instant};

/// Failures of one source in a row, and the time for each further one.
const SOURCE: Rate = Rate {
    burst: 5,
    interval: Duration::from_secs(30),
};
/// Failures of all sources in a row, and the time for each further one.
const ALL: Rate = Rate {
    burst: 30,
    interval: Duration::from_secs(5),
};

/// The size of a bucket, and the time in which it gains one token.
#[derive(Debug, Clone, Copy)]
struct Rate {
    burst: u32,
    interval: Duration,
}

/// A token bucket, as the time at which it is full again.
#[derive(Debug, Clone, Copy)]
struct Bucket {
    full_at: Instant,
}

impl Bucket {
    /// Returns the time until there is a token, if there is none.
    fn wait(self, rate: Rate, now: Instant) -> Option<Duration> {
        let missing = self.full_at.saturating_duration_since(now);
        let capacity = rate.interval * rate.burst.saturating_sub(1);
        missing.checked_sub(capacity).filter(|wait| !wait.is_zero())
    }

    fn take(&mut self, rate: Rate, now: Instant) {
        self.full_at = self.full_at.max(now) + rate.interval;
    }

    fn give_back(&mut self, rate: Rate, now: Instant) {
        self.full_at = self
            .full_at
            .checked_sub(rate.interval)
            .map_or(now, |at| at.max(now));
    }
}

/// The failed logins of the last minutes.
#[derive(Debug)]
pub(super) struct Attempts {
    sources: HashMap<IpAddr, Bucket>,
    all: Bucket,
}

impl Attempts {
    /// No login has failed.
    pub(super) fn new(now: Instant) -> Self {
        Self {
            sources: HashMap::new(),
            all: Bucket { full_at: now },
        }
    }

    /// Begins a login.
    ///
    /// # Errors
    /// The time to wait, if too many logins have failed.
    pub(super) fn begin(&mut self, source: IpAddr, now: Instant) -> Result<(), Duration> {
        self.sources.retain(|_, bucket| bucket.full_at > now);
        let source = network(source);
        let mut own = self
            .sources
            .get(&source)
            .copied()
            .unwrap_or(Bucket { full_at: now });
        let waits = [own.wait(SOURCE, now), self.all.wait(ALL, now)];
        if let Some(wait) = waits.into_iter().flatten().max() {
            return Err(wait);
        }
        own.take(SOURCE, now);
        self.all.take(ALL, now);
        self.sources.insert(source, own);
        Ok(())
    }

    /// The login that this source began was correct.
    pub(super) fn succeeded(&mut self, source: IpAddr, now: Instant) {
        if let Some(bucket) = self.sources.get_mut(&network(source)) {
            bucket.give_back(SOURCE, now);
        }
        self.all.give_back(ALL, now);
    }
}

/// Returns the network that one user commands: the address, for IPv6 its /64.
fn network(source: IpAddr) -> IpAddr {
    match source.to_canonical() {
        IpAddr::V4(address) => address.into(),
        IpAddr::V6(address) => {
            let [a, b, c, d, ..] = address.segments();
            Ipv6Addr::new(a, b, c, d, 0, 0, 0, 0).into()
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn ip(text: &str) -> IpAddr {
        text.parse().unwrap()
    }

    #[test]
    fn a_source_waits_after_five_failures_and_others_do_not() {
        let now = Instant::now();
        let mut attempts = Attempts::new(now);
        let [bad, good] = ["203.0.113.5", "203.0.113.6"].map(ip);
        for _ in 0..5 {
            assert_eq!(attempts.begin(bad, now), Ok(()));
        }
        assert_eq!(attempts.begin(bad, now), Err(Duration::from_secs(30)));
        assert_eq!(attempts.begin(good, now), Ok(()));
        let later = now + Duration::from_secs(30);
        assert_eq!(attempts.begin(bad, later), Ok(()));
        assert_eq!(attempts.begin(bad, later), Err(Duration::from_secs(30)));
    }

    #[test]
    fn a_correct_password_costs_nothing() {
        let now = Instant::now();
        let mut attempts = Attempts::new(now);
        let source = ip("203.0.113.5");
        for _ in 0..100 {
            assert_eq!(attempts.begin(source, now), Ok(()));
            attempts.succeeded(source, now);
        }
    }

    #[test]
    fn all_sources_together_are_limited_and_the_memory_is_bounded() {
        let now = Instant::now();
        let mut attempts = Attempts::new(now);
        let mut allowed = 0;
        for second in 0..600_u32 {
            let now = now + Duration::from_secs(second.into());
            for host in 0..50_u32 {
                let source = IpAddr::from((second * 50 + host).to_be_bytes());
                allowed += u32::from(attempts.begin(source, now).is_ok());
            }
            assert!(attempts.sources.len() <= 40, "{}", attempts.sources.len());
        }
        assert_eq!(allowed, 30 + 599 / 5);
    }

    #[test]
    fn a_network_of_ipv6_is_one_source() {
        let now = Instant::now();
        let mut attempts = Attempts::new(now);
        for host in 1..=5 {
            let source = ip(&format!("2001:db8::{host}"));
            assert_eq!(attempts.begin(source, now), Ok(()));
        }
        assert!(attempts.begin(ip("2001:db8::6"), now).is_err());
        assert!(attempts.begin(ip("2001:db8:0:1::6"), now).is_ok());
        let mapped = ip("::ffff:203.0.113.5");
        assert_eq!(network(mapped), ip("203.0.113.5"));
    }

    proptest! {
        /// A slow list of the failures allows the same logins.
        #[test]
        fn logins_are_those_of_a_list_of_failures(
            steps in prop::collection::vec((0_u64..40, 0_u8..3, any::<bool>()), 1..200),
        ) {
            let start = Instant::now();
            let mut attempts = Attempts::new(start);
            let mut debts = [Duration::ZERO; 4]; // of three sources, and of all
            let mut now = start;
            for (seconds, host, correct) in steps {
                let passed = Duration::from_secs(seconds);
                now += passed;
                debts.iter_mut().for_each(|debt| *debt = debt.saturating_sub(passed));
                let own = usize::from(host);
                let free = debts[own] <= SOURCE.interval * (SOURCE.burst - 1)
                    && debts[3] <= ALL.interval * (ALL.burst - 1);
                let source = IpAddr::from([10, 0, 0, host]);
                prop_assert_eq!(attempts.begin(source, now).is_ok(), free);
                if free && correct {
                    attempts.succeeded(source, now);
                } else if free {
                    debts[own] += SOURCE.interval;
                    debts[3] += ALL.interval;
                }
            }
        }
    }
}
