//! Reasons why clients cannot connect, in the words of the log, of the reports and of
//! `vcgate peer why`.
//!
//! It recognizes nothing: the tunnel does.

use super::time::Timestamp;
use crate::keys::PublicKey;
use serde::{Deserialize, Serialize};
use std::net::{IpAddr, SocketAddr};
use utoipa::ToSchema;

/// A failed handshake, or another reason why a client does not work.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct Failure {
    /// The time of the datagram.
    #[schema(value_type = String)]
    pub time: Timestamp,
    /// The sender of the datagram.
    #[schema(value_type = String)]
    pub source: SocketAddr,
    /// The reason.
    #[serde(flatten)]
    pub cause: Cause,
}

/// The reason of a [`Failure`].
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(tag = "cause", rename_all = "snake_case")]
pub enum Cause {
    /// No peer has the client's public key.
    UnknownKey {
        /// The client's public key.
        #[schema(value_type = String)]
        public_key: PublicKey,
    },
    /// The handshake was made for another public key than the endpoint's.
    WrongServerKey,
    /// The handshake is damaged or forged.
    NotAuthentic,
    /// The preshared keys differ.
    PresharedKey,
    /// The client never confirms the endpoint's answers.
    AnswersUnconfirmed,
    /// The client's time stamp is older than an earlier one.
    OldTimestamp,
    /// The client sends from an inner address that is not its own.
    SourceNotAllowed {
        /// The address.
        #[schema(value_type = String)]
        inner_address: IpAddr,
    },
    /// Two devices use the client's key.
    SharedKey {
        /// The other device's address.
        #[schema(value_type = String)]
        other_source: SocketAddr,
    },
}

impl Cause {
    /// Returns the reason in words, to follow a colon.
    pub fn meaning(&self) -> String {
        match self {
            Self::UnknownKey { public_key } => {
                format!("no peer has its public key {public_key}")
            }
            Self::WrongServerKey => {
                "its handshake was made for another public key than this endpoint's".into()
            }
            Self::NotAuthentic => "its handshake is damaged or forged".into(),
            Self::PresharedKey => "it has another preshared key, or none".into(),
            Self::AnswersUnconfirmed => {
                "its handshakes arrive and are answered, but it confirms no answer: most likely it \
                 has another preshared key; else the answers do not reach it"
                    .into()
            }
            Self::OldTimestamp => {
                "its handshake is older than an earlier one: its clock was set back, or someone \
                 replays an old handshake"
                    .into()
            }
            Self::SourceNotAllowed { inner_address } => {
                format!("it sends from {inner_address}, which is not in its allowed_ips")
            }
            Self::SharedKey { other_source } => format!(
                "two devices use its key, or its network alternates between two lines: the other \
                 one is at {other_source}"
            ),
        }
    }

    /// Returns what mends it. `peer` is the client's name, where that is known.
    pub fn remedy(&self, peer: Option<&str>) -> String {
        let name = peer.unwrap_or("NAME");
        match self {
            Self::UnknownKey { public_key } => format!(
                "hand out the client's file again (`vcgate peer show {name}`), or add a client \
                 that made its own key with `vcgate peer add NAME --public-key {public_key}`"
            ),
            Self::WrongServerKey | Self::PresharedKey => {
                format!("hand out the client's file again (`vcgate peer show {name}`)")
            }
            Self::NotAuthentic => "nothing, unless it lasts: then look at the path to it".into(),
            Self::AnswersUnconfirmed => format!(
                "hand out the client's file again (`vcgate peer show {name}`); if that does not \
                 help, look for a firewall that drops what leaves the endpoint's port"
            ),
            Self::OldTimestamp => {
                "set the client's clock; if it is right, restart vcgate, which forgets the old time"
                    .into()
            }
            Self::SourceNotAllowed { inner_address } => format!(
                "set Address in the client's file to its allowed_ips, or add {inner_address} to \
                 allowed_ips of peer {name}"
            ),
            Self::SharedKey { .. } => {
                "give each device a peer of its own with `vcgate peer add`".into()
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_cause_returns_from_json() {
        let source = "203.0.113.5:51820".parse().unwrap();
        let causes = [
            Cause::UnknownKey {
                public_key: [7; 32].into(),
            },
            Cause::WrongServerKey,
            Cause::NotAuthentic,
            Cause::PresharedKey,
            Cause::AnswersUnconfirmed,
            Cause::OldTimestamp,
            Cause::SourceNotAllowed {
                inner_address: [10, 8, 0, 99].into(),
            },
            Cause::SharedKey {
                other_source: source,
            },
        ];
        for cause in causes {
            let failure = Failure {
                time: Timestamp(1_700_000_000),
                source,
                cause,
            };
            let text = serde_json::to_string(&failure).unwrap();
            assert_eq!(serde_json::from_str::<Failure>(&text).unwrap(), failure);
        }
        let failure = Failure {
            time: Timestamp(1_700_000_000),
            source,
            cause: Cause::SourceNotAllowed {
                inner_address: [10, 8, 0, 99].into(),
            },
        };
        let text = concat!(
            r#"{"time":"2023-11-14T22:13:20Z","source":"203.0.113.5:51820","#,
            r#""cause":"source_not_allowed","inner_address":"10.8.0.99"}"#,
        );
        assert_eq!(serde_json::to_string(&failure).unwrap(), text);
    }
}
