//! The UAPI with its real client, `wg` from wireguard-tools. Requires root, since `wg` looks for sockets
//! in /var/run/wireguard.

mod fake;

use fake::{Fake, REFUSED_PORT, during};
use std::io::Write as _;
use std::path::Path;
use std::process::Output;
use std::rc::Rc;
use std::time::{Duration, UNIX_EPOCH};
use tempfile::NamedTempFile;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::UnixStream;
use tokio::process::Command;
use vcgate::control::listener::Listener;
use vcgate::control::uapi;
use vcgate::control::uapi::device::{DeviceState, PeerState};
use vcgate::keys::{PresharedKey, PrivateKey};

// RFC 7748 section 6.1: Alice's and Bob's keys.
const PRIVATE: &str = "dwdtCnMYpX08FsFyUbJmRd9ML4frwJkqsXf7pR25LCo=";
const PUBLIC: &str = "hSDwCYkwp1R0i33ctD73Wg2/Og0mOBr066SpjqqbTmo=";
const ANNA: &str = "3p7bfXt9wbTTW2HC7OQ1Nz+DQ8hbeGdNrfx+FG+IK08=";
const BERTA: &str = "AQEBAQEBAQEBAQEBAQEBAQEBAQEBAQEBAQEBAQEBAQE=";
const PSK: &str = "AgICAgICAgICAgICAgICAgICAgICAgICAgICAgICAgI=";

/// A fake endpoint that `wg` finds under a name that no other test and no real device has.
struct Device {
    name: String,
    listener: Listener,
    fake: Rc<Fake>,
}

impl Device {
    fn new(suffix: char, state: DeviceState) -> Self {
        let name = format!("vctl{}{suffix}", std::process::id());
        let listener = Listener::bind(Path::new(uapi::DIRECTORY), &name).unwrap();
        let fake = Rc::new(Fake::default());
        *fake.device.borrow_mut() = state;
        Self {
            name,
            listener,
            fake,
        }
    }

    async fn during<T>(&self, test: impl Future<Output = T>) -> T {
        during(uapi::serve(&self.listener, Rc::clone(&self.fake)), test).await
    }

    /// `wg COMMAND NAME ARGS`
    async fn wg(&self, command: &str, args: &[&str]) -> Output {
        let mut wg = Command::new("wg");
        wg.arg(command)
            .arg(&self.name)
            .args(args)
            .env("WG_HIDE_KEYS", "never");
        wg.output()
            .await
            .expect("wireguard-tools must be installed")
    }

    async fn output_of(&self, command: &str, args: &[&str]) -> String {
        let output = self.wg(command, args).await;
        let errors = String::from_utf8_lossy(&output.stderr);
        assert!(output.status.success(), "wg {command} {args:?}: {errors}");
        assert_eq!(errors, "", "wg {command} {args:?}");
        String::from_utf8(output.stdout).unwrap()
    }

    fn state(&self) -> DeviceState {
        self.fake.device.borrow().clone()
    }

    async fn connect(&self) -> UnixStream {
        UnixStream::connect(self.listener.path()).await.unwrap()
    }
}

fn private(base64: &str) -> Option<PrivateKey> {
    Some(PrivateKey::from_base64(base64).unwrap())
}

fn preshared(base64: &str) -> Option<PresharedKey> {
    Some(PresharedKey::from_base64(base64).unwrap())
}

fn peer(public_key: &str) -> PeerState {
    PeerState {
        public_key: public_key.parse().unwrap(),
        preshared_key: None,
        endpoint: None,
        last_handshake: None,
        rx_bytes: 0,
        tx_bytes: 0,
        persistent_keepalive: 0,
        allowed_ips: vec![],
    }
}

fn two_peers() -> DeviceState {
    DeviceState {
        private_key: private(PRIVATE),
        listen_port: 51820,
        fwmark: 0x1234,
        peers: vec![
            PeerState {
                preshared_key: preshared(PSK),
                endpoint: Some("[2001:db8::7]:40000".parse().unwrap()),
                last_handshake: Some(UNIX_EPOCH + Duration::from_secs(1_700_000_000)),
                rx_bytes: 1024,
                tx_bytes: u64::MAX,
                persistent_keepalive: 25,
                allowed_ips: vec![
                    "10.8.0.11/32".parse().unwrap(),
                    "fd00::/64".parse().unwrap(),
                ],
                ..peer(ANNA)
            },
            peer(BERTA),
        ],
    }
}

fn file(text: &str) -> NamedTempFile {
    let mut file = NamedTempFile::new().unwrap();
    file.write_all(text.as_bytes()).unwrap();
    file
}

#[tokio::test]
async fn wg_shows_the_device() {
    let device = Device::new('a', two_peers());
    let (dump, shown, config, names) = device
        .during(async {
            (
                device.output_of("show", &["dump"]).await,
                device.output_of("show", &[]).await,
                device.output_of("showconf", &[]).await,
                Command::new("wg")
                    .args(["show", "interfaces"])
                    .output()
                    .await
                    .unwrap(),
            )
        })
        .await;
    assert_eq!(
        dump,
        format!(
            "{PRIVATE}\t{PUBLIC}\t51820\t0x1234\n\
             {ANNA}\t{PSK}\t[2001:db8::7]:40000\t10.8.0.11/32,fd00::/64\t1700000000\t1024\t{}\t25\n\
             {BERTA}\t(none)\t(none)\t(none)\t0\t0\t0\toff\n",
            u64::MAX
        )
    );
    assert!(
        shown.contains(&format!("  public key: {PUBLIC}\n")),
        "{shown}"
    );
    assert!(
        shown.contains("  persistent keepalive: every 25 seconds\n"),
        "{shown}"
    );
    assert_eq!(
        config,
        format!(
            "[Interface]\nListenPort = 51820\nFwMark = 0x1234\nPrivateKey = {PRIVATE}\n\n\
             [Peer]\nPublicKey = {ANNA}\nPresharedKey = {PSK}\n\
             AllowedIPs = 10.8.0.11/32, fd00::/64\nEndpoint = [2001:db8::7]:40000\n\
             PersistentKeepalive = 25\n\n\
             [Peer]\nPublicKey = {BERTA}\n"
        )
    );
    let names = String::from_utf8(names.stdout).unwrap();
    assert!(
        names.split_whitespace().any(|name| name == device.name),
        "{names}"
    );
}

#[tokio::test]
async fn wg_names_the_interface_of_a_link_local_endpoint() {
    let device = Device::new('s', two_peers());
    let there = "[fe80::7%lo]:51820";
    let (shown, after) = device
        .during(async {
            device
                .output_of("set", &["peer", BERTA, "endpoint", there])
                .await;
            let shown = device.output_of("show", &["endpoints"]).await;
            let config = file(&device.output_of("showconf", &[]).await);
            let before = device.state();
            let path = config.path().to_str().unwrap();
            device.output_of("syncconf", &[path]).await;
            device.output_of("setconf", &[path]).await;
            (shown, (before.peers, device.state().peers))
        })
        .await;
    assert!(shown.contains(&format!("{BERTA}\t{there}\n")), "{shown}");
    let endpoints =
        |peers: Vec<PeerState>| peers.into_iter().map(|p| p.endpoint).collect::<Vec<_>>();
    assert_eq!(endpoints(after.0), endpoints(after.1));
}

#[tokio::test]
async fn wg_shows_an_empty_device() {
    let device = Device::new('b', DeviceState::default());
    let dump = device.during(device.output_of("show", &["dump"])).await;
    assert_eq!(dump, "(none)\t(none)\t0\toff\n");
}

#[tokio::test]
async fn wg_set_changes_only_the_given_values() {
    let device = Device::new('c', two_peers());
    let mut expected = two_peers();
    let psk = file(PSK);
    let psk = psk.path().to_str().unwrap();
    device
        .during(async {
            device
                .output_of("set", &["listen-port", "40001", "fwmark", "0"])
                .await;
            (expected.listen_port, expected.fwmark) = (40001, 0);
            assert_eq!(device.state(), expected);

            let endpoint = [
                "peer",
                BERTA,
                "endpoint",
                "192.0.2.1:5",
                "preshared-key",
                psk,
            ];
            device.output_of("set", &endpoint).await;
            expected.peers[1].endpoint = Some("192.0.2.1:5".parse().unwrap());
            expected.peers[1].preshared_key = preshared(PSK);
            assert_eq!(device.state(), expected);

            let moved = ["peer", BERTA, "allowed-ips", "10.8.0.11/32,10.9.0.0/16"];
            device.output_of("set", &moved).await; // the first one was Anna's
            expected.peers[0].allowed_ips.remove(0);
            expected.peers[1].allowed_ips = vec![
                "10.8.0.11/32".parse().unwrap(),
                "10.9.0.0/16".parse().unwrap(),
            ];
            assert_eq!(device.state(), expected);

            let off = [
                "peer",
                ANNA,
                "persistent-keepalive",
                "off",
                "preshared-key",
                "/dev/null",
            ];
            device.output_of("set", &off).await;
            expected.peers[0].persistent_keepalive = 0;
            expected.peers[0].preshared_key = None;
            assert_eq!(device.state(), expected);

            device
                .output_of("set", &["private-key", "/dev/null", "peer", ANNA, "remove"])
                .await;
            expected.peers.remove(0);
            expected.private_key = None;
            assert_eq!(device.state(), expected);
        })
        .await;
}

#[tokio::test]
async fn wg_setconf_replaces_and_syncconf_updates() {
    let device = Device::new('d', two_peers());
    let new = file(&format!(
        "[Interface]\nPrivateKey = {PSK}\nListenPort = 7\n\
         [Peer]\nPublicKey = {BERTA}\nAllowedIPs = 10.8.0.12/32\nPersistentKeepalive = 9\n"
    ));
    let new = new.path().to_str().unwrap();
    let expected = DeviceState {
        private_key: private(PSK),
        listen_port: 7,
        fwmark: 0,
        peers: vec![PeerState {
            persistent_keepalive: 9,
            allowed_ips: vec!["10.8.0.12/32".parse().unwrap()],
            ..peer(BERTA)
        }],
    };
    device
        .during(async {
            device.output_of("setconf", &[new]).await;
            assert_eq!(device.state(), expected);

            *device.fake.device.borrow_mut() = two_peers();
            device.fake.device.borrow_mut().peers[1].rx_bytes = 5; // a session that must survive
            device.output_of("syncconf", &[new]).await;
            let mut kept = expected.clone();
            kept.peers[0].rx_bytes = 5;
            assert_eq!(device.state(), kept);
        })
        .await;
}

#[tokio::test]
async fn a_configuration_survives_showconf_and_setconf() {
    let device = Device::new('e', two_peers());
    device
        .during(async {
            let config = file(&device.output_of("showconf", &[]).await);
            *device.fake.device.borrow_mut() = DeviceState::default();
            device
                .output_of("setconf", &[config.path().to_str().unwrap()])
                .await;
        })
        .await;
    let mut expected = two_peers();
    let anna = &mut expected.peers[0];
    (anna.last_handshake, anna.rx_bytes, anna.tx_bytes) = (None, 0, 0);
    assert_eq!(device.state(), expected);
}

#[tokio::test]
async fn wg_reports_a_refusal() {
    let device = Device::new('f', two_peers());
    let port = REFUSED_PORT.to_string();
    let output = device
        .during(device.wg("set", &["listen-port", &port]))
        .await;
    assert!(!output.status.success());
    let errors = String::from_utf8(output.stderr).unwrap();
    assert!(errors.contains("Operation not supported"), "{errors}");
    assert_eq!(device.state(), two_peers());
}

#[tokio::test]
async fn one_connection_carries_many_requests() {
    let device = Device::new('g', DeviceState::default());
    let get = "listen_port=9\nfwmark=0\nerrno=0\n\n";
    device
        .during(async {
            let mut stream = device.connect().await;
            let requests = "set=1\nlisten_port=9\n\nset=1\ncolour=blue\nlisten_port=8\n\nget=1\n\n";
            let (first, last) = requests.split_at(17); // in mid-line
            stream.write_all(first.as_bytes()).await.unwrap();
            tokio::task::yield_now().await;
            stream.write_all(last.as_bytes()).await.unwrap();
            stream.shutdown().await.unwrap();
            let mut answers = String::new();
            stream.read_to_string(&mut answers).await.unwrap();
            assert_eq!(answers, format!("errno=0\n\nerrno=-22\n\n{get}"));
        })
        .await;
}

#[tokio::test]
async fn an_incomplete_request_changes_nothing() {
    let device = Device::new('h', two_peers());
    device
        .during(async {
            let mut stream = device.connect().await;
            stream
                .write_all(b"set=1\nreplace_peers=true\n")
                .await
                .unwrap();
            stream.shutdown().await.unwrap();
            let mut answers = String::new();
            stream.read_to_string(&mut answers).await.unwrap();
            assert_eq!(answers, "");
        })
        .await;
    assert_eq!(device.state(), two_peers());
}

#[tokio::test]
async fn a_stalled_client_does_not_block_others() {
    let device = Device::new('i', DeviceState::default());
    device
        .during(async {
            let mut stalled = device.connect().await;
            stalled.write_all(b"set=1\nlisten_po").await.unwrap();
            assert_eq!(device.output_of("show", &["listen-port"]).await, "0\n");
            stalled.write_all(b"rt=9\n\n").await.unwrap();
            let mut answer = [0; 9];
            stalled.read_exact(&mut answer).await.unwrap();
            assert_eq!(&answer, b"errno=0\n\n");
            assert_eq!(device.output_of("show", &["listen-port"]).await, "9\n");
        })
        .await;
}

#[tokio::test]
async fn an_endless_request_is_rejected() {
    let device = Device::new('j', DeviceState::default());
    device
        .during(async {
            let (mut reader, mut writer) = device.connect().await.into_split();
            let endless = async {
                writer.write_all(b"set=1\nprivate_key=").await.unwrap();
                while writer.write_all(&[b'a'; 65536]).await.is_ok() {}
            };
            let mut answer = [0; 11];
            let (answered, ()) = tokio::join!(reader.read_exact(&mut answer), endless);
            assert_eq!((answered.unwrap(), &answer), (11, b"errno=-71\n\n"));
        })
        .await;
}
