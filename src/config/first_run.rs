//! The first run: keys, a configuration that explains itself, and a first client.

use super::address::Surroundings;
use super::check::overlap;
use super::client::Client;
use super::edit::{NewPeer, add_peer, no_random};
use super::files::Created;
use super::load::SERVER_KEY;
use super::problem::Problems;
use crate::keys::{KeyFile, PrivateKey};
use ipnet::IpNet;
use std::path::{Path, PathBuf};
use toml_edit::Array;

/// The name of the file.
pub const FILE_NAME: &str = "vcgate.toml";
/// The first client's name.
const FIRST_CLIENT: &str = "client1";
/// The endpoint's address in the tunnel: the first whose network is not the LAN's.
const TUNNELS: [&str; 3] = ["10.8.0.1/24", "172.29.8.1/24", "192.168.208.1/24"];

/// What the first run made.
pub struct FirstRun {
    /// The configuration.
    pub config: PathBuf,
    /// All files, in the order they were made.
    pub created: Vec<PathBuf>,
    /// What the first client gets.
    pub client: Client,
}

/// Makes a configuration in `dir`: all of it, or nothing. A server key that is there is used, a
/// configuration that is there is an error.
pub fn first_run(dir: &Path, around: &Surroundings) -> Result<FirstRun, Problems> {
    let config = dir.join(FILE_NAME);
    let mut made = Created::default();
    made.private_dir(&dir.join("keys"))?;
    let key_file = dir.join(SERVER_KEY);
    if !key_file.exists() {
        let key = PrivateKey::generate();
        let key = key.map_err(|error| Problems::one(&config, no_random(&error)))?;
        made.key(&key_file, |file| key.write_new(file))?;
    }
    made.public_file(&config, &template(around))?;
    made.sync()?;
    let first = NewPeer {
        name: FIRST_CLIENT.to_owned(),
        public_key: None,
        allowed_ips: Vec::new(),
    };
    let added = add_peer(&config, &first, around)?;
    let mut created = made.keep();
    created.extend(added.created);
    Ok(FirstRun {
        config,
        created,
        client: added.client,
    })
}

/// The configuration of the first run.
fn template(around: &Surroundings) -> String {
    let seen = around.networks(false);
    let tunnel = tunnel(&seen);
    let networks: Array = seen.iter().map(IpNet::to_string).collect();
    let networks = match seen.is_empty() {
        false => format!("networks = {networks}"),
        true => "# networks = [\"192.168.77.0/24\"]".to_owned(),
    };
    format!(
        r#"# The configuration of this vcgate endpoint. Paths are relative to this file.
# "vcgate check" says what is wrong with it, with line and remedy.

[interface]
name = "vcg0"
private_key_file = "keys/server.key"
# The UDP port clients write to: open it in the firewall, forward it in the router.
listen_port = 51820
# The endpoint in the tunnel; clients get addresses of the same network.
address = ["{tunnel}"]
mtu = 1420
# Clients reach the LAN, not one another. If they shall: they are routed, each within its reach.
# clients_may_meet = true
# What a client hears of what its rules deny: "icmp" (prohibited) or "silent".
# deny = "silent"
# Threads of the data plane; without it, one for each core, as far as clients have ports enough.
# shards = 1
# What clients connect to: a name or address that the outside knows. Without it their
# configurations name this host's LAN address. "vcgate peer show NAME" shows them anew.
# endpoint = "vpn.example.com:51820"

[lan]
# The LAN interface; without it, that of the default route.
# interface = "eth0"
# What clients appear as: "auto" is this host's own address, "192.168.77.2" an address that
# nobody else has. For IPv6 in the tunnel, add its prefix to interface.address, as "fd00:8::1/64";
# address6 says what clients appear as there, as address does.
address = "auto"
# What clients may reach; without it, the LAN interface's networks, those of IPv6 too.
{networks}

[smb]
# "assign" gives each SMB1 session a VcNumber of its own, so that no user cuts off another;
# "observe" only counts, "off" does nothing.
hook = "assign"

[nat]
# Destinations that see a client's own address instead of the shared one, and may write to it.
# untranslated = ["10.1.0.0/16"]
# Who had which ports and when, one line a block and no destinations; asked with
# "vcgate who PORT --at TIME". It tells about people, so nothing is written unless a file is named.
# log_file = "/var/log/vcgate/ports.jsonl"

# Ports of the LAN address that lead to clients: "vcgate forward add 8443 10.8.0.11:443".

# The clients. "vcgate peer add NAME" adds one, "vcgate peer remove NAME" removes one.
"#
    )
}

fn tunnel(lan: &[IpNet]) -> &'static str {
    let apart = |tunnel: &&&str| {
        let tunnel = tunnel.parse::<IpNet>();
        tunnel.is_ok_and(|tunnel| !lan.iter().any(|lan| overlap(lan, &tunnel)))
    };
    TUNNELS.iter().find(apart).unwrap_or(&TUNNELS[0])
}

#[cfg(test)]
mod tests {
    use super::super::{LanAddress, load};
    use super::*;
    use std::fs::{read_dir, read_to_string, write};
    use std::os::unix::fs::PermissionsExt;

    fn around(lan: &str) -> Surroundings {
        Surroundings::of(&[lan])
    }

    #[test]
    fn what_is_made_is_in_order_and_private() {
        let dir = tempfile::tempdir().unwrap();
        let first = first_run(dir.path(), &around("192.168.77.5/24")).unwrap();
        let files = [
            "keys/server.key",
            "vcgate.toml",
            "keys/client1.key",
            "keys/client1.psk",
            "clients/client1.conf",
        ];
        assert_eq!(first.created, files.map(|file| dir.path().join(file)));
        for (file, mode) in [
            ("keys", 0o700),
            ("clients", 0o700),
            ("keys/server.key", 0o600),
            ("clients/client1.conf", 0o600),
        ] {
            let found = dir
                .path()
                .join(file)
                .metadata()
                .unwrap()
                .permissions()
                .mode();
            assert_eq!(found & 0o7777, mode, "{file}");
        }
        let loaded = load(&first.config).unwrap();
        assert_eq!(loaded.warnings, []);
        assert_eq!(
            loaded.config.lan.networks,
            ["192.168.77.0/24".parse().unwrap()]
        );
        assert_eq!(loaded.config.lan.address, LanAddress::Auto);
        assert_eq!(loaded.config.peers[0].name, "client1");
        assert!(
            first
                .client
                .text
                .contains("\nEndpoint = 192.168.77.5:51820\n")
        );
    }

    #[test]
    fn all_networks_of_the_lan_are_within_reach() {
        let dir = tempfile::tempdir().unwrap();
        let around = Surroundings::of(&["192.168.77.5/24", "10.8.0.1/16", "fd00:77::5/64"]);
        let first = first_run(dir.path(), &around).unwrap();
        let config = load(&first.config).unwrap().config;
        let networks: Vec<_> = config.lan.networks.iter().map(IpNet::to_string).collect();
        assert_eq!(networks, ["192.168.77.0/24", "10.8.0.0/16"]);
        assert_eq!(config.interface.address, [TUNNELS[1].parse().unwrap()]);
        let text = first.client.text.as_str();
        assert!(text.contains(", 192.168.77.128/25, 10.8.0.0/16\n"));
        assert!(text.contains("\nEndpoint = 192.168.77.5:51820\n"));
    }

    #[test]
    fn a_second_time_nothing_is_touched() {
        let dir = tempfile::tempdir().unwrap();
        first_run(dir.path(), &around("192.168.77.5/24")).unwrap();
        let read = || {
            [
                "vcgate.toml",
                "keys/server.key",
                "keys/client1.key",
                "clients/client1.conf",
            ]
            .map(|file| read_to_string(dir.path().join(file)).unwrap())
        };
        let before = read();
        let error = first_run(dir.path(), &Surroundings::default())
            .err()
            .unwrap()
            .to_string();
        let place = dir.path().join("vcgate.toml");
        let place = place.display();
        assert_eq!(
            error,
            format!("{place}: it exists already and is never overwritten; move {place} away")
        );
        assert_eq!(read(), before);
    }

    #[test]
    fn a_server_key_that_is_there_is_used() {
        let dir = super::super::tests::folder();
        let before = read_to_string(dir.path().join(SERVER_KEY)).unwrap();
        let first = first_run(dir.path(), &Surroundings::default()).unwrap();
        assert!(!first.created.contains(&dir.path().join(SERVER_KEY)));
        assert_eq!(read_to_string(dir.path().join(SERVER_KEY)).unwrap(), before);
    }

    #[test]
    fn what_cannot_be_finished_is_undone() {
        let dir = tempfile::tempdir().unwrap();
        write(dir.path().join("clients"), "a file, not a folder").unwrap();
        let error = first_run(dir.path(), &Surroundings::default())
            .err()
            .unwrap()
            .to_string();
        assert!(
            error.contains("clients: cannot make this folder"),
            "{error}"
        );
        let left: Vec<_> = read_dir(dir.path())
            .unwrap()
            .map(|entry| entry.unwrap().file_name())
            .collect();
        assert_eq!(left, ["clients"]);
    }

    #[test]
    fn the_tunnel_avoids_the_lan() {
        for (lan, expected) in [
            ("192.168.77.5/24", TUNNELS[0]),
            ("10.8.0.7/24", TUNNELS[1]),
            ("10.0.0.7/8", TUNNELS[1]),
            ("10.8.0.7/28", TUNNELS[1]),
            ("172.16.0.1/12", TUNNELS[0]),
        ] {
            let dir = tempfile::tempdir().unwrap();
            let first = first_run(dir.path(), &around(lan)).unwrap();
            let loaded = load(&first.config).unwrap();
            assert_eq!(
                loaded.config.interface.address,
                [expected.parse().unwrap()],
                "{lan}"
            );
            assert_eq!(loaded.warnings, []);
        }
    }
}
