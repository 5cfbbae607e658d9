//! The gate in front of every handshake message, as the kernel has it: first the MAC, then, under
//! load, a cookie that proves the source address, then a token bucket for that address.
//!
//! Only addresses that were proven get a bucket, so nobody fills the table with forged ones. Data
//! packets never come here.

use super::DropReason;
use boringtun::noise::TunnResult;
use boringtun::noise::errors::WireGuardError;
use boringtun::noise::rate_limiter::RateLimiter;
use boringtun::x25519::PublicKey;
use hashbrown::HashMap;
use std::net::{IpAddr, Ipv6Addr};
use std::time::{Duration, Instant};

/// Handshake messages a second above which senders must prove their address. Each costs about
/// 0.2 ms, so this is about a twentieth of a core.
pub const LOAD: u64 = 250;
/// The window in which messages are counted, and how long load outlasts them (as in the kernel).
const WINDOW: Duration = Duration::from_secs(1);
/// The length of a cookie reply message.
pub const COOKIE_REPLY: usize = 64;

/// The gate of one private key.
pub struct HandshakeLimiter {
    /// Asks for the MAC.
    calm: RateLimiter,
    /// Asks for a cookie, too.
    strict: RateLimiter,
    buckets: Buckets,
    window: Instant,
    count: u64,
    /// Under load until then. A flood is one flood, however the seconds are counted: each new one
    /// would else begin with [`LOAD`] messages that nobody proved anything for.
    load_until: Instant,
}

impl HandshakeLimiter {
    /// A gate for messages to the owner of this public key.
    pub fn new(public: &PublicKey, now: Instant) -> Self {
        Self {
            calm: RateLimiter::new(public, u64::MAX),
            strict: RateLimiter::new(public, 0),
            buckets: Buckets::default(),
            window: now,
            count: 0,
            load_until: now,
        }
    }

    /// Whether a handshake message from `source` may pass; if not and a cookie is due, it is
    /// written to `cookie`.
    pub fn admit(
        &mut self,
        source: IpAddr,
        datagram: &[u8],
        cookie: &mut [u8; COOKIE_REPLY],
        now: Instant,
    ) -> Result<(), DropReason> {
        let source = source.to_canonical();
        if now.saturating_duration_since(self.window) >= WINDOW {
            (self.window, self.count) = (now, 0);
        }
        let loaded = self.count >= LOAD || now < self.load_until;
        let limiter = if loaded { &self.strict } else { &self.calm };
        let verdict = match limiter.verify_packet(Some(source), datagram, cookie) {
            Ok(_) if loaded && !self.buckets.take(source, now) => Err(DropReason::RateLimited),
            Ok(_) => Ok(()),
            Err(TunnResult::WriteToNetwork(_)) => Err(DropReason::CookieSent),
            Err(TunnResult::Err(WireGuardError::InvalidMac)) => return Err(DropReason::Mac),
            Err(_) => return Err(DropReason::Malformed),
        };
        self.count += 1;
        if self.count >= LOAD {
            self.load_until = now + WINDOW;
        }
        verdict
    }
}

/// Handshakes a second that one source may begin under load.
const RATE: u32 = 20;
/// How many of them may come at once.
pub const BURST: u32 = 5;
/// The most sources that are remembered.
const MOST_SOURCES: usize = 8192;
/// How often at most a full table is searched for sources to forget.
const SWEEP: Duration = Duration::from_secs(1);

/// A token bucket for each source address; IPv6 by /64, which is what one site has.
#[derive(Debug, Default)]
struct Buckets {
    /// When the bucket of a source will be full again: a bucket that is full need not be kept.
    full_at: HashMap<IpAddr, Instant>,
    sweep_at: Option<Instant>,
}

impl Buckets {
    fn take(&mut self, source: IpAddr, now: Instant) -> bool {
        let token = Duration::from_secs(1) / RATE;
        let source = site(source);
        if self.full_at.len() >= MOST_SOURCES && !self.full_at.contains_key(&source) {
            self.sweep(now);
            if self.full_at.len() >= MOST_SOURCES {
                return false;
            }
        }
        let full_at = self.full_at.entry(source).or_insert(now);
        let after = (*full_at).max(now) + token;
        if after > now + token * BURST {
            return false;
        }
        *full_at = after;
        true
    }

    fn sweep(&mut self, now: Instant) {
        if self.sweep_at.is_none_or(|at| at <= now) {
            self.full_at.retain(|_, full_at| *full_at > now);
            self.sweep_at = Some(now + SWEEP);
        }
    }
}

fn site(source: IpAddr) -> IpAddr {
    match source {
        IpAddr::V4(_) => source,
        IpAddr::V6(a) => Ipv6Addr::from_bits(a.to_bits() & (u128::MAX << 64)).into(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        /// The oracle counts tokens as a bucket does, in exact fractions.
        #[test]
        fn a_source_gets_a_burst_and_then_its_rate(gaps_ms in prop::collection::vec(0u64..120, 1..100)) {
            let (mut buckets, mut now) = (Buckets::default(), Instant::now());
            let mut tokens_ms = u64::from(BURST) * 50;
            for gap in gaps_ms {
                now += Duration::from_millis(gap);
                tokens_ms = (tokens_ms + gap).min(u64::from(BURST) * 50);
                let expected = tokens_ms >= 50;
                if expected { tokens_ms -= 50; }
                prop_assert_eq!(buckets.take([192, 0, 2, 1].into(), now), expected);
            }
        }
    }

    #[test]
    fn sources_do_not_share_but_a_slash_64_is_one_source() {
        let (mut buckets, now) = (Buckets::default(), Instant::now());
        let v6 = |n: u128| IpAddr::V6(Ipv6Addr::from_bits(0x2001_0db8_u128 << 96 | n));
        for n in 0..u128::from(BURST) {
            assert!(buckets.take(v6(n), now));
        }
        assert!(!buckets.take(v6(99), now));
        assert!(buckets.take(v6(1 << 64), now));
        assert!(buckets.take([192, 0, 2, 1].into(), now));
    }

    #[test]
    fn the_table_is_bounded_and_forgets_sources_that_are_quiet() {
        let (mut buckets, now) = (Buckets::default(), Instant::now());
        let source = |n: u32| IpAddr::V4(std::net::Ipv4Addr::from_bits(n));
        for n in 0..MOST_SOURCES as u32 {
            assert!(buckets.take(source(n), now));
        }
        assert!(!buckets.take(source(1 << 31), now));
        assert!(buckets.take(source(0), now), "a known source has its own");
        assert_eq!(buckets.full_at.len(), MOST_SOURCES);
        assert!(buckets.take(source(1 << 31), now + SWEEP));
        assert_eq!(buckets.full_at.len(), 1);
    }
}
