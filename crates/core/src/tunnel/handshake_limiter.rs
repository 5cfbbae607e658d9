//! Admission of handshake messages, as in the kernel: the MAC first, then, under load, a cookie
//! that proves the source address, then a token bucket for that address.
//!
//! Only proven addresses get a bucket, so forged ones cannot fill the table. It never sees data
//! messages.

use super::DropReason;
use crate::token_bucket::{Rate, TokenBucket};
use boringtun::noise::TunnResult;
use boringtun::noise::errors::WireGuardError;
use boringtun::noise::rate_limiter::RateLimiter;
use boringtun::x25519::PublicKey;
use hashbrown::HashMap;
use std::net::{IpAddr, Ipv6Addr};
use std::time::{Duration, Instant};

/// Handshake messages per second above which senders must prove their address. Each costs about
/// 0.2 ms, so this is about a twentieth of a core.
pub(super) const LOAD_THRESHOLD: u64 = 250;
/// The window in which messages are counted, and the time for which load outlasts it (as in the
/// kernel).
const LOAD_WINDOW: Duration = Duration::from_secs(1);
/// The length of a cookie reply message, in bytes.
pub(super) const COOKIE_REPLY_LEN: usize = 64;

/// The limiter in front of one private key.
pub(super) struct HandshakeLimiter {
    /// Verifies the MAC.
    calm: RateLimiter,
    /// Verifies the MAC and the cookie.
    strict: RateLimiter,
    sources: SourceBuckets,
    window_start: Instant,
    count: u64,
    /// The end of the load. It outlasts the window: otherwise each second of a flood would begin
    /// with [`LOAD_THRESHOLD`] messages from unproven addresses.
    load_until: Instant,
}

impl HandshakeLimiter {
    /// Returns a limiter for messages to the owner of this public key.
    pub(super) fn new(public: &PublicKey, now: Instant) -> Self {
        Self {
            calm: RateLimiter::new(public, u64::MAX),
            strict: RateLimiter::new(public, 0),
            sources: SourceBuckets::default(),
            window_start: now,
            count: 0,
            load_until: now,
        }
    }

    /// Decides whether a handshake message from `source` is processed.
    ///
    /// # Errors
    /// The reason to drop it; with [`DropReason::CookieSent`], `cookie` holds the reply to send.
    pub(super) fn admit(
        &mut self,
        source: IpAddr,
        datagram: &[u8],
        cookie: &mut [u8; COOKIE_REPLY_LEN],
        now: Instant,
    ) -> Result<(), DropReason> {
        let source = source.to_canonical();
        if now.saturating_duration_since(self.window_start) >= LOAD_WINDOW {
            (self.window_start, self.count) = (now, 0);
        }
        let loaded = self.count >= LOAD_THRESHOLD || now < self.load_until;
        let limiter = if loaded { &self.strict } else { &self.calm };
        let verdict = match limiter.verify_packet(Some(source), datagram, cookie) {
            Ok(_) if loaded && !self.sources.take(source, now) => Err(DropReason::RateLimited),
            Ok(_) => Ok(()),
            Err(TunnResult::WriteToNetwork(_)) => Err(DropReason::CookieSent),
            Err(TunnResult::Err(WireGuardError::InvalidMac)) => return Err(DropReason::Mac),
            Err(_) => return Err(DropReason::Malformed),
        };
        self.count += 1;
        if self.count >= LOAD_THRESHOLD {
            self.load_until = now + LOAD_WINDOW;
        }
        verdict
    }
}

/// Handshake messages that one source may send under load.
pub(super) const SOURCE_RATE: Rate = Rate {
    per_second: 20,
    burst: 5,
};
/// Maximum number of sources with a bucket.
const MAX_SOURCES: usize = 8192;
/// Minimum time between two searches of a full table for sources to remove.
const SWEEP_INTERVAL: Duration = Duration::from_secs(1);

/// The token buckets by source address; in IPv6 by /64, which is the network of one site.
#[derive(Debug, Default)]
struct SourceBuckets {
    buckets: HashMap<IpAddr, TokenBucket>,
    next_sweep: Option<Instant>,
}

impl SourceBuckets {
    fn take(&mut self, source: IpAddr, now: Instant) -> bool {
        let source = site(source);
        if self.buckets.len() >= MAX_SOURCES && !self.buckets.contains_key(&source) {
            self.sweep(now);
            if self.buckets.len() >= MAX_SOURCES {
                return false;
            }
        }
        let bucket = self.buckets.entry(source);
        let bucket = bucket.or_insert_with(|| TokenBucket::full(now));
        bucket.take(SOURCE_RATE, now)
    }

    fn sweep(&mut self, now: Instant) {
        if self.next_sweep.is_none_or(|at| at <= now) {
            self.buckets.retain(|_, bucket| !bucket.is_full(now));
            self.next_sweep = Some(now + SWEEP_INTERVAL);
        }
    }
}

/// Returns the address that stands for all of the source's site.
pub(super) fn site(source: IpAddr) -> IpAddr {
    match source {
        IpAddr::V4(_) => source,
        IpAddr::V6(a) => Ipv6Addr::from_bits(a.to_bits() & (u128::MAX << 64)).into(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_source_has_its_own_bucket_and_an_ipv6_64_is_one_source() {
        let (mut sources, now) = (SourceBuckets::default(), Instant::now());
        let v6 = |n: u128| IpAddr::V6(Ipv6Addr::from_bits(0x2001_0db8_u128 << 96 | n));
        for n in 0..u128::from(SOURCE_RATE.burst) {
            assert!(sources.take(v6(n), now));
        }
        assert!(!sources.take(v6(99), now));
        assert!(sources.take(v6(1 << 64), now));
        assert!(sources.take([192, 0, 2, 1].into(), now));
    }

    #[test]
    fn the_table_is_bounded_and_drops_quiet_sources() {
        let (mut sources, now) = (SourceBuckets::default(), Instant::now());
        let source = |n: u32| IpAddr::V4(std::net::Ipv4Addr::from_bits(n));
        for n in 0..MAX_SOURCES as u32 {
            assert!(sources.take(source(n), now));
        }
        assert!(!sources.take(source(1 << 31), now));
        assert!(
            sources.take(source(0), now),
            "a known source keeps its bucket"
        );
        assert_eq!(sources.buckets.len(), MAX_SOURCES);
        assert!(sources.take(source(1 << 31), now + SWEEP_INTERVAL));
        assert_eq!(sources.buckets.len(), 1);
    }
}
