//! `vcgate smb --follow`: prints events of the flows to file servers as they occur, a line each.

use super::output;
use std::thread::sleep;
use std::time::Duration;
use vcgate::control::client::Client;
use vcgate::control::timeline::{Entry, EventKind, LogonOutcome};
use vcgate_core::smb::Reason;

/// Time between two requests to the endpoint.
const POLL_INTERVAL: Duration = Duration::from_millis(250);

/// Prints the stored events, then new ones, until the endpoint stops or stdout is closed.
pub(super) fn run(client: &Client, json: bool) -> anyhow::Result<()> {
    let mut next = 1;
    loop {
        let timeline = client.timeline(next)?;
        if timeline.next < next {
            // The endpoint was restarted and numbers its entries from 1.
            next = 1;
            continue;
        }
        for entry in &timeline.entries {
            if entry.number > next && next > 1 {
                tracing::warn!(
                    missed = entry.number - next,
                    "cannot keep up: events were missed"
                );
            }
            next = entry.number + 1;
            let line = match json {
                true => serde_json::to_string(entry)? + "\n",
                // The window may have another size now.
                false => output::screen().line(&render(entry), is_wrong(&entry.what)),
            };
            output::print(&line)?;
        }
        next = timeline.next;
        sleep(POLL_INTERVAL);
    }
}

/// `2026-11-22T20:50:46.456Z  anna (10.8.0.11:49152) → 192.168.77.10:445  logon: …`
fn render(entry: &Entry) -> String {
    let Entry {
        peer,
        client,
        server,
        time,
        ..
    } = entry;
    let what = describe(&entry.what);
    format!("{time}  {peer} ({client}) → {server}  {what}")
}

/// Whether a user was disconnected, or can be by this connection.
fn is_wrong(what: &EventKind) -> bool {
    match what {
        EventKind::Logon { outcome, .. } => match outcome {
            LogonOutcome::Signed | LogonOutcome::Observed | LogonOutcome::Unread => true,
            LogonOutcome::Rewritten | LogonOutcome::Preserved => false,
        },
        EventKind::Bypass { reason } => Reason::named(reason) != Some(Reason::Smb2),
        EventKind::Closed { cause, .. } => cause.is_some(),
        EventKind::Aborted
        | EventKind::Unreadable { .. }
        | EventKind::Signed
        | EventKind::MassDisconnect { .. } => true,
        EventKind::Stale { .. } => false,
    }
}

fn describe(what: &EventKind) -> String {
    match what {
        EventKind::Logon {
            vc_sent,
            vc_forwarded,
            outcome,
            dialect,
            extended_security,
            signed,
            server_signing,
        } => {
            let number = match outcome {
                LogonOutcome::Rewritten => {
                    format!("VcNumber {vc_sent}, rewritten to {vc_forwarded}")
                }
                LogonOutcome::Signed => format!("VcNumber {vc_sent}, not changed: signed"),
                LogonOutcome::Observed => {
                    format!("VcNumber {vc_sent}, not changed: the hook only observes")
                }
                LogonOutcome::Unread => {
                    format!("VcNumber {vc_sent}, not changed: the connection is not read")
                }
                LogonOutcome::Preserved => format!("VcNumber {vc_sent}"),
            };
            let dialect = match dialect {
                Some(dialect) => format!("{dialect}, "),
                None => String::new(),
            };
            let security = match extended_security {
                true => "extended security",
                false => "no extended security",
            };
            let signature = if *signed { ", with a signature" } else { "" };
            let server = match server_signing {
                Some(signing) => format!("; the server's signing: {}", signing.name()),
                None => String::new(),
            };
            format!("logon: {number} ({dialect}{security}{signature}{server})")
        }
        EventKind::Aborted => {
            "reset: too many logon messages before the server acknowledged any".into()
        }
        EventKind::Unreadable { reason } => {
            let why = Reason::named(reason).map_or(reason.as_str(), |reason| reason.in_words());
            format!("reset: not readable: {why}")
        }
        EventKind::Signed => "signs: further logons on this connection cannot be changed".into(),
        EventKind::Bypass { reason } => {
            let why = Reason::named(reason).map_or(reason.as_str(), |reason| reason.in_words());
            format!("not read from here on: {why}")
        }
        EventKind::Stale { text, .. } => format!("older connection: {text}"),
        EventKind::Closed { how, cause } => {
            let how = how.name();
            let cause = match cause {
                Some(cause) => format!(
                    "; likely cause: the logon of {} ({}), which was not changed: {}",
                    cause.peer, cause.client, cause.why
                ),
                None => String::new(),
            };
            format!("ended by the server ({how}){cause}")
        }
        EventKind::MassDisconnect { why } => format!(
            "WARNING: within a second after this client's logon the server dropped several \
             others; it was not changed: {why}"
        ),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use vcgate::control::time::TimestampMillis;
    use vcgate::control::timeline::{Cause, Closing, ServerSigning};

    #[test]
    fn events_are_rendered_as_one_line_each() {
        let entry = |millis, peer: &str, what| {
            render(&Entry {
                number: 1,
                time: TimestampMillis(millis),
                peer: peer.into(),
                client: "10.8.0.11:49152".parse().unwrap(),
                server: "192.168.77.10:445".parse().unwrap(),
                what,
            })
        };
        let logon = EventKind::Logon {
            vc_sent: 0,
            vc_forwarded: 3,
            outcome: LogonOutcome::Rewritten,
            dialect: Some("NT LM 0.12".into()),
            extended_security: true,
            signed: false,
            server_signing: Some(ServerSigning::Required),
        };
        assert_eq!(
            entry(86_399_999, "anna", logon),
            "1970-01-01T23:59:59.999Z  anna (10.8.0.11:49152) → 192.168.77.10:445  logon: VcNumber 0, \
             rewritten to 3 (NT LM 0.12, extended security; the server's signing: required)"
        );
        let closed = EventKind::Closed {
            how: Closing::Rst,
            cause: Some(Cause {
                peer: "berta".into(),
                client: "10.8.0.12:49152".parse().unwrap(),
                why: "it was signed".into(),
            }),
        };
        assert_eq!(
            entry(1_001, "anna", closed),
            "1970-01-01T00:00:01.001Z  anna (10.8.0.11:49152) → 192.168.77.10:445  ended by the server (RST); \
             likely cause: the logon of berta (10.8.0.12:49152), which was not changed: it was \
             signed"
        );
        let reason = |name: &str| EventKind::Bypass {
            reason: name.into(),
        };
        assert!(is_wrong(&reason("mid-stream")) && !is_wrong(&reason("smb2")));
        let unread = entry(0, "anna", reason("mid-stream"));
        let why = "not read from here on: its beginning was not seen, it was open before";
        assert!(unread.ends_with(why), "{unread}");
        // A newer endpoint may send reasons that this version does not know.
        let unknown = entry(0, "anna", reason("bored"));
        assert!(
            unknown.ends_with("not read from here on: bored"),
            "{unknown}"
        );
    }
}
