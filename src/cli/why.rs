//! `vcgate peer why NAME`: prints why a client cannot connect, or what may be wrong with it.

use super::human::{ago, bytes, counted, unix_now};
use super::output;
use vcgate::config::Loaded;
use vcgate::control::client::Client;
use vcgate::operate::why::{Confidence, Explanation, explain_peer};

/// Explains the state of a peer.
///
/// # Errors
/// The peer is not connected, or there is none of this name.
pub(super) fn run(loaded: &Loaded, name: &str, json: bool) -> anyhow::Result<()> {
    let explanation = explain_peer(loaded, &Client::of(&loaded.config)?, name)?;
    let now = unix_now();
    output::report(&explanation, json, |explanation| text(explanation, now))?;
    anyhow::ensure!(explanation.connected, "peer {name} is not connected");
    Ok(())
}

fn text(explanation: &Explanation, now: u64) -> String {
    let is = match explanation.connected {
        true => "is connected",
        false => "is not connected",
    };
    let mut text = format!("{} {is}.\n", explanation.peer);
    let endpoint = match explanation.endpoint {
        Some(endpoint) => endpoint.to_string(),
        None => "not known: the client must connect first".into(),
    };
    let (handshake, seen) = (explanation.last_handshake, explanation.last_seen);
    let keepalive = explanation.persistent_keepalive_seconds;
    let mut lines = vec![
        ("endpoint", endpoint),
        ("received", bytes(explanation.rx_bytes)),
        ("sent", bytes(explanation.tx_bytes)),
        (
            "handshake",
            handshake.map_or_else(|| "never".into(), |at| ago(at.0, now)),
        ),
        (
            "last seen",
            seen.map_or_else(|| "never".into(), |at| ago(at.0, now)),
        ),
        (
            "keepalive",
            keepalive.map_or_else(
                || "none from here".into(),
                |seconds| format!("every {}", counted(seconds.into(), "second")),
            ),
        ),
    ];
    if let Some(failure) = &explanation.last_failure {
        let when = ago(failure.time.0, now);
        let meaning = failure.cause.meaning();
        lines.push((
            "last failure",
            format!("{when}, from {}: {meaning}", failure.source),
        ));
    }
    if explanation.queued_packets > 0 {
        let queued = explanation.queued_packets as u64;
        lines.push(("waiting", counted(queued, "packet")));
    }
    for (name, value) in lines {
        text += &format!("  {name:<12}  {value}\n");
    }
    for finding in &explanation.findings {
        let confidence = match finding.confidence {
            Confidence::Certain => "Cause",
            Confidence::Likely => "Likely cause",
            Confidence::Possible => "Possible cause",
        };
        text += &format!(
            "\n{confidence}: {}\n  → {}\n",
            finding.cause, finding.remedy
        );
    }
    text
}
