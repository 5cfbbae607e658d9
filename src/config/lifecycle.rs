//! The administrative state of a peer: whether and how long it may connect, and what is noted about
//! it. It changes nothing by itself: the endpoint runs the peers that are active.

use crate::time::Timestamp;
use serde::{Deserialize, Serialize};
use std::time::SystemTime;
use utoipa::ToSchema;

/// The administrative state of a peer.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Lifecycle {
    /// Whether it is switched off.
    #[serde(default)]
    pub disabled: bool,
    /// The time from which it can no longer connect.
    #[serde(default)]
    pub expires: Option<Timestamp>,
    /// A text about it.
    #[serde(default)]
    pub note: Option<String>,
    /// The names of its groups.
    #[serde(default)]
    pub groups: Vec<String>,
}

/// Whether a peer can connect.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "snake_case")]
pub enum PeerState {
    /// It can.
    Enabled,
    /// It is switched off.
    Disabled,
    /// Its time is over.
    Expired,
}

impl PeerState {
    /// Returns the name, as in JSON.
    pub fn name(self) -> &'static str {
        match self {
            Self::Enabled => "enabled",
            Self::Disabled => "disabled",
            Self::Expired => "expired",
        }
    }
}

impl Lifecycle {
    /// Returns whether the peer can connect at this time.
    pub fn state(&self, now: SystemTime) -> PeerState {
        let has_expired = |expires: Timestamp| expires <= Timestamp::from(now);
        match self.disabled {
            true => PeerState::Disabled,
            false if self.expires.is_some_and(has_expired) => PeerState::Expired,
            false => PeerState::Enabled,
        }
    }

    /// Returns whether the peer can connect at this time.
    pub fn is_active(&self, now: SystemTime) -> bool {
        self.state(now) == PeerState::Enabled
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::time::{Duration, UNIX_EPOCH};

    #[test]
    fn a_peer_is_active_until_it_expires_unless_it_is_disabled() {
        let at = |seconds| UNIX_EPOCH + Duration::from_secs(seconds);
        let mut life = Lifecycle::default();
        assert_eq!(life.state(at(1_000)), PeerState::Enabled);
        life.expires = Some(Timestamp(1_000));
        assert_eq!(life.state(at(999)), PeerState::Enabled);
        assert_eq!(life.state(at(1_000)), PeerState::Expired);
        life.disabled = true;
        assert_eq!(life.state(at(1_000)), PeerState::Disabled);
    }
}
