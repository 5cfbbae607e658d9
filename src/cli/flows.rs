//! `vcgate flows`: prints the translated flows, a line each.

use super::human::{bytes, duration, or_dash};
use super::output::{self, Screen};
use super::table::{Align, Table};
use vcgate::control::client::Client;
use vcgate::control::report::Flow;

/// Prints the flows of the endpoint.
pub(super) fn run(endpoint: &Client, json: bool) -> anyhow::Result<()> {
    let mut flows = endpoint.flows()?;
    flows.sort_by(|a, b| order(a).cmp(&order(b)));
    output::report(&flows, json, |flows| render(flows, output::screen()))
}

fn order(flow: &Flow) -> impl Ord + '_ {
    (&flow.peer, flow.protocol, flow.client, flow.remote)
}

fn render(flows: &[Flow], screen: Screen) -> String {
    if flows.is_empty() {
        return "No flows\n".to_owned();
    }
    let mut table = Table::new([
        ("PEER", Align::Left),
        ("PROTOCOL", Align::Left),
        ("CLIENT", Align::Left),
        ("LAN", Align::Left),
        ("REMOTE", Align::Left),
        ("STATE", Align::Left),
        ("IDLE", Align::Left),
        ("TO LAN", Align::Right),
        ("TO CLIENT", Align::Right),
        ("VC", Align::Right),
        ("SMB", Align::Left),
    ]);
    for flow in flows {
        let smb = flow.smb.as_ref();
        table.row([
            flow.peer.clone(),
            flow.protocol.name().to_owned(),
            flow.client.to_string(),
            flow.lan.to_string(),
            remote(flow),
            flow.state.clone(),
            duration(flow.idle_seconds),
            bytes(flow.to_lan_bytes),
            bytes(flow.to_client_bytes),
            smb.map_or_else(String::new, |smb| or_dash(smb.vc_number)),
            smb.map_or_else(String::new, |smb| smb.state.clone()),
        ]);
    }
    table.on(screen)
}

/// Renders the remote end by its own address, and the one by which the client knows it.
fn remote(flow: &Flow) -> String {
    match flow.remote_known_as {
        Some(known) => format!("{} ({known})", flow.remote),
        None => flow.remote.to_string(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use vcgate::control::report::{FlowSmb, Protocol};

    #[test]
    fn flows_of_two_kinds() {
        let smb = Flow {
            peer: "anna".into(),
            protocol: Protocol::Tcp,
            client: "10.8.0.11:49152".parse().unwrap(),
            lan: "192.168.77.2:50000".parse().unwrap(),
            remote: "192.168.77.10:445".parse().unwrap(),
            remote_known_as: None,
            state: "established".into(),
            idle_seconds: 3,
            to_lan_bytes: 100,
            to_lan_packets: 1,
            to_client_bytes: 2_048,
            to_client_packets: 2,
            smb: Some(FlowSmb {
                vc_number: Some(1),
                state: "smb1".into(),
            }),
        };
        let ping = Flow {
            protocol: Protocol::Icmp,
            state: "open".into(),
            smb: None,
            ..smb.clone()
        };
        assert_eq!(
            render(&[smb.clone(), ping], Screen::default()),
            "\
PEER  PROTOCOL  CLIENT           LAN                 REMOTE             STATE        IDLE       TO LAN  TO CLIENT  VC  SMB
anna  tcp       10.8.0.11:49152  192.168.77.2:50000  192.168.77.10:445  established  3 seconds   100 B    2.0 KiB   1  smb1
anna  icmp      10.8.0.11:49152  192.168.77.2:50000  192.168.77.10:445  open         3 seconds   100 B    2.0 KiB
"
        );
        assert_eq!(render(&[], Screen::default()), "No flows\n");
        let mapped = Flow {
            remote_known_as: "10.77.1.10".parse().ok(),
            ..smb.clone()
        };
        assert_eq!(remote(&mapped), "192.168.77.10:445 (10.77.1.10)");
        let narrow = Screen {
            columns: Some(80),
            colours: false,
        };
        assert_eq!(
            render(&[smb], narrow),
            "\
anna
  PROTOCOL tcp  CLIENT 10.8.0.11:49152  LAN 192.168.77.2:50000
  REMOTE 192.168.77.10:445  STATE established  IDLE 3 seconds  TO LAN 100 B
  TO CLIENT 2.0 KiB  VC 1  SMB smb1
"
        );
    }
}
