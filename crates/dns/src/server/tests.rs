//! The server on loopback, with servers behind it that are slow, down or lie.

use super::*;
use crate::settings::Peer;
use domain::base::iana::{Class, OptRcode, Rcode, Rtype};
use domain::base::{Message, MessageBuilder, Name, ToName, Ttl};
use domain::rdata::A;
use proptest::prelude::*;
use std::net::Ipv4Addr;
use std::str::FromStr;
use std::sync::atomic::{AtomicUsize, Ordering};
use vcgate_core::netmap::{NetMap, PrefixMap};

type Text = Name<Vec<u8>>;

fn run<T>(test: impl Future<Output = T>) -> T {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build();
    runtime.unwrap().block_on(test)
}

fn name(text: &str) -> Text {
    Name::from_str(text).unwrap()
}

/// An answer to a question, with addresses of its name; none means that it does not exist.
fn answer(question: &[u8], addresses: &[[u8; 4]]) -> Vec<u8> {
    let question = Message::from_octets(question).unwrap();
    let rcode = match addresses {
        [] => Rcode::NXDOMAIN,
        _ => Rcode::NOERROR,
    };
    let mut builder = MessageBuilder::new_vec()
        .start_answer(&question, rcode)
        .unwrap();
    let asked = question.sole_question().unwrap().qname().to_vec();
    for address in addresses {
        let address = A::new(Ipv4Addr::from(*address));
        builder
            .push((&asked, Class::IN, Ttl::from_secs(300), address))
            .unwrap();
    }
    builder.finish()
}

/// A DNS server that answers each question with the datagrams of `behaviour`. Returns its address and
/// the number of questions.
async fn upstream(
    behaviour: impl Fn(&[u8]) -> Vec<Vec<u8>> + Send + 'static,
) -> (SocketAddr, Arc<AtomicUsize>) {
    let socket = UdpSocket::bind("127.0.0.1:0").await.unwrap();
    let address = socket.local_addr().unwrap();
    let questions = Arc::new(AtomicUsize::new(0));
    let counter = Arc::clone(&questions);
    tokio::spawn(async move {
        let mut buffer = [0; 4096];
        while let Ok((len, from)) = socket.recv_from(&mut buffer).await {
            counter.fetch_add(1, Ordering::Relaxed);
            for datagram in behaviour(&buffer[..len]) {
                socket.send_to(&datagram, from).await.unwrap();
            }
        }
    });
    (address, questions)
}

/// A server on loopback and a client of it.
struct Network {
    server: Arc<Server>,
    address: SocketAddr,
    client: UdpSocket,
    stop: tokio::task::JoinHandle<Infallible>,
}

impl Drop for Network {
    fn drop(&mut self) {
        self.stop.abort();
    }
}

async fn network(settings: Settings) -> Network {
    let udp = UdpSocket::bind("127.0.0.1:0").await.unwrap();
    let address = udp.local_addr().unwrap();
    let tcp = TcpListener::bind(address).await.unwrap();
    let sockets = Sockets {
        udp: vec![udp],
        tcp: vec![tcp],
    };
    let server = Arc::new(Server::new(settings).await);
    let running = Arc::clone(&server);
    Network {
        stop: tokio::spawn(async move { running.serve(sockets).await }),
        client: UdpSocket::bind("127.0.0.1:0").await.unwrap(),
        address,
        server,
    }
}

fn question(text: &str, rtype: Rtype) -> Vec<u8> {
    let mut message = MessageBuilder::new_vec();
    message.header_mut().set_id(0x1234);
    message.header_mut().set_rd(true);
    let mut message = message.question();
    message.push((name(text), rtype)).unwrap();
    message.finish()
}

impl Network {
    async fn send(&self, bytes: &[u8]) -> Message<Vec<u8>> {
        self.client.send_to(bytes, self.address).await.unwrap();
        let mut buffer = vec![0; 65_535];
        let received = timeout(Duration::from_secs(30), self.client.recv(&mut buffer));
        let len = received.await.unwrap().unwrap();
        buffer.truncate(len);
        Message::from_octets(buffer).unwrap()
    }

    async fn ask(&self, text: &str) -> (Rcode, Vec<String>) {
        let answer = self.send(&question(text, Rtype::A)).await;
        assert_eq!(answer.header().id(), 0x1234);
        assert!(answer.opt().is_none(), "the client has no EDNS");
        let records = answer.answer().unwrap().limit_to::<A>();
        let addresses = records.map(|record| record.unwrap().data().addr().to_string());
        (answer.header().rcode(), addresses.collect())
    }
}

fn servers(addresses: &[SocketAddr]) -> Settings {
    Settings {
        servers: addresses.to_vec(),
        search: vec!["lan.example".into()],
        ..Settings::default()
    }
}

fn found(address: &str) -> (Rcode, Vec<String>) {
    (Rcode::NOERROR, vec![address.into()])
}

#[test]
fn answers_of_a_server_are_cached_in_both_cases_of_letters() {
    run(async {
        let (address, asked) = upstream(|q| vec![answer(q, &[[192, 0, 2, 1]])]).await;
        let network = network(servers(&[address])).await;
        for text in ["www.example.net", "WWW.example.NET"] {
            assert_eq!(network.ask(text).await, found("192.0.2.1"));
        }
        assert_eq!(asked.load(Ordering::Relaxed), 1);
    });
}

#[test]
fn every_question_is_counted_once_by_its_outcome() {
    run(async {
        let (address, _) = upstream(|q| {
            let message = Message::from_octets(q).unwrap();
            let mut answer = answer(q, &[[192, 0, 2, 1]]);
            let asked = message.sole_question().unwrap().qname().to_string();
            if asked.starts_with("fails") {
                answer[3] |= 2;
            }
            vec![answer]
        })
        .await;
        let mut settings = servers(&[address]);
        settings.records = vec![("filesrv".into(), vec![[192, 168, 77, 10].into()])];
        let network = network(settings).await;
        for name in [
            "filesrv",
            "nobody.peers.lan.example",
            "www.example.net",
            "www.example.net",
            "WWW.example.net",
            "fails.example.net",
        ] {
            network.ask(name).await;
        }
        let transfer = network.send(&question("example.net", Rtype::AXFR)).await;
        assert_eq!(transfer.header().rcode(), Rcode::REFUSED);
        let expected = Counters {
            queries: 7,
            local: 2,
            cache_hits: 2,
            forwarded: 1,
            refused: 1,
            failed: 1,
            ..Counters::default()
        };
        assert_eq!(network.server.counters(), expected);
        // A flood: what is not answered was counted as limited.
        let flood = question("filesrv", Rtype::A);
        for _ in 0..3000 {
            network.server.answer([10, 8, 0, 11].into(), &flood).await;
        }
        let counters = network.server.counters();
        assert_eq!(counters.queries, 3007);
        assert!(counters.limited > 100, "{counters:?}");
        assert_eq!(counters.local + counters.limited, 3002);
        // The settings change, the counters do not.
        network.server.set(servers(&[])).await;
        assert_eq!(network.server.counters(), counters);
    });
}

#[test]
fn an_answer_with_another_identifier_or_question_is_ignored() {
    run(async {
        let (address, _) = upstream(|q| {
            let mut forged = answer(q, &[[203, 0, 113, 66]]);
            forged[0] ^= 1;
            let mut other = answer(q, &[[203, 0, 113, 66]]);
            other[13] ^= 1;
            vec![
                forged,
                other,
                b"garbage".to_vec(),
                answer(q, &[[192, 0, 2, 1]]),
            ]
        })
        .await;
        let network = network(servers(&[address])).await;
        assert_eq!(network.ask("www.example.net").await, found("192.0.2.1"));
    });
}

#[test]
fn each_question_has_another_port_and_identifier() {
    run(async {
        let (sender, mut seen) = tokio::sync::mpsc::unbounded_channel();
        let socket = UdpSocket::bind("127.0.0.1:0").await.unwrap();
        let address = socket.local_addr().unwrap();
        tokio::spawn(async move {
            let mut buffer = [0; 512];
            while let Ok((len, from)) = socket.recv_from(&mut buffer).await {
                let _ = sender.send((from.port(), buffer[..2].to_vec()));
                let datagram = answer(&buffer[..len], &[[192, 0, 2, 1]]);
                socket.send_to(&datagram, from).await.unwrap();
            }
        });
        let network = network(servers(&[address])).await;
        let mut ends = std::collections::HashSet::new();
        for number in 0..50 {
            network.ask(&format!("host{number}.example.net")).await;
            ends.insert(seen.recv().await.unwrap());
        }
        assert_eq!(ends.len(), 50, "no pair of port and identifier twice");
        let ports: std::collections::HashSet<_> = ends.iter().map(|(port, _)| port).collect();
        assert!(ports.len() > 40, "random ports");
    });
}

#[test]
fn another_server_answers_for_one_that_is_down_or_silent() {
    run(async {
        let closed = UdpSocket::bind("127.0.0.1:0")
            .await
            .unwrap()
            .local_addr()
            .unwrap();
        let (silent, _) = upstream(|_| Vec::new()).await;
        let (works, _) = upstream(|q| vec![answer(q, &[[192, 0, 2, 1]])]).await;
        for first in [closed, silent] {
            let network = network(servers(&[first, works])).await;
            assert_eq!(network.ask("www.example.net").await, found("192.0.2.1"));
        }
        let network = network(servers(&[closed])).await;
        let nobody = network.ask("www.example.net").await;
        assert_eq!(nobody, (Rcode::SERVFAIL, Vec::new()));
    });
}

#[test]
fn long_answers_come_by_tcp() {
    run(async {
        let many: Vec<[u8; 4]> = (0..200).map(|n| [192, 0, 2, n]).collect();
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let udp = UdpSocket::bind(address).await.unwrap();
        tokio::spawn(async move {
            let mut buffer = [0; 512];
            let (len, from) = udp.recv_from(&mut buffer).await.unwrap();
            let mut truncated = answer(&buffer[..len], &[[192, 0, 2, 1]]);
            truncated[2] |= 2;
            udp.send_to(&truncated, from).await.unwrap();
            let (mut stream, _) = listener.accept().await.unwrap();
            let len = stream.read_u16().await.unwrap();
            let mut question = vec![0; len.into()];
            stream.read_exact(&mut question).await.unwrap();
            let answer = answer(&question, &many);
            stream.write_u16(answer.len() as u16).await.unwrap();
            stream.write_all(&answer).await.unwrap();
            std::future::pending::<()>().await;
        });
        let network = network(servers(&[address])).await;
        let question = question("many.example.net", Rtype::A);
        let answer = network.send(&question).await;
        assert!(answer.header().tc() && answer.header_counts().ancount() == 0);
        assert!(answer.as_slice().len() <= 512);
        let mut stream = TcpStream::connect(network.address).await.unwrap();
        for _ in 0..2 {
            stream.write_u16(question.len() as u16).await.unwrap();
            stream.write_all(&question).await.unwrap();
            let len = stream.read_u16().await.unwrap();
            let mut answer = vec![0; len.into()];
            stream.read_exact(&mut answer).await.unwrap();
            let answer = Message::from_octets(answer).unwrap();
            assert_eq!(answer.header_counts().ancount(), 200);
        }
    });
}

#[test]
fn a_single_name_is_found_under_the_search_domain() {
    run(async {
        let (address, _) = upstream(|q| {
            let message = Message::from_octets(q).unwrap();
            let asked = message.sole_question().unwrap().qname().to_string();
            match asked.as_str() {
                "srv.lan.example" => vec![answer(q, &[[192, 168, 77, 10]])],
                _ => vec![answer(q, &[])],
            }
        })
        .await;
        let network = network(servers(&[address])).await;
        assert_eq!(network.ask("srv").await, found("192.168.77.10"));
        let message = network.send(&question("srv", Rtype::A)).await;
        let alias = message.answer().unwrap().next().unwrap().unwrap();
        assert_eq!(
            (alias.owner().to_string(), alias.rtype()),
            ("srv".into(), Rtype::CNAME)
        );
        assert_eq!(network.ask("nobody").await, (Rcode::NXDOMAIN, Vec::new()));
    });
}

#[test]
fn new_settings_apply_at_once_and_leave_the_cache() {
    run(async {
        let (address, asked) = upstream(|q| vec![answer(q, &[[192, 0, 2, 1]])]).await;
        let mut settings = servers(&[address]);
        let network = network(settings.clone()).await;
        assert_eq!(network.ask("www.example.net").await, found("192.0.2.1"));
        settings.records = vec![("filesrv".into(), vec![[192, 168, 77, 10].into()])];
        settings.peers = vec![Peer {
            name: "local".into(),
            prefixes: vec!["127.0.0.1/32".parse().unwrap()],
        }];
        network.server.set(settings).await;
        assert_eq!(network.ask("filesrv").await, found("192.168.77.10"));
        assert_eq!(
            network.ask("local.peers.lan.example").await,
            found("127.0.0.1")
        );
        assert_eq!(network.ask("www.example.net").await, found("192.0.2.1"));
        assert_eq!(asked.load(Ordering::Relaxed), 1);
    });
}

#[test]
fn clients_learn_the_addresses_by_which_they_know_the_lan() {
    run(async {
        let all = [[192, 168, 1, 10], [10, 77, 1, 5], [192, 0, 2, 1]];
        let (address, _) = upstream(move |q| vec![answer(q, &all)]).await;
        let map = PrefixMap::new(
            "192.168.1.0/24".parse().unwrap(),
            "10.77.1.0/24".parse().unwrap(),
        );
        let mut settings = servers(&[address]);
        settings.netmap = NetMap::new(vec![map.unwrap()]).unwrap();
        settings.records = vec![("filesrv".into(), vec![[192, 168, 1, 11].into()])];
        let network = network(settings).await;
        assert_eq!(network.ask("filesrv").await, found("10.77.1.11"));
        // Clients know another host by the second address.
        let (_, addresses) = network.ask("www.example.net").await;
        assert_eq!(addresses, ["10.77.1.10", "192.0.2.1"]);
    });
}

#[test]
fn messages_that_are_no_questions_get_the_error_that_is_due() {
    run(async {
        let network = network(Settings::default()).await;
        let rcode = async |bytes: &[u8]| network.send(bytes).await.header().rcode();
        assert_eq!(
            rcode(&question("example.net", Rtype::AXFR)).await,
            Rcode::REFUSED
        );
        assert_eq!(
            rcode(&question("example.net", Rtype::A)).await,
            Rcode::REFUSED,
            "no server"
        );
        let mut update = question("example.net", Rtype::A);
        update[2] = 5 << 3;
        assert_eq!(rcode(&update).await, Rcode::NOTIMP);
        let mut none = question("example.net", Rtype::A);
        none[5] = 0;
        assert_eq!(rcode(&none[..12]).await, Rcode::FORMERR);
    });
}

#[test]
fn edns_is_answered_with_edns() {
    run(async {
        let (address, _) = upstream(|q| vec![answer(q, &[[192, 0, 2, 1]])]).await;
        let network = network(servers(&[address])).await;
        let with_version = |version| {
            let question = question("www.example.net", Rtype::A);
            let question = Message::from_octets(question).unwrap();
            let builder = MessageBuilder::new_vec();
            let mut builder = builder.start_answer(&question, Rcode::NOERROR).unwrap();
            builder.header_mut().set_qr(false);
            let mut builder = builder.additional();
            let opt = builder.opt(|opt| {
                opt.set_udp_payload_size(4096);
                opt.set_version(version);
                Ok(())
            });
            opt.unwrap();
            builder.finish()
        };
        let answer = network.send(&with_version(0)).await;
        assert_eq!(answer.opt().unwrap().udp_payload_size(), 1232);
        assert_eq!(answer.header_counts().ancount(), 1);
        let refused = network.send(&with_version(1)).await;
        assert_eq!(
            refused.opt().unwrap().rcode(refused.header()),
            OptRcode::BADVERS
        );
    });
}

#[test]
fn a_flood_from_one_client_leaves_the_others_their_answers() {
    run(async {
        let (silent, asked) = upstream(|_| Vec::new()).await;
        let mut settings = servers(&[silent]);
        settings.records = vec![("filesrv".into(), vec![[192, 168, 77, 10].into()])];
        let mut network = network(settings).await;
        let flood = UdpSocket::bind("127.0.0.2:0").await.unwrap();
        for number in 0..2000 {
            let question = question(&format!("host{number}.example.net"), Rtype::A);
            flood.send_to(&question, network.address).await.unwrap();
            tokio::task::yield_now().await;
        }
        network.client = UdpSocket::bind("127.0.0.3:0").await.unwrap();
        assert_eq!(network.ask("filesrv").await, found("192.168.77.10"));
        assert!(
            asked.load(Ordering::Relaxed) <= 200,
            "questions that wait are limited"
        );
    });
}

proptest! {
    #[test]
    fn any_bytes_are_a_question_or_an_error(bytes: Vec<u8>) {
        let _ = Question::read(&bytes);
    }

    #[test]
    fn damaged_questions_are_a_question_or_an_error(at in 0usize..40, byte: u8, len in 0usize..60) {
        let mut bytes = question("www.example.net", Rtype::A);
        let last = bytes.len() - 1;
        bytes[at.min(last)] = byte;
        bytes.truncate(len);
        if let Ok(question) = Question::read(&bytes) {
            question.answer(&crate::reply::Answer::Failure, &NetMap::default(), 512);
        }
    }
}
