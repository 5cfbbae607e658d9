//! A token bucket, stored as the time at which it is full again.
//!
//! It holds no limit: the caller passes the rate with each token it takes, so a changed
//! configuration applies at once.

use std::time::{Duration, Instant};

/// The rate at which a bucket refills, and its capacity.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Rate {
    /// Tokens per second; with 0 no token is available.
    pub per_second: u32,
    /// Tokens in a full bucket.
    pub burst: u32,
}

impl Rate {
    /// Returns the rate whose burst is the amount of one second.
    pub(crate) fn per_second(tokens: u32) -> Self {
        Self {
            per_second: tokens,
            burst: tokens,
        }
    }
}

/// A token bucket.
#[derive(Debug, Clone, Copy)]
pub(crate) struct TokenBucket {
    full_at: Instant,
}

impl TokenBucket {
    /// Returns a full bucket.
    pub(crate) fn full(now: Instant) -> Self {
        Self { full_at: now }
    }

    /// Takes a token; returns false if there is none.
    pub(crate) fn take(&mut self, rate: Rate, now: Instant) -> bool {
        let Some(interval) = Duration::from_secs(1).checked_div(rate.per_second) else {
            return false;
        };
        let full_at = self.full_at.max(now) + interval;
        let available = full_at <= now + interval * rate.burst;
        if available {
            self.full_at = full_at;
        }
        available
    }

    /// Returns whether the bucket is full, which makes it equal to a new one.
    pub(crate) fn is_full(&self, now: Instant) -> bool {
        self.full_at <= now
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const RATE: Rate = Rate {
        per_second: 20,
        burst: 5,
    };

    proptest! {
        /// The oracle counts tokens in exact fractions of 1/50.
        #[test]
        fn a_bucket_allows_a_burst_and_then_its_rate(
            gaps_ms in prop::collection::vec(0u64..120, 1..100),
        ) {
            let mut now = Instant::now();
            let mut bucket = TokenBucket::full(now);
            let mut tokens_ms = u64::from(RATE.burst) * 50;
            for gap in gaps_ms {
                now += Duration::from_millis(gap);
                tokens_ms = (tokens_ms + gap).min(u64::from(RATE.burst) * 50);
                let expected = tokens_ms >= 50;
                if expected {
                    tokens_ms -= 50;
                }
                prop_assert_eq!(bucket.take(RATE, now), expected);
                prop_assert_eq!(bucket.is_full(now), tokens_ms == u64::from(RATE.burst) * 50);
            }
        }
    }

    #[test]
    fn the_burst_of_a_rate_per_second_is_the_amount_of_one_second() {
        let start = Instant::now();
        let mut bucket = TokenBucket::full(start);
        let mut take = |attempts, now| {
            (0..attempts)
                .filter(|_| bucket.take(Rate::per_second(10), now))
                .count()
        };
        assert_eq!(take(100, start), 10);
        assert_eq!(take(100, start + Duration::from_millis(500)), 5);
        assert_eq!(take(100, start + Duration::from_secs(3600)), 10);
        assert!(!TokenBucket::full(start).take(Rate::per_second(0), start));
    }
}
