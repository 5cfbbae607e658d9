//! The DNS server for the endpoint's clients. It answers from static records and names of peers,
//! forwards other questions to the servers of the LAN, caches their answers, and finds NetBIOS names
//! of the LAN that no server knows.
//!
//! ```text
//! server     sockets, connections, one task for each question
//! clients    which client has an address
//! limits     what one client may ask for
//! resolver   the order in which sources are asked
//! names      what is known here: records, peers, reverse zones
//! search     the questions to ask about other names
//! upstream   servers of the LAN and the cache
//! netbios    broadcasts on the LAN, or WINS servers
//! nbns       NetBIOS name service messages
//! counters   questions by outcome
//! reply      DNS messages to clients
//! name       domain names, and reverse names of addresses
//! ```
//!
//! A file imports only files below it. The crate knows nothing of tunnels: its sockets belong to the
//! device to which clients are connected, and packets of others do not arrive there.
//!
//! ```
//! use std::net::Ipv4Addr;
//! use vcgate_dns::{Server, Settings};
//!
//! # #[tokio::main(flavor = "current_thread")]
//! # async fn main() -> Result<(), Box<dyn std::error::Error>> {
//! let settings = Settings {
//!     search: vec!["lan.example".into()],
//!     records: vec![("filesrv".into(), vec!["192.168.77.10".parse()?])],
//!     ..Settings::default()
//! };
//! let server = Server::new(settings).await;
//!
//! // One question: the address (type A, class IN) of filesrv.lan.example.
//! let header = [0x12, 0x34, 1, 0, 0, 1, 0, 0, 0, 0, 0, 0];
//! let name = b"\x07filesrv\x03lan\x07example\x00";
//! let question = [&header[..], name, &[0, 1, 0, 1]].concat();
//! let client = Ipv4Addr::new(10, 8, 0, 11).into();
//! let answer = server.answer(client, &question).await.ok_or("no answer")?;
//! assert_eq!(answer[..2], [0x12, 0x34]);
//! assert!(answer.ends_with(&[192, 168, 77, 10]));
//! # Ok(())
//! # }
//! ```

mod clients;
mod counters;
mod limits;
mod name;
mod names;
pub mod nbns;
mod netbios;
mod reply;
mod resolver;
mod search;
mod server;
mod settings;
mod upstream;

pub use counters::Counters;
pub use reply::relay;
pub use server::{Server, Sockets};
pub use settings::{Netbios, Peer, Settings};
