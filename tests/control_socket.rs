//! The control socket and its client, over a real socket in a directory of the test.

mod fake;

use fake::{Fake, during, packet};
use std::fs;
use std::io::{BufRead as _, BufReader, Write as _};
use std::os::unix::net::UnixListener;
use std::path::Path;
use std::rc::Rc;
use tempfile::TempDir;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::UnixStream;
use tokio::task::spawn_blocking;
use vcgate::config::{Forward, Transport};
use vcgate::control::client::{Client, ClientError};
use vcgate::control::endpoint::Captured;
use vcgate::control::endpoint::{Endpoint as _, PeerChange, Refusal};
use vcgate::control::listener::Listener;
use vcgate::control::socket;
use vcgate::keys::PublicKey;
use vcgate_capture::Counts;
use vcgate_capture::stream::Item;
use vcgate_core::engine::{Filter, Side};

/// Serves a fake endpoint while `test` runs.
async fn serving<T>(
    fake: &Rc<Fake>,
    directory: &Path,
    name: &str,
    test: impl Future<Output = T>,
) -> T {
    let listener = Listener::bind(directory, name).unwrap();
    during(socket::serve(&listener, Rc::clone(fake)), test).await
}

/// Sends a request as commands do: blocking.
async fn ask<T: Send + 'static>(
    client: &Client,
    question: impl FnOnce(&Client) -> T + Send + 'static,
) -> T {
    let client = client.clone();
    spawn_blocking(move || question(&client)).await.unwrap()
}

/// Sends raw lines, and returns all answers.
async fn say(path: &Path, lines: &str) -> String {
    let mut stream = UnixStream::connect(path).await.unwrap();
    stream.write_all(lines.as_bytes()).await.unwrap();
    stream.shutdown().await.unwrap();
    let mut answers = String::new();
    stream.read_to_string(&mut answers).await.unwrap();
    answers
}

fn anna() -> PeerChange {
    PeerChange {
        name: "anna".into(),
        public_key: PublicKey::from([7; 32]),
        preshared_key: None,
        allowed_ips: vec!["10.8.0.11/32".parse().unwrap()],
        persistent_keepalive: None,
        reach: None,
        rates: Default::default(),
        lan_address: None,
        lifecycle: Default::default(),
        dns: true,
        client: Default::default(),
    }
}

#[tokio::test]
async fn reports_reach_the_client() {
    let (root, fake) = (TempDir::new().unwrap(), Rc::new(Fake::default()));
    let client = Client::within(root.path(), Some("vcg0")).unwrap();
    serving(&fake, root.path(), "vcg0", async {
        let status = ask(&client, Client::status).await.unwrap();
        assert_eq!(status, fake.status().await);
        assert_eq!(
            ask(&client, Client::flows).await.unwrap(),
            fake.flows().await
        );
        assert_eq!(ask(&client, Client::smb).await.unwrap(), fake.smb().await);
    })
    .await;
}

#[tokio::test]
async fn peers_are_added_and_removed_and_refusals_have_remedies() {
    let (root, fake) = (TempDir::new().unwrap(), Rc::new(Fake::default()));
    let client = Client::within(root.path(), Some("vcg0")).unwrap();
    serving(&fake, root.path(), "vcg0", async {
        ask(&client, |client| client.peer_add(anna()))
            .await
            .unwrap();
        assert_eq!(*fake.added.borrow(), [anna()]);
        let again = ask(&client, |client| client.peer_add(anna()))
            .await
            .unwrap_err();
        assert_eq!(
            again.to_string(),
            "there is a peer anna already: choose another name"
        );
        assert!(matches!(
            again,
            ClientError::Refused(Refusal {
                remedy: Some(_),
                ..
            })
        ));
        ask(&client, |client| client.peer_remove("anna"))
            .await
            .unwrap();
        assert_eq!(*fake.added.borrow(), []);
    })
    .await;
}

#[tokio::test]
async fn the_log_level_is_shown_and_set() {
    let (root, fake) = (TempDir::new().unwrap(), Rc::new(Fake::default()));
    let client = Client::within(root.path(), Some("vcg0")).unwrap();
    serving(&fake, root.path(), "vcg0", async {
        for (level, now) in [(None, "info,boringtun=off"), (Some("debug"), "debug")] {
            let level = level.map(str::to_owned);
            let said = ask(&client, |client| client.log_level(level)).await;
            assert_eq!(said.unwrap(), now);
        }
    })
    .await;
}

#[tokio::test]
async fn forwards_are_added_and_removed() {
    let (root, fake) = (TempDir::new().unwrap(), Rc::new(Fake::default()));
    let client = Client::within(root.path(), Some("vcg0")).unwrap();
    let forward = Forward {
        proto: Transport::Tcp,
        lan_port: 8443,
        to: "10.8.0.11:443".parse().unwrap(),
        lan_address: None,
    };
    serving(&fake, root.path(), "vcg0", async {
        let added = ask(&client, move |client| client.forward_add(forward)).await;
        added.unwrap();
        assert_eq!(*fake.forwards.borrow(), [forward]);
        let removed = ask(&client, move |client| client.forward_remove(forward)).await;
        removed.unwrap();
        assert_eq!(*fake.forwards.borrow(), []);
    })
    .await;
}

#[tokio::test]
async fn a_capture_streams_until_its_client_stops_it() {
    let (root, fake) = (TempDir::new().unwrap(), Rc::new(Fake::default()));
    let client = Client::within(root.path(), Some("vcg0")).unwrap();
    let filter = Filter {
        peer: Some("anna".into()),
        side: Some(Side::Lan),
    };
    serving(&fake, root.path(), "vcg0", async {
        let asked = filter.clone();
        let capture = ask(&client, |client| client.capture(asked)).await.unwrap();
        assert_eq!(*fake.capturing.borrow(), Some(filter));
        // There is one capture at a time; other requests are answered meanwhile.
        let second = ask(&client, |client| client.capture(Filter::default())).await;
        assert!(matches!(second, Err(ClientError::Refused(_))));
        ask(&client, Client::status).await.unwrap();

        fake.captured.set(Captured {
            packets: vec![packet("one"), packet("two")],
            dropped: Counts { tunnel: 10, lan: 0 },
        });
        let stopper = capture.stopper().unwrap();
        let (mut capture, items) = spawn_blocking(move || {
            let mut capture = capture;
            let items = [capture.receive().unwrap(), capture.receive().unwrap()];
            (capture, items)
        })
        .await
        .unwrap();
        assert_eq!(items, ["one", "two"].map(|c| Item::Packet(packet(c))));
        stopper.stop();
        let items =
            spawn_blocking(move || [capture.receive().unwrap(), capture.receive().unwrap()]);
        let end = Counts { tunnel: 11, lan: 2 };
        let expected = [Item::Packet(packet("the last")), Item::End(end)];
        assert_eq!(items.await.unwrap(), expected);
        assert_eq!(*fake.capturing.borrow(), None);
    })
    .await;
}

#[tokio::test]
async fn a_capture_ends_when_its_client_disconnects() {
    let (root, fake) = (TempDir::new().unwrap(), Rc::new(Fake::default()));
    let client = Client::within(root.path(), Some("vcg0")).unwrap();
    serving(&fake, root.path(), "vcg0", async {
        let capture = ask(&client, |client| client.capture(Filter::default())).await;
        drop(capture.unwrap());
        while fake.capturing.borrow().is_some() {
            tokio::task::yield_now().await;
        }
    })
    .await;
}

#[tokio::test]
async fn each_request_line_has_an_answer_line() {
    let (root, fake) = (TempDir::new().unwrap(), Rc::new(Fake::default()));
    serving(&fake, root.path(), "vcg0", async {
        let path = root.path().join("vcg0.sock");
        fake.added.borrow_mut().push(anna());
        let requests =
            "{\"command\":\"flows\"}\nwhat?\n{\"command\":\"peer_remove\",\"peer\":\"anna\"}\n";
        let answers = say(&path, requests).await;
        let answers: Vec<_> = answers.lines().collect();
        assert_eq!(answers.len(), 3);
        assert_eq!(answers[0], r#"{"ok":[]}"#);
        assert!(answers[1].starts_with(r#"{"error":{"message":"not a request that"#));
        assert_eq!(answers[2], r#"{"ok":null}"#);
        assert_eq!(say(&path, "{\"command\":\"fl").await, ""); // half a request
    })
    .await;
}

#[tokio::test]
async fn requests_have_a_maximum_length() {
    let (root, fake) = (TempDir::new().unwrap(), Rc::new(Fake::default()));
    serving(&fake, root.path(), "vcg0", async {
        let answer = say(&root.path().join("vcg0.sock"), &"x".repeat(65536)).await;
        assert_eq!(
            answer,
            "{\"error\":{\"message\":\"a request is at most 65536 bytes long\"}}\n"
        );
    })
    .await;
}

#[tokio::test]
async fn stalled_clients_do_not_block_others() {
    let (root, fake) = (TempDir::new().unwrap(), Rc::new(Fake::default()));
    let client = Client::within(root.path(), Some("vcg0")).unwrap();
    serving(&fake, root.path(), "vcg0", async {
        let mut stalled = Vec::new();
        for _ in 0..20 {
            let mut stream = UnixStream::connect(root.path().join("vcg0.sock"))
                .await
                .unwrap();
            stream.write_all(b"{\"command\":").await.unwrap();
            stalled.push(stream);
        }
        let asking: Vec<_> = (0..20)
            .map(|_| {
                let client = client.clone();
                spawn_blocking(move || client.status())
            })
            .collect();
        for answer in asking {
            answer.await.unwrap().unwrap();
        }
        for mut stream in stalled {
            stream.write_all(b"\"flows\"}\n").await.unwrap();
            let mut answer = [0; 10];
            stream.read_exact(&mut answer).await.unwrap();
            assert_eq!(&answer, b"{\"ok\":[]}\n");
        }
    })
    .await;
}

#[tokio::test]
async fn without_a_name_the_only_running_endpoint_is_used() {
    let (root, fake) = (TempDir::new().unwrap(), Rc::new(Fake::default()));
    let missing = root.path().join("missing");
    let error = Client::within(&missing, None).unwrap_err();
    assert!(matches!(error, ClientError::NoneRunning(_)));

    drop(UnixListener::bind(root.path().join("dead.sock")).unwrap());
    fs::write(root.path().join("no-socket.sock"), "").unwrap();
    let error = Client::within(root.path(), None).unwrap_err();
    assert!(matches!(error, ClientError::NoneRunning(_)), "{error}");

    serving(&fake, root.path(), "vcg0", async {
        let client = Client::within(root.path(), None).unwrap();
        assert_eq!(
            ask(&client, Client::status).await.unwrap(),
            fake.status().await
        );

        let _other = Listener::bind(root.path(), "vcg1").unwrap();
        let error = Client::within(root.path(), None).unwrap_err();
        assert_eq!(
            error.to_string(),
            "several endpoints are running (vcg0, vcg1): say which one with `--interface NAME`"
        );
    })
    .await;
}

#[test]
fn a_missing_endpoint_is_reported_with_the_remedy() {
    let root = TempDir::new().unwrap();
    let client = Client::within(root.path(), Some("vcg0")).unwrap();
    let expected = format!(
        "no endpoint is running as vcg0 (no answer at {}): start it with `vcgate up`",
        root.path().join("vcg0.sock").display()
    );
    assert_eq!(client.status().unwrap_err().to_string(), expected);
    drop(UnixListener::bind(root.path().join("vcg0.sock")).unwrap()); // its process died
    assert_eq!(client.status().unwrap_err().to_string(), expected);
}

#[test]
fn a_malformed_answer_is_reported() {
    let root = TempDir::new().unwrap();
    let listener = UnixListener::bind(root.path().join("vcg0.sock")).unwrap();
    let server = std::thread::spawn(move || {
        for answer in ["", "{\"ok\":{\"colour\":\"blue\"}}\n", "\u{0}\n"] {
            let (mut stream, _) = listener.accept().unwrap();
            let mut request = String::new();
            BufReader::new(&stream).read_line(&mut request).unwrap();
            stream.write_all(answer.as_bytes()).unwrap();
        }
    });
    let client = Client::within(root.path(), Some("vcg0")).unwrap();
    for _ in 0..3 {
        let error = client.status().unwrap_err();
        assert!(
            matches!(error, ClientError::MalformedResponse(_)),
            "{error}"
        );
    }
    server.join().unwrap();
}
