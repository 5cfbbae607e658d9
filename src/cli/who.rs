//! `vcgate who PORT`: prints which client has a port of the LAN address, or had it. It reads the port
//! log, so the endpoint need not run.

use super::output;
use anyhow::{Context, bail};
use std::io::ErrorKind;
use std::path::Path;
use std::time::SystemTime;
use vcgate::config;
use vcgate::control::portlog::{self, Holder, Timestamp};

/// Prints the client that had the port at that time, or has it now.
pub(super) fn run(path: &Path, port: u16, at: Option<Timestamp>, json: bool) -> anyhow::Result<()> {
    let Some(log) = config::load(path)?.config.nat.log else {
        bail!(
            "cannot look up the port: no port log is configured; set log_file under [nat] in {}, and \
             restart the endpoint",
            path.display()
        );
    };
    let file = log.file.display();
    let when = at.unwrap_or_else(|| SystemTime::now().into());
    let result = match portlog::query(&log.file, log.keep, port, when) {
        Err(error) if error.kind() == ErrorKind::NotFound => {
            bail!("cannot read {file}: it does not exist; the endpoint makes it when it starts")
        }
        result => result.with_context(|| format!("cannot read {file}"))?,
    };
    if result.damaged > 0 {
        tracing::warn!("skipped {} damaged lines of {file}", result.damaged);
    }
    let mut holders = result.holders;
    if at.is_none() {
        holders.retain(|holder| holder.until.is_none());
    }
    if holders.is_empty() {
        match at {
            Some(at) => bail!("no client had port {port} at {at}"),
            None => bail!("no client has port {port}; name another time with --at"),
        }
    }
    output::report(&holders, json, |holders| holders.iter().map(line).collect())
}

fn line(holder: &Holder) -> String {
    let ports = &holder.ports;
    let range = match (ports.first_port, ports.last_port) {
        (first, last) if first == last => format!("port {first}"),
        (first, last) => format!("ports {first} to {last}"),
    };
    let protocol = match ports.protocol {
        Some(protocol) => format!("{protocol} "),
        None => String::new(),
    };
    let time = match holder.until {
        None => format!("has had since {}", holder.since),
        Some(until) => format!("had from {} to {until}", holder.since),
    };
    let name = match ports.peer.as_str() {
        "" => "a removed peer",
        name => name,
    };
    format!(
        "{name} ({}) {time}: {protocol}{range} of {}\n",
        ports.client, ports.lan_address
    )
}

#[cfg(test)]
mod tests {
    use super::*;
    use config::Transport;
    use portlog::Ports;

    #[test]
    fn holders_in_words() {
        let block = Holder {
            ports: Ports {
                peer: "anna".into(),
                client: [10, 8, 0, 11].into(),
                lan_address: [192, 168, 77, 2].into(),
                first_port: 1024,
                last_port: 1087,
                protocol: None,
            },
            since: Timestamp(1_700_000_000),
            until: Some(Timestamp(1_700_000_060)),
        };
        assert_eq!(
            line(&block),
            "anna (10.8.0.11) had from 2023-11-14T22:13:20Z to 2023-11-14T22:14:20Z: \
             ports 1024 to 1087 of 192.168.77.2\n"
        );
        let forward = Holder {
            ports: Ports {
                last_port: 1024,
                protocol: Some(Transport::Tcp),
                ..block.ports
            },
            until: None,
            ..block
        };
        assert_eq!(
            line(&forward),
            "anna (10.8.0.11) has had since 2023-11-14T22:13:20Z: tcp port 1024 of 192.168.77.2\n"
        );
    }
}
