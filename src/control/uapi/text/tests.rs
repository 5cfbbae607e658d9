use super::*;
use crate::keys::PrivateKey;
use proptest::collection::vec;
use proptest::option;
use proptest::prelude::*;
use std::fmt::Debug;
use std::net::{SocketAddr, SocketAddrV6};
use std::time::SystemTime;

const A: [u8; 32] = [0xaa; 32];
const B: [u8; 32] = [0xb0; 32];

fn hex(bytes: &[u8; 32]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

fn set(lines: &str) -> Result<DeviceChange, Errno> {
    match parse(format!("set=1\n{lines}\n").as_bytes()) {
        Ok(Request::Set(change)) => Ok(change),
        Ok(Request::Get) => panic!("a set became a get"),
        Err(error) => Err(error.errno),
    }
}

fn peer(lines: &str) -> Result<PeerSection, Errno> {
    let mut change = set(&format!("public_key={}\n{lines}", hex(&A)))?;
    assert_eq!(change.peers.len(), 1);
    Ok(change.peers.remove(0))
}

#[test]
fn a_state_reads_as_wg_expects() {
    let device = DeviceState {
        private_key: Some(A.into()),
        listen_port: 51820,
        fwmark: 7,
        peers: vec![
            PeerState {
                public_key: PublicKey::from(B),
                preshared_key: Some(A.into()),
                endpoint: Some("[fd00::1]:1234".parse().unwrap()),
                last_handshake: Some(UNIX_EPOCH + Duration::new(1_700_000_000, 5)),
                rx_bytes: 10,
                tx_bytes: 20,
                persistent_keepalive: 25,
                allowed_ips: vec!["10.0.0.0/8".parse().unwrap(), "::/0".parse().unwrap()],
            },
            PeerState {
                public_key: PublicKey::from(A),
                preshared_key: None,
                endpoint: None,
                last_handshake: None,
                rx_bytes: 0,
                tx_bytes: 0,
                persistent_keepalive: 0,
                allowed_ips: vec![],
            },
        ],
    };
    let (a, b, none) = (hex(&A), hex(&B), hex(&ZERO_KEY));
    let expected = format!(
        "private_key={a}\nlisten_port=51820\nfwmark=7\n\
         public_key={b}\npreshared_key={a}\nprotocol_version=1\nendpoint=[fd00::1]:1234\n\
         last_handshake_time_sec=1700000000\nlast_handshake_time_nsec=5\n\
         tx_bytes=20\nrx_bytes=10\npersistent_keepalive_interval=25\n\
         allowed_ip=10.0.0.0/8\nallowed_ip=::/0\n\
         public_key={a}\npreshared_key={none}\nprotocol_version=1\n\
         last_handshake_time_sec=0\nlast_handshake_time_nsec=0\n\
         tx_bytes=0\nrx_bytes=0\npersistent_keepalive_interval=0\n\
         errno=0\n\n"
    );
    assert_eq!(*state(&device), expected);
    assert_eq!(
        *state(&DeviceState::default()),
        "listen_port=0\nfwmark=0\nerrno=0\n\n"
    );
}

#[test]
fn set_accepts_every_key() {
    let (a, b, none) = (hex(&A), hex(&B), hex(&ZERO_KEY));
    let change = set(&format!(
        "private_key={a}\nlisten_port=1\nfwmark=4294967295\nreplace_peers=true\n\
         public_key={b}\nupdate_only=true\npreshared_key={none}\nendpoint=192.0.2.1:9\n\
         persistent_keepalive_interval=65535\nreplace_allowed_ips=true\n\
         allowed_ip=10.1.2.3/8\nallowed_ip=-10.0.0.1/32\nallowed_ip=+fd00::/8\n\
         protocol_version=1\n\
         public_key={a}\nremove=true\n"
    ));
    let add = |net: &str| AllowedIp::Add(net.parse().unwrap());
    let updated = PeerSection {
        update_only: true,
        preshared_key: Some(KeyChange::Clear),
        endpoint: Some("192.0.2.1:9".parse().unwrap()),
        persistent_keepalive: Some(65535),
        replace_allowed_ips: true,
        allowed_ips: vec![
            add("10.0.0.0/8"),
            AllowedIp::Remove("10.0.0.1/32".parse().unwrap()),
            add("fd00::/8"),
        ],
        ..section(PublicKey::from(B))
    };
    let removed = PeerSection {
        remove: true,
        ..section(PublicKey::from(A))
    };
    assert_eq!(
        change,
        Ok(DeviceChange {
            private_key: Some(KeyChange::Set(A.into())),
            listen_port: Some(1),
            fwmark: Some(u32::MAX),
            replace_peers: true,
            peers: vec![updated, removed],
        })
    );
}

#[test]
fn replace_allowed_ips_replaces_earlier_lines_too() {
    let section = peer("allowed_ip=10.0.0.1/32\nreplace_allowed_ips=true\n").unwrap();
    assert!(section.replace_allowed_ips && section.allowed_ips.is_empty());
}

#[test]
fn other_texts_are_not_requests() {
    let errno = |request: &[u8]| parse(request).unwrap_err().errno;
    for request in [
        "",
        "\n",
        "get=2\n\n",
        "set=1 \n\n",
        "GET=1\n\n",
        "errno=0\n\n",
    ] {
        assert_eq!(errno(request.as_bytes()), Errno::Protocol, "{request:?}");
    }
    assert_eq!(errno(b"set=1\nlisten_port\n\n"), Errno::Protocol);
    assert_eq!(errno(b"get=1\nlisten_port=1\n\n"), Errno::Invalid);
    assert_eq!(errno(b"set=1\nfwmark=\xff\n\n"), Errno::Invalid);
    assert_eq!(parse(b"get=1\n\n"), Ok(Request::Get));
    assert_eq!(
        parse(b"set=1\n\n"),
        Ok(Request::Set(DeviceChange::default()))
    );
}

#[test]
fn bad_values_of_the_device_are_rejected() {
    for line in [
        "colour=blue",
        "=",
        "private_key=",
        "private_key=aa",
        "listen_port=65536",
        "listen_port=-1",
        "listen_port=+1",
        "listen_port=",
        "fwmark=0x10",
        "fwmark=4294967296",
        "replace_peers=false",
        "endpoint=192.0.2.1:9", // a peer's key, and there is no peer
        "public_key=zz",
    ] {
        assert_eq!(set(&format!("{line}\n")), Err(Errno::Invalid), "{line}");
    }
}

#[test]
fn a_scope_is_a_number_or_the_name_of_an_interface() {
    let lo = interface_index("lo").unwrap();
    let scoped = SocketAddrV6::new("fe80::1".parse().unwrap(), 51820, 0, lo);
    for scope in ["lo", &lo.to_string()] {
        let section = peer(&format!("endpoint=[fe80::1%{scope}]:51820\n")).unwrap();
        assert_eq!(section.endpoint, Some(scoped.into()), "{scope}");
    }
}

#[test]
fn bad_values_of_a_peer_are_rejected() {
    for line in [
        "colour=blue",
        "listen_port=1", // the device's key, and the device's part is over
        "remove=1",
        "update_only=false",
        "replace_allowed_ips=",
        "preshared_key=00",
        "endpoint=192.0.2.1",
        "endpoint=example.org:1",
        "endpoint=[fd00::1]",
        "endpoint=[fe80::1%vcgate-none]:1",
        "endpoint=[fe80::1%lo:1",
        "endpoint=192.0.2.1%lo]:1",
        "persistent_keepalive_interval=off",
        "persistent_keepalive_interval=65536",
        "allowed_ip=10.0.0.0/33",
        "allowed_ip=10.0.0.1",
        "allowed_ip=--10.0.0.0/8",
        "allowed_ip=",
        "protocol_version=2",
    ] {
        assert_eq!(peer(&format!("{line}\n")), Err(Errno::Invalid), "{line}");
    }
}

#[test]
fn an_error_does_not_repeat_a_value() {
    let error = parse(b"set=1\nprivate_key=secret\n\n").unwrap_err();
    assert_eq!(
        error.to_string(),
        "unknown key or bad value: \"private_key\" (errno -22)"
    );
}

/// Writes a change as `wg` does: the inverse of [`parse_set`].
fn written(change: &DeviceChange) -> String {
    let mut text = String::from("set=1\n");
    let private = |change: &KeyChange<PrivateKey>| match change {
        KeyChange::Set(key) => hex(key.secret().as_bytes()),
        KeyChange::Clear => hex(&ZERO_KEY),
    };
    let preshared = |change: &KeyChange<PresharedKey>| match change {
        KeyChange::Set(key) => hex(key.as_bytes()),
        KeyChange::Clear => hex(&ZERO_KEY),
    };
    let mut line = |name: &str, value: Option<String>| {
        if let Some(value) = value {
            text += &format!("{name}={value}\n");
        }
    };
    let yes = |flag: bool| flag.then(|| "true".to_owned());
    line("private_key", change.private_key.as_ref().map(private));
    line(
        "listen_port",
        change.listen_port.map(|port| port.to_string()),
    );
    line("fwmark", change.fwmark.map(|mark| mark.to_string()));
    line("replace_peers", yes(change.replace_peers));
    for peer in &change.peers {
        let keepalive = peer.persistent_keepalive.map(|s| s.to_string());
        line("public_key", Some(hex(peer.public_key.as_bytes())));
        line("remove", yes(peer.remove));
        line("update_only", yes(peer.update_only));
        line("preshared_key", peer.preshared_key.as_ref().map(preshared));
        line(
            "endpoint",
            peer.endpoint.map(|endpoint| endpoint.to_string()),
        );
        line("persistent_keepalive_interval", keepalive);
        line("replace_allowed_ips", yes(peer.replace_allowed_ips));
        for net in &peer.allowed_ips {
            let text = match net {
                AllowedIp::Add(net) => net.to_string(),
                AllowedIp::Remove(net) => format!("-{net}"),
            };
            line("allowed_ip", Some(text));
        }
    }
    text + "\n"
}

fn any_key<K: From<[u8; 32]> + Clone + Debug>() -> impl Strategy<Value = KeyChange<K>> {
    let set = any::<[u8; 32]>().prop_filter_map("zeros mean none", |bytes| {
        (bytes != ZERO_KEY).then(|| KeyChange::Set(bytes.into()))
    });
    prop_oneof![set, Just(KeyChange::Clear)]
}

fn any_net() -> impl Strategy<Value = ipnet::IpNet> {
    let v4 = (any::<u32>(), 0..=32u8).prop_map(|(ip, length)| (ip.to_be_bytes().into(), length));
    let v6 = (any::<u128>(), 0..=128u8).prop_map(|(ip, length)| (ip.to_be_bytes().into(), length));
    prop_oneof![v4, v6].prop_map(|(ip, length): (std::net::IpAddr, u8)| {
        ipnet::IpNet::new_assert(ip, length).trunc()
    })
}

fn any_allowed_ip() -> impl Strategy<Value = AllowedIp> {
    (any_net(), any::<bool>()).prop_map(|(net, add)| match add {
        true => AllowedIp::Add(net),
        false => AllowedIp::Remove(net),
    })
}

fn any_endpoint() -> impl Strategy<Value = SocketAddr> {
    (any_net(), any::<u16>()).prop_map(|(net, port)| SocketAddr::new(net.addr(), port))
}

prop_compose! {
    fn any_section()(
        public_key: [u8; 32],
        flags: [bool; 3],
        preshared_key in option::of(any_key()),
        endpoint in option::of(any_endpoint()),
        persistent_keepalive: Option<u16>,
        allowed_ips in vec(any_allowed_ip(), 0..4),
    ) -> PeerSection {
        PeerSection {
            public_key: PublicKey::from(public_key),
            remove: flags[0],
            update_only: flags[1],
            replace_allowed_ips: flags[2],
            preshared_key,
            endpoint,
            persistent_keepalive,
            allowed_ips,
        }
    }
}

prop_compose! {
    fn any_change()(
        private_key in option::of(any_key()),
        listen_port: Option<u16>,
        fwmark: Option<u32>,
        replace_peers: bool,
        peers in vec(any_section(), 0..4),
    ) -> DeviceChange {
        DeviceChange { private_key, listen_port, fwmark, replace_peers, peers }
    }
}

prop_compose! {
    fn any_peer()(
        keys: [[u8; 32]; 2],
        endpoint in option::of(any_endpoint()),
        handshake in option::of((1..u64::from(u32::MAX), 0..1_000_000_000u32)),
        bytes: [u64; 2],
        persistent_keepalive: u16,
        allowed_ips in vec(any_net(), 0..4),
    ) -> PeerState {
        PeerState {
            public_key: PublicKey::from(keys[0]),
            preshared_key: (keys[1] != ZERO_KEY).then(|| keys[1].into()),
            endpoint,
            last_handshake: handshake.map(|(s, ns)| UNIX_EPOCH + Duration::new(s, ns)),
            rx_bytes: bytes[0],
            tx_bytes: bytes[1],
            persistent_keepalive,
            allowed_ips,
        }
    }
}

/// Converts a state to the change that its text is as a request, without values that cannot be set.
fn as_change(device: &DeviceState) -> DeviceChange {
    let key = |key: &Option<PresharedKey>| key.clone().map_or(KeyChange::Clear, KeyChange::Set);
    DeviceChange {
        private_key: device.private_key.clone().map(KeyChange::Set),
        listen_port: Some(device.listen_port),
        fwmark: Some(device.fwmark),
        replace_peers: false,
        peers: device
            .peers
            .iter()
            .map(|peer| PeerSection {
                preshared_key: Some(key(&peer.preshared_key)),
                endpoint: peer.endpoint,
                persistent_keepalive: Some(peer.persistent_keepalive),
                allowed_ips: peer
                    .allowed_ips
                    .iter()
                    .copied()
                    .map(AllowedIp::Add)
                    .collect(),
                ..section(peer.public_key)
            })
            .collect(),
    }
}

proptest! {
    #[test]
    fn a_change_round_trips_through_text(change in any_change()) {
        prop_assert_eq!(parse(written(&change).as_bytes()), Ok(Request::Set(change)));
    }

    #[test]
    fn a_state_round_trips_through_text(
        key in option::of(any::<[u8; 32]>()),
        numbers: (u16, u32),
        peers in vec(any_peer(), 0..4),
    ) {
        let (listen_port, fwmark) = numbers;
        let private_key = key.filter(|key| *key != ZERO_KEY).map(PrivateKey::from);
        let device = DeviceState { private_key, listen_port, fwmark, peers };
        let text = state(&device);
        let told_only = ["last_handshake", "tx_bytes", "rx_bytes", "errno"];
        let lines = text.lines().filter(|line| !told_only.iter().any(|key| line.starts_with(key)));
        let request = format!("set=1\n{}", lines.collect::<Vec<_>>().join("\n"));
        prop_assert_eq!(parse(request.as_bytes()), Ok(Request::Set(as_change(&device))));

        for peer in &device.peers {
            let handshake = peer.last_handshake.unwrap_or(SystemTime::UNIX_EPOCH);
            let since = handshake.duration_since(UNIX_EPOCH).unwrap();
            let expected = format!(
                "last_handshake_time_sec={}\nlast_handshake_time_nsec={}\ntx_bytes={}\nrx_bytes={}\n",
                since.as_secs(), since.subsec_nanos(), peer.tx_bytes, peer.rx_bytes,
            );
            prop_assert!(text.contains(&expected));
        }
    }

    #[test]
    fn no_bytes_panic(bytes in vec(any::<u8>(), 0..200)) {
        let _ = parse(&bytes);
        let _ = parse(&[b"set=1\n", bytes.as_slice()].concat());
    }

    #[test]
    fn no_lines_panic(lines in vec(
        (
            prop_oneof![
                Just("private_key"), Just("listen_port"), Just("public_key"), Just("remove"),
                Just("preshared_key"), Just("endpoint"), Just("allowed_ip"), Just("fwmark"),
            ],
            "[-+0-9a-f:./\\[\\]%]{0,70}",
        ),
        0..6,
    )) {
        let lines: String = lines.iter().map(|(key, value)| format!("{key}={value}\n")).collect();
        let _ = set(&lines);
    }
}
