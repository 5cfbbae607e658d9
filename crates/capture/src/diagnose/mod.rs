//! Analyses a capture: do VcNumbers 0 disconnect users, and why?
//!
//! It reads files and nothing else: it never captures, and never uses the network.
//!
//! ```text
//! capture ─ segment ─ reorder ─ watch ─ connection ─┬─ stream        a direction in order
//! (pcap,    (link,     by time    │                 ├─ conversation  the messages in it
//!  pcapng,   encapsu-             │                 └─ fingerprint   its sequence numbers
//!  gzip)     lation)          duplicates                             captured twice
//!                                 │
//!                             findings ─ verdict
//!                                 └─ report ─ against (another capture)
//! ```
//!
//! `server` groups the connections by server and client; `flow` is a connection in the terms of a report.

mod activity;
mod against;
mod capture;
mod connection;
mod conversation;
mod duplicates;
mod encapsulation;
mod findings;
mod fingerprint;
mod flow;
mod link;
mod messages;
mod reorder;
mod report;
mod segment;
mod server;
mod stream;
#[cfg(test)]
mod tests;
mod timestamp;
mod unread;
mod verdict;
mod watch;

pub use capture::{End, Error};
pub use findings::{Counts, Ending, Request, Signing};
pub use report::{Capture, Matched, Report};
pub use timestamp::Timestamp;
pub use unread::Unread;
pub use verdict::{Confidence, Kind, Verdict};

use conversation::FrameStamp;
use flow::{Ends, Flow};
use reorder::{Held, Reorder};
use segment::Packet;
use std::io::Read;
use unread::{Reason, Tally};
use watch::Watch;

/// A capture that was read.
#[derive(Debug)]
pub struct Diagnosis {
    report: Report,
    flows: Vec<Flow>,
}

impl Diagnosis {
    /// Reads a capture: pcap or pcapng, plain or gzip.
    ///
    /// # Errors
    /// If the input cannot be read at all, is empty, or is not a capture. Anything wrong after that
    /// ends the reading, and the report says so.
    pub fn read(input: impl Read + Send) -> Result<Self, Error> {
        let mut watch = Watch::new();
        let mut reorder = Reorder::new();
        let mut links = Vec::new();
        let mut unread = Tally::default();
        let (mut frames, mut first, mut last, mut snap_length) = (0, None, None, None);
        let end = capture::read(input, |frame| {
            frames = frame.number;
            first = first.min(Some(frame.time)).or(Some(frame.time));
            last = last.max(Some(frame.time));
            if frame.cut {
                watch.counts.cut_frames += 1;
                snap_length = snap_length.max(Some(frame.bytes.len() as u64));
            }
            if !links.contains(&frame.link) && links.len() < 16 {
                links.push(frame.link);
            }
            match segment::parse(frame.link, frame.bytes) {
                Packet::Unread(reason) => unread.add(reason),
                packet if watch::is_relevant(&packet) => {
                    let next = reorder.push(Held {
                        time: frame.time,
                        number: frame.number,
                        link: frame.link,
                        bytes: frame.bytes.into(),
                    });
                    next.iter().for_each(|held| learn(&mut watch, held));
                }
                _ => {}
            }
        })?;
        while let Some(held) = reorder.pop() {
            learn(&mut watch, &held);
        }
        watch.finish();
        watch.counts.fragments = unread.sum(|reason| reason == Reason::Fragment);
        watch.counts.tunnel_packets = unread.sum(Reason::is_vpn);
        duplicates::drop_copies(&mut watch);
        let unknown = |link: &i32| format!("unknown link type {link}");
        let name = |link: &i32| link::name(*link).map_or_else(|| unknown(link), str::to_owned);
        let capture = Capture {
            end,
            frames,
            first,
            last,
            links: links.iter().map(name).collect(),
            snap_length,
            unread: unread.list(),
            out_of_order: reorder.late,
        };
        let mut report = Report::new(capture, watch.counts, watch.requests, watch.endings);
        let inner = watch.flows.iter().filter_map(|f| Some((f.ends, f.inner?)));
        against::apply_names(&mut report, &inner.collect());
        Ok(Self {
            report,
            flows: watch.flows,
        })
    }

    /// Names the clients as another capture has them, taken on the other side of a NAT. Returns
    /// how many connections were found in it.
    pub fn name_clients(&mut self, other: &Self) -> usize {
        let found = against::find_all(&self.flows, &other.flows);
        against::apply_names(&mut self.report, &found);
        found.len()
    }

    /// The findings.
    pub fn report(&self) -> &Report {
        &self.report
    }
}

fn learn(watch: &mut Watch, held: &Held) {
    let stamp = FrameStamp {
        frame: held.number,
        time: held.time,
    };
    match segment::parse(held.link, &held.bytes) {
        Packet::Tcp(segment) => watch.learn(&segment, stamp),
        Packet::Unreachable(client, server) => watch.refused(Ends { client, server }),
        Packet::Unread(_) | Packet::Other => {}
    }
}
