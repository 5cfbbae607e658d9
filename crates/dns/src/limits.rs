//! The limits of each client: the rate of its questions, those that wait for an answer, and its
//! connections. It answers nothing.

use crate::names::Asker;
use std::collections::HashMap;
use std::net::IpAddr;
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};
use tokio::sync::{OwnedSemaphorePermit, Semaphore};

/// Maximum rate of a client's questions per second: a site with many users is one client.
const QUESTIONS_PER_SECOND: u32 = 500;
/// Maximum number of questions at once.
const BURST: u32 = 1000;
/// Maximum number of a client's questions that wait for an answer.
const MAX_WAITING: usize = 200;
/// Maximum number of a client's questions that wait for an answer of the LAN to a NetBIOS query.
const MAX_NETBIOS: usize = 4;
/// Maximum number of a client's connections.
const MAX_CONNECTIONS: usize = 8;
/// Maximum number of clients that are remembered, known or not.
const MAX_CLIENTS: usize = 16_384;
/// Interval between two warnings about one client.
const WARNING_INTERVAL: Duration = Duration::from_secs(60);

/// The clients that have asked.
#[derive(Debug, Default)]
pub(crate) struct Limits(Mutex<HashMap<Key, Arc<Client>>>);

/// A client, or the address of one that has no number.
type Key = (Asker, Option<IpAddr>);

/// The usage of one client.
#[derive(Debug)]
pub(crate) struct Client {
    bucket: Mutex<Bucket>,
    waiting: Arc<Semaphore>,
    netbios: Arc<Semaphore>,
    connections: Arc<Semaphore>,
}

/// A token bucket, stored as the time at which it is full again.
#[derive(Debug)]
struct Bucket {
    full_at: Instant,
    warned_at: Option<Instant>,
}

/// The reason for not taking a question.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Excess {
    /// The first one for some time: worth a warning.
    New,
    /// One of many.
    More,
}

impl Limits {
    /// Returns what a client uses. A client without a number is known by its address.
    pub(crate) fn of(&self, asker: Asker, address: IpAddr, now: Instant) -> Arc<Client> {
        let key = (asker, asker.is_none().then_some(address));
        let mut clients = self.0.lock().unwrap_or_else(|broken| broken.into_inner());
        if clients.len() >= MAX_CLIENTS && !clients.contains_key(&key) {
            clients.retain(|_, client| Arc::strong_count(client) > 1);
        }
        Arc::clone(
            clients
                .entry(key)
                .or_insert_with(|| Arc::new(Client::new(now))),
        )
    }

    /// Forgets all clients, whose numbers have changed.
    pub(crate) fn reset(&self) {
        let mut clients = self.0.lock().unwrap_or_else(|broken| broken.into_inner());
        clients.clear();
    }
}

impl Client {
    fn new(now: Instant) -> Self {
        let bucket = Bucket {
            full_at: now,
            warned_at: None,
        };
        Self {
            bucket: Mutex::new(bucket),
            waiting: Arc::new(Semaphore::new(MAX_WAITING)),
            netbios: Arc::new(Semaphore::new(MAX_NETBIOS)),
            connections: Arc::new(Semaphore::new(MAX_CONNECTIONS)),
        }
    }

    /// Takes a question. The permit lasts until it is answered.
    pub(crate) fn question(&self, now: Instant) -> Result<OwnedSemaphorePermit, Excess> {
        let mut bucket = self
            .bucket
            .lock()
            .unwrap_or_else(|broken| broken.into_inner());
        let permit = Arc::clone(&self.waiting).try_acquire_owned();
        match permit {
            Ok(permit) if bucket.take(now) => Ok(permit),
            _ => Err(bucket.excess(now)),
        }
    }

    /// Takes a NetBIOS query, if the client has not too many.
    pub(crate) fn netbios(&self) -> Option<OwnedSemaphorePermit> {
        Arc::clone(&self.netbios).try_acquire_owned().ok()
    }

    /// Takes a connection, if the client has not too many.
    pub(crate) fn connection(&self) -> Option<OwnedSemaphorePermit> {
        Arc::clone(&self.connections).try_acquire_owned().ok()
    }
}

impl Bucket {
    fn take(&mut self, now: Instant) -> bool {
        let interval = Duration::from_secs(1) / QUESTIONS_PER_SECOND;
        let full_at = self.full_at.max(now) + interval;
        let available = full_at <= now + interval * BURST;
        if available {
            self.full_at = full_at;
        }
        available
    }

    fn excess(&mut self, now: Instant) -> Excess {
        match self.warned_at {
            Some(at) if now < at + WARNING_INTERVAL => Excess::More,
            _ => {
                self.warned_at = Some(now);
                Excess::New
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_flood_is_limited_to_the_rate_and_leaves_others_alone() {
        let (limits, start) = (Limits::default(), Instant::now());
        let address = IpAddr::from([10, 8, 0, 11]);
        let flood = limits.of(Some(0), address, start);
        let taken = |seconds: u32, tries: u32| {
            let now = start + Duration::from_secs(1) * seconds;
            (0..tries).filter(|_| flood.question(now).is_ok()).count()
        };
        assert_eq!(taken(0, 5000), BURST as usize);
        assert_eq!(taken(1, 5000), QUESTIONS_PER_SECOND as usize);
        let other = limits.of(Some(1), address, start);
        assert!(other.question(start).is_ok());
        assert!(Arc::ptr_eq(
            &flood,
            &limits.of(Some(0), [10, 8, 0, 12].into(), start)
        ));
    }

    #[test]
    fn waiting_questions_are_limited_and_warned_of_once_a_minute() {
        let (limits, start) = (Limits::default(), Instant::now());
        let client = limits.of(None, [10, 8, 0, 11].into(), start);
        let mut waiting: Vec<_> = (0..MAX_WAITING)
            .map(|_| client.question(start).unwrap())
            .collect();
        assert_eq!(client.question(start).unwrap_err(), Excess::New);
        assert_eq!(client.question(start).unwrap_err(), Excess::More);
        let later = start + WARNING_INTERVAL;
        assert_eq!(client.question(later).unwrap_err(), Excess::New);
        waiting.pop();
        assert!(client.question(later).is_ok());
    }

    #[test]
    fn the_number_of_remembered_clients_is_bounded() {
        let (limits, start) = (Limits::default(), Instant::now());
        for number in 0..MAX_CLIENTS as u32 + 10 {
            let address = std::net::Ipv4Addr::from(number);
            limits.of(None, address.into(), start);
        }
        assert!(limits.0.lock().unwrap().len() <= MAX_CLIENTS);
    }
}
