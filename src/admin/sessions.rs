//! The sessions of administrators who have logged in, and the one-time links for client files.
//!
//! It has no clock and makes no random numbers: both are parameters. Everything is in memory and
//! bounded, so that a restart ends all sessions and links.

use crate::admin::token::Token;
use std::collections::HashMap;
use std::time::{Duration, Instant};
use subtle::ConstantTimeEq as _;

/// A session without requests ends after this time.
const IDLE_TIMEOUT: Duration = Duration::from_secs(3600);
/// A session ends after this time in any case.
pub(super) const MAX_AGE: Duration = Duration::from_secs(12 * 3600);
/// Maximum number of sessions; the one that was idle longest ends for a new one.
const MAX_SESSIONS: usize = 64;
/// Maximum number of links; the one that expires first goes for a new one.
const MAX_LINKS: usize = 1024;

/// A session of an administrator.
#[derive(Debug, Clone)]
pub(super) struct Session {
    /// The administrator's name.
    pub user: String,
    /// The token that changes must repeat.
    pub csrf: Token,
    /// Whether a reverse proxy has logged the user in, and must name the user each time.
    pub by_proxy: bool,
    began: Instant,
    last_used: Instant,
}

impl Session {
    fn is_over(&self, now: Instant) -> bool {
        let age = now.saturating_duration_since(self.began);
        let idle = now.saturating_duration_since(self.last_used);
        age >= MAX_AGE || idle >= IDLE_TIMEOUT
    }

    /// Whether a request repeats the token.
    pub(super) fn has_csrf(&self, given: &str) -> bool {
        self.csrf.as_str().as_bytes().ct_eq(given.as_bytes()).into()
    }
}

/// All sessions.
#[derive(Debug, Default)]
pub(super) struct Sessions {
    sessions: HashMap<Token, Session>,
}

impl Sessions {
    /// Begins a session.
    pub(super) fn begin(
        &mut self,
        id: Token,
        user: String,
        csrf: Token,
        by_proxy: bool,
        now: Instant,
    ) {
        self.sessions.retain(|_, session| !session.is_over(now));
        if self.sessions.len() >= MAX_SESSIONS {
            let oldest = self.sessions.iter().min_by_key(|(_, s)| s.last_used);
            if let Some(id) = oldest.map(|(id, _)| id.clone()) {
                self.sessions.remove(&id);
            }
        }
        let session = Session {
            user,
            csrf,
            by_proxy,
            began: now,
            last_used: now,
        };
        self.sessions.insert(id, session);
    }

    /// Returns a session that is not over, and records that it is used.
    pub(super) fn use_session(&mut self, id: &str, now: Instant) -> Option<Session> {
        let session = self.sessions.get_mut(id)?;
        if session.is_over(now) {
            self.sessions.remove(id);
            return None;
        }
        session.last_used = now;
        Some(session.clone())
    }

    /// Ends a session.
    pub(super) fn end(&mut self, id: &str) {
        self.sessions.remove(id);
    }
}

/// A link by which one client file can be fetched once.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Link {
    peer: String,
    expires: Instant,
}

/// All links that were not used.
#[derive(Debug, Default)]
pub(super) struct Links {
    links: HashMap<Token, Link>,
}

impl Links {
    /// Makes a link to a peer's file.
    pub(super) fn add(&mut self, token: Token, peer: String, valid: Duration, now: Instant) {
        self.links.retain(|_, link| link.expires > now);
        if self.links.len() >= MAX_LINKS {
            let first = self.links.iter().min_by_key(|(_, link)| link.expires);
            if let Some(token) = first.map(|(token, _)| token.clone()) {
                self.links.remove(&token);
            }
        }
        let expires = now + valid;
        self.links.insert(token, Link { peer, expires });
    }

    /// Returns the peer of a link, which stays valid.
    pub(super) fn peer(&self, token: &str, now: Instant) -> Option<&str> {
        let link = self.links.get(token).filter(|link| link.expires > now)?;
        Some(&link.peer)
    }

    /// Returns the peer of a link, which is used up.
    pub(super) fn take(&mut self, token: &str, now: Instant) -> Option<String> {
        let link = self.links.remove(token)?;
        (link.expires > now).then_some(link.peer)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn token(number: u8) -> Token {
        Token::from([number; 32])
    }

    #[test]
    fn a_session_ends_when_it_is_idle_or_old() {
        let now = Instant::now();
        let mut sessions = Sessions::default();
        sessions.begin(token(1), "admin".into(), token(2), false, now);
        let id = token(1);
        let minutes = |count: u64| now + Duration::from_secs(count * 60);
        assert_eq!(
            sessions
                .use_session(id.as_str(), minutes(59))
                .map(|s| s.user),
            Some("admin".to_owned())
        );
        assert!(sessions.use_session("other", minutes(60)).is_none());
        assert!(sessions.use_session(id.as_str(), minutes(119)).is_none());
        sessions.begin(token(1), "admin".into(), token(2), false, now);
        for minute in (0..720).step_by(30) {
            assert!(sessions.use_session(id.as_str(), minutes(minute)).is_some());
        }
        assert!(sessions.use_session(id.as_str(), minutes(720)).is_none());
        sessions.begin(token(1), "admin".into(), token(2), false, now);
        sessions.end(id.as_str());
        assert!(sessions.use_session(id.as_str(), now).is_none());
    }

    #[test]
    fn the_session_that_was_idle_longest_ends_for_a_new_one() {
        let now = Instant::now();
        let mut sessions = Sessions::default();
        for number in 0..=MAX_SESSIONS {
            let at = now + Duration::from_secs(number as u64);
            sessions.begin(token(number as u8), "a".into(), token(0), false, at);
        }
        assert_eq!(sessions.sessions.len(), MAX_SESSIONS);
        let late = now + Duration::from_secs(100);
        assert!(sessions.use_session(token(0).as_str(), late).is_none());
        assert!(sessions.use_session(token(1).as_str(), late).is_some());
    }

    #[test]
    fn only_the_same_csrf_token_is_accepted() {
        let now = Instant::now();
        let mut sessions = Sessions::default();
        sessions.begin(token(1), "admin".into(), token(2), false, now);
        let session = sessions.use_session(token(1).as_str(), now).unwrap();
        assert!(session.has_csrf(token(2).as_str()));
        for wrong in ["", token(1).as_str(), &token(2).as_str()[1..]] {
            assert!(!session.has_csrf(wrong), "{wrong}");
        }
    }

    #[test]
    fn a_link_works_once_and_for_a_while() {
        let now = Instant::now();
        let hour = Duration::from_secs(3600);
        let mut links = Links::default();
        links.add(token(1), "anna".into(), hour, now);
        links.add(token(2), "ben".into(), hour, now);
        let one = token(1);
        assert_eq!(links.peer(one.as_str(), now), Some("anna"));
        assert_eq!(links.take(one.as_str(), now).as_deref(), Some("anna"));
        assert_eq!(links.take(one.as_str(), now), None);
        assert_eq!(links.peer(token(2).as_str(), now + hour), None);
        assert_eq!(links.take(token(2).as_str(), now + hour), None);
        for number in 0..=MAX_LINKS {
            let mut bytes = [9; 32];
            bytes[..8].copy_from_slice(&number.to_be_bytes());
            links.add(Token::from(bytes), "x".into(), hour, now);
        }
        assert_eq!(links.links.len(), MAX_LINKS);
    }
}
