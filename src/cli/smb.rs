//! `vcgate smb`: what the SMB hook did, the flows it looks at, and the last logons.

use super::human::{ago, counted, duration, or_dash, unix_now};
use super::output::Screen;
use super::table::{Align, Table};
use super::{output, status};
use vcgate::control::client::Client;
use vcgate::control::report::{Logon, SmbCounters, SmbFlow, SmbReport};
use vcgate_core::smb::Reason;

/// Prints the SMB report of the endpoint.
pub(super) fn run(endpoint: &Client, json: bool) -> anyhow::Result<()> {
    let mut report = endpoint.smb()?;
    report.flows.sort_by(|a, b| order(a).cmp(&order(b)));
    output::report(&report, json, |report| {
        render(report, unix_now(), output::screen())
    })
}

fn order(flow: &SmbFlow) -> impl Ord + '_ {
    (flow.server, flow.smb.vc_number, &flow.peer, flow.client)
}

fn render(report: &SmbReport, now: u64, screen: Screen) -> String {
    [
        status::smb_line(&report.counters, screen),
        details(&report.counters, screen),
        flows(&report.flows, screen),
        recent(&report.recent, now, screen),
    ]
    .concat()
}

fn details(counters: &SmbCounters, screen: Screen) -> String {
    const MESSAGE: &str = "logon message";
    // Whether a user was disconnected, or can be.
    const WRONG: bool = true;
    const FINE: bool = false;
    let of_the_hook = [
        (
            counters.preserved,
            MESSAGE,
            "whose VcNumber was right already",
            FINE,
        ),
        (
            counters.signed_untouched,
            MESSAGE,
            "not changed: signed",
            WRONG,
        ),
        (
            counters.unread_setups,
            MESSAGE,
            "not changed: connection not read",
            WRONG,
        ),
        (
            counters.stale_reset,
            "connection",
            "reset: left by a crash",
            FINE,
        ),
        (
            counters.shared_numbers,
            "flow",
            "that share a VcNumber, since none was free",
            WRONG,
        ),
        (
            counters.aborted,
            "connection",
            "reset: too many logon messages without the server's acknowledgement",
            WRONG,
        ),
        (
            counters.unreadable_reset,
            "connection",
            "reset: not readable",
            WRONG,
        ),
        (
            counters.bad_chains,
            "message",
            "with a broken chain of commands",
            FINE,
        ),
        (
            counters.held,
            "packet",
            "held until the one before arrived",
            FINE,
        ),
        (
            counters.held_dropped,
            "packet",
            "dropped: too many were held; TCP sends them again",
            FINE,
        ),
        (
            counters.invalid_dropped,
            "packet",
            "dropped: servers would ignore it",
            FINE,
        ),
        (
            counters.events_dropped,
            "event",
            "missing in the log: too many at a time",
            WRONG,
        ),
    ];
    let of_the_hook = of_the_hook.into_iter().filter(|(count, ..)| *count > 0);
    let of_the_hook = of_the_hook.map(|(count, noun, what, is_wrong)| {
        screen.line(&format!("  {} {what}", counted(count, noun)), is_wrong)
    });
    let bypassed = counters.bypassed.iter().filter(|(_, count)| **count > 0);
    let bypassed = bypassed.map(|(name, count)| {
        let reason = Reason::named(name);
        let why = reason.map_or(name.as_str(), |reason| reason.in_words());
        let line = format!("  {} not read: {why}", counted(*count, "flow"));
        screen.line(&line, reason != Some(Reason::Smb2))
    });
    of_the_hook
        .chain(bypassed)
        .chain(remedy(counters))
        .collect()
}

/// Returns the remedy for logons that pass unchanged, or may be hidden in what is not read.
fn remedy(counters: &SmbCounters) -> Option<String> {
    let bypassed = counters.bypassed.iter();
    let unread = bypassed.filter(|(name, _)| Reason::named(name) != Some(Reason::Smb2));
    let unread: u64 = unread.map(|(_, count)| *count).sum();
    let unchanged = counters.signed_untouched + counters.unread_setups + unread;
    let text = "  Logons that are not changed disconnect no other user if the peer has a lan_address \
                of its own.\n";
    (unchanged > 0).then(|| text.to_owned())
}

fn flows(flows: &[SmbFlow], screen: Screen) -> String {
    if flows.is_empty() {
        return String::new();
    }
    let mut table = Table::new([
        ("SERVER", Align::Left),
        ("VC", Align::Right),
        ("PEER", Align::Left),
        ("CLIENT", Align::Left),
        ("STATE", Align::Left),
        ("IDLE", Align::Left),
    ]);
    for flow in flows {
        table.row([
            flow.server.to_string(),
            or_dash(flow.smb.vc_number),
            flow.peer.clone(),
            flow.client.to_string(),
            flow.smb.state.clone(),
            duration(flow.idle_seconds),
        ]);
    }
    format!("\n{}", table.on(screen))
}

fn recent(recent: &[Logon], now: u64, screen: Screen) -> String {
    if recent.is_empty() {
        return String::new();
    }
    let mut table = Table::new([
        ("LOGON", Align::Left),
        ("PEER", Align::Left),
        ("SERVER", Align::Left),
        ("VC SENT", Align::Right),
        ("VC FORWARDED", Align::Right),
    ]);
    for logon in recent.iter().rev() {
        table.row([
            ago(logon.time.0, now),
            logon.peer.clone(),
            logon.server.to_string(),
            logon.vc_sent.to_string(),
            logon.vc_forwarded.to_string(),
        ]);
    }
    format!("\n{}", table.on(screen))
}

#[cfg(test)]
mod tests {
    use super::*;
    use vcgate::control::report::FlowSmb;
    use vcgate::control::time::Timestamp;
    use vcgate_core::smb::Mode;

    #[test]
    fn a_report_has_counters_flows_and_logons() {
        let server = "192.168.77.10:445".parse().unwrap();
        let logon = |seconds, peer: &str, vc_forwarded| Logon {
            time: Timestamp(seconds),
            peer: peer.into(),
            server,
            vc_sent: 0,
            vc_forwarded,
        };
        let report = SmbReport {
            counters: SmbCounters {
                hook: Mode::Assign,
                session_setups: 3,
                zero_seen: 3,
                rewritten: 2,
                preserved: 0,
                signed_untouched: 1,
                stale_probed: 3,
                stale_alive: 1,
                stale_reset: 2,
                unread_setups: 1,
                shared_numbers: 3,
                aborted: 0,
                unreadable_reset: 0,
                bad_chains: 2,
                held: 70,
                held_dropped: 1,
                invalid_dropped: 0,
                events_dropped: 5,
                bypassed: [("smb2".into(), 4), ("mid-stream".into(), 1)].into(),
            },
            flows: vec![SmbFlow {
                peer: "anna".into(),
                client: "10.8.0.11:49152".parse().unwrap(),
                server,
                smb: FlowSmb {
                    vc_number: Some(1),
                    state: "smb1".into(),
                },
                idle_seconds: 61,
            }],
            recent: vec![logon(100, "anna", 1), logon(150, "berta", 2)],
        };
        assert_eq!(
            render(&report, 160, Screen::default()),
            "\
SMB: hook assign, 3 logon messages, 3 with VcNumber 0, 2 rewritten, 5 flows in bypass
  1 logon message not changed: signed
  1 logon message not changed: connection not read
  2 connections reset: left by a crash
  3 flows that share a VcNumber, since none was free
  2 messages with a broken chain of commands
  70 packets held until the one before arrived
  1 packet dropped: too many were held; TCP sends them again
  5 events missing in the log: too many at a time
  1 flow not read: its beginning was not seen, it was open before
  4 flows not read: it speaks SMB 2 or 3, which have no VcNumber
  Logons that are not changed disconnect no other user if the peer has a lan_address of its own.

SERVER             VC  PEER  CLIENT           STATE  IDLE
192.168.77.10:445   1  anna  10.8.0.11:49152  smb1   1 minute 1 second

LOGON           PEER   SERVER             VC SENT  VC FORWARDED
10 seconds ago  berta  192.168.77.10:445        0             2
1 minute ago    anna   192.168.77.10:445        0             1
"
        );
        let coloured = render(
            &report,
            160,
            Screen {
                colours: true,
                ..Screen::default()
            },
        );
        let wrong: Vec<_> = coloured
            .lines()
            .filter(|line| line.contains('\x1b'))
            .collect();
        assert_eq!(wrong.len(), 5, "{coloured}");
        assert!(
            !wrong.iter().any(|line| line.contains("SMB 2 or 3")),
            "{coloured}"
        );
    }

    #[test]
    fn an_idle_hook_has_one_line() {
        let report = SmbReport {
            counters: SmbCounters {
                hook: Mode::Off,
                ..SmbCounters::default()
            },
            flows: vec![],
            recent: vec![],
        };
        assert_eq!(render(&report, 0, Screen::default()), "SMB: hook off\n");
    }
}
