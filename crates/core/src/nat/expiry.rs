//! When a session ends that nobody uses: one list for each timeout class, oldest first. What a
//! session is besides its timer is no matter here.
//!
//! All sessions of a class live equally long after their last refresh, so a refresh is a move to
//! the tail and the next to expire is the head: both O(1), whatever the number of sessions. How
//! long that is may change at any time: a list knows only since when its sessions are silent.

use super::endpoint::Protocol;
use super::settings::Timeouts;
use slab::Slab;
use std::time::{Duration, Instant};

const NONE: u32 = u32::MAX;

/// Where questions go that have one answer: after it nobody needs their port (RFC 4787 REQ-5a).
const DNS: u16 = 53;

/// What a session's lifetime depends on.
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

    /// That of a new session, by the port of its far end.
    pub(super) fn new(protocol: Protocol, remote: u16) -> Self {
        match protocol {
            Protocol::Tcp => Self::Opening,
            Protocol::Udp if remote == DNS => Self::Dns,
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

    /// For each class, the last refresh of those whose time has come.
    pub(super) fn over(&self, now: Instant) -> [Option<Instant>; Class::COUNT] {
        Class::ALL.map(|class| now.checked_sub(self.of(class)))
    }
}

/// A session's place in the list of its class.
#[derive(Debug)]
pub(super) struct Timer {
    pub class: Class,
    /// The last refresh.
    pub since: Instant,
    older: u32,
    newer: u32,
}

impl Timer {
    /// In no list yet: [`Expiry::add`] puts it there.
    pub(super) fn new(class: Class, since: Instant) -> Self {
        Self {
            class,
            since,
            older: NONE,
            newer: NONE,
        }
    }
}

#[derive(Debug, Clone, Copy)]
struct List {
    oldest: u32,
    newest: u32,
}

/// The lists. An index in a list always names a live session: it leaves both together.
#[derive(Debug)]
pub(super) struct Expiry {
    lists: [List; Class::COUNT],
}

impl Expiry {
    pub(super) fn new() -> Self {
        let empty = List {
            oldest: NONE,
            newest: NONE,
        };
        Self {
            lists: [empty; Class::COUNT],
        }
    }

    /// Puts a session at the tail of its class; its last refresh is not before the others' there.
    pub(super) fn add<S: AsMut<Timer>>(&mut self, sessions: &mut Slab<S>, index: u32) {
        let timer = sessions[index as usize].as_mut();
        let list = &mut self.lists[timer.class as usize];
        timer.older = list.newest;
        timer.newer = NONE;
        match std::mem::replace(&mut list.newest, index) {
            NONE => list.oldest = index,
            last => sessions[last as usize].as_mut().newer = index,
        }
    }

    /// Takes a session out of its list.
    pub(super) fn remove<S: AsMut<Timer>>(&mut self, sessions: &mut Slab<S>, index: u32) {
        let Timer {
            class,
            older,
            newer,
            ..
        } = *sessions[index as usize].as_mut();
        let list = &mut self.lists[class as usize];
        match older {
            NONE => list.oldest = newer,
            older => sessions[older as usize].as_mut().newer = newer,
        }
        match newer {
            NONE => list.newest = older,
            newer => sessions[newer as usize].as_mut().older = older,
        }
    }

    /// A session's time begins anew, in this class or another.
    pub(super) fn refresh<S: AsMut<Timer>>(
        &mut self,
        sessions: &mut Slab<S>,
        index: u32,
        class: Class,
        now: Instant,
    ) {
        let stays = self.lists[class as usize].newest == index;
        if !stays {
            self.remove(sessions, index);
        }
        let timer = sessions[index as usize].as_mut();
        timer.class = class;
        timer.since = now;
        if !stays {
            self.add(sessions, index);
        }
    }

    /// A session whose time has come, as [`Timeouts::over`] says.
    pub(super) fn due<S: AsRef<Timer>>(
        &self,
        sessions: &Slab<S>,
        over: &[Option<Instant>; Class::COUNT],
    ) -> Option<u32> {
        let heads = self.lists.iter().map(|list| list.oldest).zip(over);
        let is_over = |i: &u32, over| Some(sessions[*i as usize].as_ref().since) <= over;
        { heads }
            .find(|(i, over)| *i != NONE && is_over(i, **over))
            .map(|(i, _)| i)
    }

    /// When the next session's time comes.
    pub(super) fn next<S: AsRef<Timer>>(
        &self,
        sessions: &Slab<S>,
        timeouts: &Timeouts,
    ) -> Option<Instant> {
        let heads = self.lists.iter().zip(Class::ALL);
        let heads = heads.filter(|(list, _)| list.oldest != NONE);
        let deadline = |(list, class): (&List, _)| {
            sessions[list.oldest as usize].as_ref().since + timeouts.of(class)
        };
        heads.map(deadline).min()
    }
}
