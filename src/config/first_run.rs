//! The first run: makes keys, a commented configuration, and a first client.

use super::Endpoint;
use super::address::HostNetwork;
use super::check::overlap;
use super::client::Client;
use super::edit::{NewPeer, add_peer, no_random_bytes};
use super::files::Created;
use super::load::SERVER_KEY;
use super::problem::{Problem, Problems};
use crate::keys::{KeyFile, PrivateKey};
use ipnet::IpNet;
use std::path::{Path, PathBuf};

/// The name of the file.
pub const FILE_NAME: &str = "vcgate.toml";
/// The first client's name.
const FIRST_CLIENT: &str = "client1";
/// Candidates for the endpoint's address in the tunnel: the first that does not overlap the LAN.
const TUNNELS: [&str; 3] = ["10.8.0.1/24", "172.29.8.1/24", "192.168.208.1/24"];

/// Choices for the configuration of the first run.
#[derive(Debug, Clone, Default)]
pub struct Settings {
    /// The LAN interface; without one, that of the default route at each start.
    pub lan: Option<String>,
    /// The address that clients connect to; without it, client files name this host's LAN address.
    pub endpoint: Option<Endpoint>,
    /// The endpoint's address in the tunnel; without it, one whose network is not the LAN's.
    pub address: Option<IpNet>,
}

/// The files that the first run made.
pub struct FirstRun {
    /// The configuration.
    pub config: PathBuf,
    /// All files, in the order they were made.
    pub created: Vec<PathBuf>,
    /// The first client.
    pub client: Client,
    /// Warnings about the first client's configuration.
    pub warnings: Vec<Problem>,
}

/// Makes a configuration in `dir`, and `dir` itself if it is missing: all files or none. An existing
/// server key is used.
///
/// # Errors
/// If there is a configuration already, or a file cannot be written.
pub fn first_run(
    dir: &Path,
    settings: &Settings,
    host: &HostNetwork,
) -> Result<FirstRun, Problems> {
    let config = dir.join(FILE_NAME);
    let mut made = Created::default();
    if dir != Path::new("") {
        made.private_dir(dir)?;
    }
    made.private_dir(&dir.join("keys"))?;
    let key_file = dir.join(SERVER_KEY);
    if !key_file.exists() {
        let key = PrivateKey::generate();
        let key = key.map_err(|error| Problems::one(&config, no_random_bytes(&error)))?;
        made.key(&key_file, |file| key.write_new(file))?;
    }
    made.public_file(&config, &template(settings, host))?;
    made.sync()?;
    let first = NewPeer {
        name: FIRST_CLIENT.to_owned(),
        public_key: None,
        allowed_ips: Vec::new(),
        assignments: Vec::new(),
    };
    let added = add_peer(&config, &first, host)?;
    let mut created = made.finish();
    created.extend(added.created);
    Ok(FirstRun {
        config,
        created,
        client: added.client,
        warnings: added.warnings,
    })
}

/// Returns the configuration of the first run. Defaults are only in comments, so that a later change,
/// such as of the LAN interface, needs no others.
fn template(settings: &Settings, host: &HostNetwork) -> String {
    let chosen = || tunnel(&host.networks(false)).to_owned();
    let tunnel = settings.address.map_or_else(chosen, |net| net.to_string());
    let endpoint = match &settings.endpoint {
        Some(endpoint) => format!("endpoint = \"{endpoint}\""),
        None => "# endpoint = \"vpn.example.com:51820\"".to_owned(),
    };
    let lan = match &settings.lan {
        Some(interface) => format!("interface = {}", toml_edit::value(interface.as_str())),
        None => "# interface = \"eth0\"".to_owned(),
    };
    format!(
        r#"# The configuration of this vcgate endpoint. Paths are relative to this file.
# "vcgate check" reports its problems, with line and remedy. What is commented out is optional;
# docs/configuration.md has all keys with their defaults.

[interface]
# The endpoint in the tunnel; clients get addresses of the same network.
address = ["{tunnel}"]
# The name or address that clients connect to, as it is known where they are. Without it their files
# name this host's LAN address. After a change: "vcgate peer show NAME".
{endpoint}
# The UDP port: open it in the firewall, forward it in the router.
# listen_port = 51820
# Clients reach the LAN, but not one another.
# client_to_client = true
# Services of this host that clients may use at its address in the tunnel, besides DNS and ping.
# services = ["tcp/22", "udp/123"]

[lan]
# The LAN interface; without it, that of the default route.
{lan}
# The address that clients share on the LAN: "auto" is this host's own, "192.168.77.2" would be one
# that no other host has.
# address = "auto"
# The networks that clients may reach; without it, those of the LAN interface.
# networks = ["192.168.77.0/24"]

[smb]
# "assign" gives each SMB1 session a VcNumber of its own, so that no user cuts off another one;
# "observe" only counts, "off" does nothing.
# hook = "assign"

[nat]
# Destinations that see a client's own address instead of the shared one, and may write to it.
# no_nat = ["10.1.0.0/16"]
# A log of the ports that each client had, for "vcgate who". It is about people: off by default.
# log_file = "/var/log/vcgate/ports.jsonl"

[dns]
# Clients look up the LAN's names at this host's address in the tunnel. Their files name it, and the
# search domains; without these, those of this host.
# search = ["lan.example"]
# The servers that are asked; without them, those of this host.
# servers = ["192.168.77.10"]
# records = {{ filesrv = "192.168.77.10" }}

# Ports of the LAN address that lead to clients: "vcgate forward add 8443 10.8.0.11:443".

# The clients: "vcgate peer add NAME", "vcgate peer remove NAME".
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

    fn host(lan: &str) -> HostNetwork {
        HostNetwork::of(&[lan])
    }

    #[test]
    fn the_files_are_valid_and_private() {
        let dir = tempfile::tempdir().unwrap();
        let first = first_run(dir.path(), &Settings::default(), &host("192.168.77.5/24")).unwrap();
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
        assert_eq!(loaded.config.lan.networks, []);
        assert_eq!(loaded.config.interface.endpoint, None);
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
    fn all_networks_of_the_lan_are_reachable() {
        let dir = tempfile::tempdir().unwrap();
        let host = HostNetwork::of(&["192.168.77.5/24", "10.8.0.1/16", "fd00:77::5/64"]);
        let first = first_run(dir.path(), &Settings::default(), &host).unwrap();
        let config = load(&first.config).unwrap().config;
        assert_eq!(config.interface.address, [TUNNELS[1].parse().unwrap()]);
        let text = first.client.text.as_str();
        assert!(
            text.contains("\nAllowedIPs = 172.29.8.0/24, 192.168.77.0/30, "),
            "{text}"
        );
        assert!(
            text.contains(", 192.168.77.128/25, 10.8.0.0/16\n"),
            "{text}"
        );
        assert!(text.contains("\nEndpoint = 192.168.77.5:51820\n"));
    }

    #[test]
    fn the_choices_are_in_the_file_and_no_defaults() {
        let dir = tempfile::tempdir().unwrap();
        let settings = Settings {
            lan: Some("eth1".to_owned()),
            endpoint: Some(super::super::endpoint_argument("vpn.example.com").unwrap()),
            address: Some("10.9.0.1/24".parse().unwrap()),
        };
        let folder = dir.path().join("vcgate");
        let first = first_run(&folder, &settings, &host("192.168.77.5/24")).unwrap();
        let text = read_to_string(&first.config).unwrap();
        let set: Vec<&str> = text
            .lines()
            .take_while(|line| *line != "[[peer]]")
            .collect();
        let set: Vec<&str> = set
            .into_iter()
            .filter(|line| line.contains(" = ") && !line.starts_with('#'))
            .collect();
        assert_eq!(
            set,
            [
                "address = [\"10.9.0.1/24\"]",
                "endpoint = \"vpn.example.com:51820\"",
                "interface = \"eth1\""
            ]
        );
        assert_eq!(first.client.warnings, first.warnings);
        let text = first.client.text.as_str();
        assert!(
            text.contains("\nEndpoint = vpn.example.com:51820\n"),
            "{text}"
        );
    }

    /// Every line that is commented out is a setting that can be used as it stands.
    #[test]
    fn commented_settings_are_in_order() {
        let dir = tempfile::tempdir().unwrap();
        let first = first_run(dir.path(), &Settings::default(), &host("192.168.77.5/24")).unwrap();
        let text = read_to_string(&first.config).unwrap();
        let is_setting = |line: &str| {
            line.split_once(" = ")
                .is_some_and(|(key, _)| !key.contains(' '))
        };
        let used = |line: &str| match line.strip_prefix("# ") {
            Some(setting) if is_setting(setting) => setting.to_owned(),
            _ => line.to_owned(),
        };
        let all: Vec<String> = text.lines().map(used).collect();
        assert_ne!(all.join("\n"), text.trim_end());
        super::super::parse(&all.join("\n"), &first.config).unwrap();
    }

    #[test]
    fn a_second_run_changes_no_files() {
        let dir = tempfile::tempdir().unwrap();
        first_run(dir.path(), &Settings::default(), &host("192.168.77.5/24")).unwrap();
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
        let error = first_run(dir.path(), &Settings::default(), &HostNetwork::default())
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
    fn an_existing_server_key_is_used() {
        let dir = super::super::tests::folder();
        let before = read_to_string(dir.path().join(SERVER_KEY)).unwrap();
        let first = first_run(dir.path(), &Settings::default(), &HostNetwork::default()).unwrap();
        assert!(!first.created.contains(&dir.path().join(SERVER_KEY)));
        assert_eq!(read_to_string(dir.path().join(SERVER_KEY)).unwrap(), before);
    }

    #[test]
    fn a_failed_run_leaves_no_files() {
        let dir = tempfile::tempdir().unwrap();
        write(dir.path().join("clients"), "a file, not a folder").unwrap();
        let error = first_run(dir.path(), &Settings::default(), &HostNetwork::default())
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
            let first = first_run(dir.path(), &Settings::default(), &host(lan)).unwrap();
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
