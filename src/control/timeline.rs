//! The SMB timeline as data: `vcgate smb --follow` requests and prints it.
//!
//! Entries are numbered from 1. A follower requests the entries from a number on, again and again:
//! the endpoint keeps no state for it, and a gap in the numbers shows the entries that it missed.

use super::time::TimestampMillis;
use serde::{Deserialize, Serialize};
use std::net::SocketAddr;
use utoipa::ToSchema;

/// Consecutive entries of the timeline, oldest first.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct Timeline {
    /// The number that the next entry will get.
    pub next: u64,
    /// The entries from the requested number on, or from the oldest that is stored.
    pub entries: Vec<Entry>,
}

/// One event on a flow to a file server.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct Entry {
    /// Increases by one from entry to entry.
    pub number: u64,
    /// The time of the event.
    #[schema(value_type = String)]
    pub time: TimestampMillis,
    /// The peer's name.
    pub peer: String,
    /// The client's address and port, inside the tunnel.
    #[schema(value_type = String)]
    pub client: SocketAddr,
    /// The server's address and port.
    #[schema(value_type = String)]
    pub server: SocketAddr,
    /// The event.
    #[serde(flatten)]
    pub what: EventKind,
}

/// The kinds of events, each with its data.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(tag = "event", rename_all = "snake_case")]
pub enum EventKind {
    /// The client sent a SESSION_SETUP_ANDX; a logon with extended security takes two or more.
    Logon {
        /// The VcNumber that the client sent.
        vc_sent: u16,
        /// The VcNumber that the server got.
        vc_forwarded: u16,
        /// Whether the hook changed the VcNumber, and if not, why.
        outcome: LogonOutcome,
        /// `NT LM 0.12` or `LANMAN`; `None` if the server's choice was not seen.
        dialect: Option<String>,
        /// The request is part of an exchange of several.
        extended_security: bool,
        /// The request carried a signature.
        signed: bool,
        /// The server's signing mode; `None` if it was not seen.
        server_signing: Option<ServerSigning>,
    },
    /// From here on, signatures cover the session setups of this flow.
    Signed,
    /// From here on, the hook forwards the flow unread.
    Bypass {
        /// The name of the reason.
        reason: String,
    },
    /// The hook reset the connection: too many session setups waited for the server's
    /// acknowledgement.
    Aborted,
    /// The hook reset the connection: it could not be read, and no logon was accepted before.
    Unreadable {
        /// Why it could not be read.
        reason: String,
    },
    /// The client has connected again; this is its older flow.
    Stale {
        /// The result for the older flow.
        outcome: StaleOutcome,
        /// The result in words.
        text: String,
    },
    /// The server ended the connection before the client did.
    Closed {
        /// The segment that ended it.
        how: Closing,
        /// The logon that was the likely cause.
        cause: Option<Cause>,
    },
    /// Within a second after this client's logon, the server dropped several other clients.
    MassDisconnect {
        /// Why the logon was not changed.
        why: String,
    },
}

/// The hook's action on the VcNumber of a logon.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "snake_case")]
pub enum LogonOutcome {
    /// Forwarded as it was: it is the flow's own number already.
    Preserved,
    /// Replaced.
    Rewritten,
    /// Forwarded as it was: a signature covers it.
    Signed,
    /// Forwarded as it was: the hook only observes.
    Observed,
    /// Forwarded as it was: the flow is in bypass.
    Unread,
}

/// The signing mode that a server announces.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "snake_case")]
pub enum ServerSigning {
    /// No signatures.
    Off,
    /// Signatures if the client wants them.
    Enabled,
    /// Signatures always.
    Required,
}

impl ServerSigning {
    /// The name, as in JSON.
    pub fn name(self) -> &'static str {
        match self {
            Self::Off => "off",
            Self::Enabled => "enabled",
            Self::Required => "required",
        }
    }
}

/// The result for an older flow of a client that connected again.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "snake_case")]
pub enum StaleOutcome {
    /// The hook sent the client a probe.
    Probed,
    /// The client still uses it: not changed.
    Alive,
    /// The client no longer knows it: reset.
    Unknown,
    /// The client did not answer the probe: reset.
    Silent,
    /// Reset without a probe.
    Reset,
    /// Not changed, since the hook only observes.
    Observed,
}

/// The segment by which a server ended a connection.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "snake_case")]
pub enum Closing {
    /// FIN.
    Fin,
    /// RST.
    Rst,
}

impl Closing {
    /// The flag's name in RFC 9293.
    pub fn name(self) -> &'static str {
        match self {
            Self::Fin => "FIN",
            Self::Rst => "RST",
        }
    }
}

/// A logon that may have made the server drop another client.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct Cause {
    /// The peer's name.
    pub peer: String,
    /// Its address and port, inside the tunnel.
    #[schema(value_type = String)]
    pub client: SocketAddr,
    /// Why the logon was not changed.
    pub why: String,
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Scripts rely on these names.
    #[test]
    fn json_names_are_stable() {
        let entry = |what| Entry {
            number: 7,
            time: TimestampMillis(1_700_000_000_123),
            peer: "anna".into(),
            client: "10.8.0.11:49152".parse().unwrap(),
            server: "192.168.77.10:445".parse().unwrap(),
            what,
        };
        let head = concat!(
            r#"{"number":7,"time":"2023-11-14T22:13:20.123Z","peer":"anna","#,
            r#""client":"10.8.0.11:49152","server":"192.168.77.10:445","event":"#
        );
        let cause = Cause {
            peer: "berta".into(),
            client: "10.8.0.12:49152".parse().unwrap(),
            why: "signed".into(),
        };
        for (what, tail) in [
            (
                EventKind::Logon {
                    vc_sent: 0,
                    vc_forwarded: 3,
                    outcome: LogonOutcome::Rewritten,
                    dialect: Some("NT LM 0.12".into()),
                    extended_security: true,
                    signed: false,
                    server_signing: Some(ServerSigning::Required),
                },
                concat!(
                    r#""logon","vc_sent":0,"vc_forwarded":3,"outcome":"rewritten","#,
                    r#""dialect":"NT LM 0.12","#,
                    r#""extended_security":true,"signed":false,"server_signing":"required"}"#
                ),
            ),
            (
                EventKind::Stale {
                    outcome: StaleOutcome::Alive,
                    text: "still in use".into(),
                },
                r#""stale","outcome":"alive","text":"still in use"}"#,
            ),
            (EventKind::Signed, r#""signed"}"#),
            (EventKind::Aborted, r#""aborted"}"#),
            (
                EventKind::Unreadable {
                    reason: "protocol".into(),
                },
                r#""unreadable","reason":"protocol"}"#,
            ),
            (
                EventKind::Bypass {
                    reason: "smb2".into(),
                },
                r#""bypass","reason":"smb2"}"#,
            ),
            (
                EventKind::Closed {
                    how: Closing::Rst,
                    cause: Some(cause),
                },
                concat!(
                    r#""closed","how":"rst","cause":{"peer":"berta","#,
                    r#""client":"10.8.0.12:49152","why":"signed"}}"#
                ),
            ),
        ] {
            let entry = entry(what);
            let text = format!("{head}{tail}");
            assert_eq!(serde_json::to_string(&entry).unwrap(), text);
            assert_eq!(serde_json::from_str::<Entry>(&text).unwrap(), entry);
        }
    }
}
