//! Session expiry: one list per timeout class, oldest first.
//!
//! All sessions of a class live equally long after their last refresh, so a refresh moves a session
//! to the tail and the head expires next: both O(1), whatever the number of sessions. The lists
//! store the time of the refresh, not the deadline, so timeouts can change at any time. Of a session
//! they see only its timer.

use super::endpoint::{Protocol, SessionId};
use super::settings::Timeouts;
use slab::Slab;
use std::time::{Duration, Instant};

/// The port of DNS servers: one answer ends an exchange (RFC 4787 REQ-5a).
const DNS_PORT: u16 = 53;

/// The timeout class of a session.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Class {
    Udp,
    Dns,
    Echo,
    Opening,
    Established,
    Closing,
}

impl Class {
    const COUNT: usize = 6;
    const ALL: [Self; Self::COUNT] = [
        Self::Udp,
        Self::Dns,
        Self::Echo,
        Self::Opening,
        Self::Established,
        Self::Closing,
    ];

    /// Returns the class of a new session.
    pub(super) fn new(protocol: Protocol, remote_port: u16) -> Self {
        match protocol {
            Protocol::Tcp => Self::Opening,
            Protocol::Udp if remote_port == DNS_PORT => Self::Dns,
            Protocol::Udp => Self::Udp,
            Protocol::Echo => Self::Echo,
        }
    }
}

impl Timeouts {
    pub(super) fn of(&self, class: Class) -> Duration {
        match class {
            Class::Udp => self.udp,
            Class::Dns => self.dns,
            Class::Echo => self.echo,
            Class::Opening => self.tcp_opening,
            Class::Established => self.tcp_established,
            Class::Closing => self.tcp_closing,
        }
    }

    /// Returns for each class the time up to which a last refresh means that the session expired.
    pub(super) fn expired_since(&self, now: Instant) -> [Option<Instant>; Class::COUNT] {
        Class::ALL.map(|class| now.checked_sub(self.of(class)))
    }
}

/// The timer of a session, and its neighbours in the list of its class.
#[derive(Debug)]
pub(super) struct Timer {
    pub class: Class,
    /// The time of the last refresh.
    pub since: Instant,
    prev: SessionId,
    next: SessionId,
}

impl Timer {
    /// Returns a timer that is in no list yet; see [`Expiry::add`].
    pub(super) fn new(class: Class, since: Instant) -> Self {
        Self {
            class,
            since,
            prev: SessionId::NONE,
            next: SessionId::NONE,
        }
    }
}

#[derive(Debug, Clone, Copy)]
struct List {
    oldest: SessionId,
    newest: SessionId,
}

/// The expiry lists. An id in a list always refers to a live session.
#[derive(Debug)]
pub(super) struct Expiry {
    lists: [List; Class::COUNT],
}

impl Expiry {
    pub(super) fn new() -> Self {
        let empty = List {
            oldest: SessionId::NONE,
            newest: SessionId::NONE,
        };
        Self {
            lists: [empty; Class::COUNT],
        }
    }

    /// Appends a session to the list of its class, where no other was refreshed later.
    pub(super) fn add<S: AsMut<Timer>>(&mut self, sessions: &mut Slab<S>, id: SessionId) {
        let timer = sessions[id.index()].as_mut();
        let list = &mut self.lists[timer.class as usize];
        timer.prev = list.newest;
        timer.next = SessionId::NONE;
        match std::mem::replace(&mut list.newest, id) {
            SessionId::NONE => list.oldest = id,
            last => sessions[last.index()].as_mut().next = id,
        }
    }

    /// Removes a session from its list.
    pub(super) fn remove<S: AsMut<Timer>>(&mut self, sessions: &mut Slab<S>, id: SessionId) {
        let Timer {
            class, prev, next, ..
        } = *sessions[id.index()].as_mut();
        let list = &mut self.lists[class as usize];
        match prev {
            SessionId::NONE => list.oldest = next,
            prev => sessions[prev.index()].as_mut().next = next,
        }
        match next {
            SessionId::NONE => list.newest = prev,
            next => sessions[next.index()].as_mut().prev = prev,
        }
    }

    /// Restarts the timer of a session, in the same class or another.
    pub(super) fn refresh<S: AsMut<Timer>>(
        &mut self,
        sessions: &mut Slab<S>,
        id: SessionId,
        class: Class,
        now: Instant,
    ) {
        let stays = self.lists[class as usize].newest == id;
        if !stays {
            self.remove(sessions, id);
        }
        let timer = sessions[id.index()].as_mut();
        timer.class = class;
        timer.since = now;
        if !stays {
            self.add(sessions, id);
        }
    }

    /// Returns an expired session; see [`Timeouts::expired_since`].
    pub(super) fn expired<S: AsRef<Timer>>(
        &self,
        sessions: &Slab<S>,
        since: &[Option<Instant>; Class::COUNT],
    ) -> Option<SessionId> {
        let heads = self.lists.iter().zip(since);
        { heads }
            .filter_map(|(list, since)| Some((list.oldest.get()?, (*since)?)))
            .find(|(id, since)| sessions[id.index()].as_ref().since <= *since)
            .map(|(id, _)| id)
    }

    /// Returns when the next session expires.
    pub(super) fn next<S: AsRef<Timer>>(
        &self,
        sessions: &Slab<S>,
        timeouts: &Timeouts,
    ) -> Option<Instant> {
        let heads = self.lists.iter().zip(Class::ALL);
        { heads }
            .filter_map(|(list, class)| Some((list.oldest.get()?, class)))
            .map(|(id, class)| sessions[id.index()].as_ref().since + timeouts.of(class))
            .min()
    }
}
