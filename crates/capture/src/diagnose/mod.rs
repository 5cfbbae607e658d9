//! Finds in a capture whether users cut one another off with VcNumber 0, and says so in words.
//!
//! It reads files and nothing else: it never captures, and never asks the network.
//!
//! ```text
//! capture ─ link ─ segment ─ watch ─ connection ─┬─ stream        a direction in order
//! (pcap, pcapng, gzip)         │                 ├─ conversation  the messages in it
//!                              │                 └─ traces        its sequence numbers
//!                            twins                              what was captured twice
//!                           findings ─ verdict
//!                              └─ report ─ against (another capture)
//! ```

mod activity;
mod against;
mod capture;
mod connection;
mod conversation;
mod findings;
mod link;
mod messages;
mod report;
mod segment;
mod stream;
#[cfg(test)]
mod tests;
mod time;
mod traces;
mod twins;
mod verdict;
mod watch;

pub use capture::{End, Error};
pub use findings::{Counts, Ending, Request, Signing};
pub use report::{Capture, Matched, Report};
pub use time::Time;
pub use verdict::{Kind, Sureness, Verdict};

use conversation::Moment;
use segment::Packet;
use std::io::Read;
use watch::{Flow, Watch};

/// A capture that was read.
#[derive(Debug)]
pub struct Diagnosis {
    report: Report,
    flows: Vec<Flow>,
}

impl Diagnosis {
    /// Reads a capture: pcap or pcapng, plain or gzip.
    pub fn read(input: impl Read + Send) -> Result<Self, Error> {
        let mut watch = Watch::new();
        let mut links = Vec::new();
        let (mut frames, mut first, mut last) = (0, None, None);
        let end = capture::read(input, |frame| {
            frames = frame.number;
            first = first.min(Some(frame.time)).or(Some(frame.time));
            last = last.max(Some(frame.time));
            watch.counts.cut_frames += u64::from(frame.cut);
            if !links.contains(&frame.link) && links.len() < 16 {
                links.push(frame.link);
            }
            let Some(packet) = link::ip_packet(frame.link, frame.bytes) else {
                return;
            };
            match segment::parse(packet) {
                Packet::Tcp(segment) => {
                    let moment = Moment {
                        frame: frame.number,
                        time: frame.time,
                    };
                    watch.learn(&segment, moment);
                }
                Packet::Fragment => watch.counts.fragments += 1,
                Packet::Tunnel => watch.counts.tunnel_packets += 1,
                Packet::Other => {}
            }
        })?;
        watch.finish();
        twins::drop_copies(&mut watch);
        let unknown = |link: &i32| format!("unknown link type {link}");
        let name = |link: &i32| link::name(*link).map_or_else(|| unknown(link), str::to_owned);
        let mut report = Report {
            verdict: verdict::judge(&watch.requests, &watch.endings, &watch.counts),
            capture: Capture {
                end,
                frames,
                first,
                last,
                links: links.iter().map(name).collect(),
            },
            counts: watch.counts,
            requests: watch.requests,
            endings: watch.endings,
            matched: Vec::new(),
        };
        let inner = watch.flows.iter().filter_map(|f| Some((f.ends, f.inner?)));
        against::name_all(&mut report, &inner.collect());
        Ok(Self {
            report,
            flows: watch.flows,
        })
    }

    /// Names the clients as another capture has them, taken on the other side of a NAT. Returns
    /// how many connections were found in it.
    pub fn name_clients(&mut self, other: &Self) -> usize {
        let found = against::find_all(&self.flows, &other.flows);
        against::name_all(&mut self.report, &found);
        found.len()
    }

    /// What was found.
    pub fn report(&self) -> &Report {
        &self.report
    }
}
