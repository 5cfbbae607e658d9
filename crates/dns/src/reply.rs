//! DNS messages to clients: errors, answers from here, and answers of servers with the client's own
//! question and EDNS record. It decides nothing about names.

use crate::name::DnsName;
use crate::upstream::Flags;
use bytes::Bytes;
use domain::base::iana::{Class, Opcode, OptRcode, Rcode, Rtype};
use domain::base::message_builder::{AdditionalBuilder, AnswerBuilder, PushError};
use domain::base::name::FlattenInto;
use domain::base::record::ParsedRecord;
use domain::base::{Message, MessageBuilder, ParsedName, Record, StaticCompressor, Ttl};
use domain::rdata::{A, Aaaa, AllRecordData, Cname, Ptr};
use std::net::IpAddr;
use vcgate_core::netmap::NetMap;

/// Maximum size of an answer over UDP to a client without EDNS, in bytes (RFC 1035 section 4.2.1).
const MIN_UDP_SIZE: u16 = 512;
/// Maximum size of an answer over UDP: it fits in one packet of the tunnel.
const MAX_UDP_SIZE: u16 = 1232;
/// The EDNS version (RFC 6891 section 6.1.3).
const EDNS_VERSION: u8 = 0;

type Target = StaticCompressor<Vec<u8>>;

/// Writes a server's answer as the client gets it, at most `limit` bytes. `None` if either is not a
/// message, or the question asks for nothing. The server does this with the answers that it gets.
pub fn relay(question: &[u8], answer: &[u8], netmap: &NetMap, limit: usize) -> Option<Vec<u8>> {
    let question = Question::read(question).ok()?;
    let message = Message::from_octets(Bytes::copy_from_slice(answer)).ok()?;
    let answer = Answer::Forwarded(Forwarded {
        message,
        asked: None,
        cached: false,
    });
    Some(question.answer(&answer, netmap, limit))
}

/// A client's question.
#[derive(Debug)]
pub(crate) struct Question {
    message: Message<Vec<u8>>,
    pub name: DnsName,
    pub rtype: Rtype,
    pub flags: Flags,
    /// Maximum size of the answer over UDP; `None` without EDNS.
    edns_size: Option<u16>,
}

/// An answer to a question.
#[derive(Debug, Clone)]
pub(crate) enum Answer {
    /// An answer from here.
    Local(Vec<Data>, Ttl),
    /// The name does not exist.
    NoName,
    /// The answer of a server.
    Forwarded(Forwarded),
    /// No source answers.
    Failure,
    /// The question is not answered for anybody.
    Refused,
}

/// The answer of a server.
#[derive(Debug, Clone)]
pub(crate) struct Forwarded {
    pub message: Message<Bytes>,
    /// The name that the server was asked for, if it is another one than the client's.
    pub asked: Option<DnsName>,
    /// Whether it is from the cache.
    pub cached: bool,
}

/// The data of a record.
#[derive(Debug, Clone)]
pub(crate) enum Data {
    Address(IpAddr),
    Pointer(DnsName),
}

impl Question {
    /// Reads a client's message.
    ///
    /// # Errors
    /// The answer to a message that is no question, if one is due.
    pub(crate) fn read(bytes: &[u8]) -> Result<Self, Option<Vec<u8>>> {
        let message = Message::from_octets(bytes.to_vec()).map_err(|_| None)?;
        let header = message.header();
        if header.qr() {
            return Err(None);
        }
        let error = |rcode| Some(failure(&message, rcode));
        if header.opcode() != Opcode::QUERY {
            return Err(error(Rcode::NOTIMP));
        }
        let question = message.sole_question().map_err(|_| error(Rcode::FORMERR))?;
        let name = question.qname().try_flatten_into();
        let name: DnsName = name.map_err(|_| error(Rcode::FORMERR))?;
        let rtype = question.qtype();
        let is_internet = question.qclass() == Class::IN;
        let opt = message.opt();
        if opt.as_ref().is_some_and(|opt| opt.version() > EDNS_VERSION) {
            return Err(Some(bad_version(&message)));
        }
        if !is_internet || matches!(rtype, Rtype::AXFR | Rtype::IXFR) {
            return Err(error(Rcode::REFUSED));
        }
        let flags = Flags {
            checking_disabled: header.cd(),
            dnssec_ok: opt.as_ref().is_some_and(|opt| opt.dnssec_ok()),
            authentic: header.ad(),
        };
        let edns_size = opt.map(|opt| opt.udp_payload_size());
        Ok(Self {
            name,
            rtype,
            flags,
            edns_size,
            message,
        })
    }

    /// Maximum size of the answer over UDP in bytes.
    pub(crate) fn udp_size(&self) -> usize {
        let size = self.edns_size.unwrap_or(MIN_UDP_SIZE);
        size.clamp(MIN_UDP_SIZE, MAX_UDP_SIZE).into()
    }

    /// Writes the answer, with the addresses that clients know. If it is longer than `limit` bytes, the
    /// client is asked to come by TCP.
    pub(crate) fn answer(&self, answer: &Answer, netmap: &NetMap, limit: usize) -> Vec<u8> {
        match self.compose(answer, netmap) {
            Ok(message) if message.len() <= limit => message,
            Ok(_) => self.truncated(),
            Err(_) => failure(&self.message, Rcode::SERVFAIL),
        }
    }

    fn compose(&self, answer: &Answer, netmap: &NetMap) -> Result<Vec<u8>, Incomplete> {
        let rcode = match answer {
            Answer::Local(..) => Rcode::NOERROR,
            Answer::NoName => Rcode::NXDOMAIN,
            Answer::Forwarded(forwarded) => forwarded.message.header().rcode(),
            Answer::Failure => Rcode::SERVFAIL,
            Answer::Refused => Rcode::REFUSED,
        };
        let mut builder = start(&self.message, rcode)?;
        match answer {
            Answer::Local(data, ttl) => {
                builder.header_mut().set_aa(true);
                for data in data {
                    push(&mut builder, &self.name, *ttl, data, netmap)?;
                }
                self.finish(builder.additional())
            }
            Answer::NoName => {
                builder.header_mut().set_aa(true);
                self.finish(builder.additional())
            }
            Answer::Forwarded(Forwarded { message, asked, .. }) => {
                builder.header_mut().set_ad(message.header().ad());
                builder.header_mut().set_cd(self.flags.checking_disabled);
                if let Some(asked) = asked {
                    let alias = Cname::new(asked);
                    builder.push((&self.name, Class::IN, shortest(message), alias))?;
                }
                self.finish(copy(message, builder, netmap)?)
            }
            Answer::Failure | Answer::Refused => self.finish(builder.additional()),
        }
    }

    fn truncated(&self) -> Vec<u8> {
        let truncated = || {
            let mut builder = start(&self.message, Rcode::NOERROR)?;
            builder.header_mut().set_tc(true);
            self.finish(builder.additional())
        };
        truncated().unwrap_or_else(|_: Incomplete| failure(&self.message, Rcode::SERVFAIL))
    }

    /// Adds the EDNS record, if the client sent one (RFC 6891 section 6.1.1).
    fn finish(&self, mut builder: AdditionalBuilder<Target>) -> Result<Vec<u8>, Incomplete> {
        if self.edns_size.is_some() {
            builder.opt(|opt| {
                opt.set_udp_payload_size(MAX_UDP_SIZE);
                opt.set_dnssec_ok(self.flags.dnssec_ok);
                Ok(())
            })?;
        }
        Ok(builder.finish().into_target())
    }
}

/// An answer cannot be written: it is too long, or that of the server is malformed.
#[derive(Debug)]
struct Incomplete;

impl From<PushError> for Incomplete {
    fn from(_: PushError) -> Self {
        Self
    }
}

impl From<domain::base::wire::ParseError> for Incomplete {
    fn from(_: domain::base::wire::ParseError) -> Self {
        Self
    }
}

fn start(question: &Message<Vec<u8>>, rcode: Rcode) -> Result<AnswerBuilder<Target>, Incomplete> {
    let builder = MessageBuilder::from_target(StaticCompressor::new(Vec::new()));
    let builder = builder.map_err(|_| Incomplete)?;
    let mut answer = builder.start_answer(question, rcode)?;
    answer.header_mut().set_ra(true);
    Ok(answer)
}

/// Returns an answer without records.
fn failure(question: &Message<Vec<u8>>, rcode: Rcode) -> Vec<u8> {
    let answer = MessageBuilder::new_vec().start_error(question, rcode);
    answer.finish()
}

/// Refuses a newer version of EDNS (RFC 6891 section 6.1.3).
fn bad_version(question: &Message<Vec<u8>>) -> Vec<u8> {
    let refused = || {
        let mut builder = start(question, Rcode::NOERROR)?.additional();
        builder.opt(|opt| {
            opt.set_udp_payload_size(MAX_UDP_SIZE);
            opt.set_rcode(OptRcode::BADVERS);
            Ok(())
        })?;
        Ok(builder.finish().into_target())
    };
    refused().unwrap_or_else(|_: Incomplete| failure(question, Rcode::FORMERR))
}

fn push(
    builder: &mut AnswerBuilder<Target>,
    name: &DnsName,
    ttl: Ttl,
    data: &Data,
    netmap: &NetMap,
) -> Result<(), PushError> {
    match data {
        Data::Address(address) => match netmap.to_client(*address) {
            Some(IpAddr::V4(address)) => builder.push((name, Class::IN, ttl, A::new(address))),
            Some(IpAddr::V6(address)) => builder.push((name, Class::IN, ttl, Aaaa::new(address))),
            None => Ok(()),
        },
        Data::Pointer(name_of) => builder.push((name, Class::IN, ttl, Ptr::new(name_of))),
    }
}

/// Copies the records of a server's answer, but not its EDNS record, which is for us. Addresses that
/// mean other hosts to clients are left out.
fn copy(
    message: &Message<Bytes>,
    mut builder: AnswerBuilder<Target>,
    netmap: &NetMap,
) -> Result<AdditionalBuilder<Target>, Incomplete> {
    let mut section = message.answer()?;
    for record in &mut section {
        if let Some(record) = mapped(parsed(record?)?, netmap) {
            builder.push(record)?;
        }
    }
    let mut section = section.next_section()?.ok_or(Incomplete)?;
    let mut builder = builder.authority();
    for record in &mut section {
        builder.push(parsed(record?)?)?;
    }
    let section = section.next_section()?.ok_or(Incomplete)?;
    let mut builder = builder.additional();
    for record in section {
        let record = record?;
        if record.rtype() == Rtype::OPT {
            continue;
        }
        if let Some(record) = mapped(parsed(record)?, netmap) {
            builder.push(record)?;
        }
    }
    Ok(builder)
}

type AnyRecord<'m> = Record<ParsedName<Bytes>, AllRecordData<Bytes, ParsedName<Bytes>>>;

fn parsed(record: ParsedRecord<'_, Bytes>) -> Result<AnyRecord<'_>, Incomplete> {
    record.into_record()?.ok_or(Incomplete)
}

/// Returns the record with the address that clients know; `None` if it means another host to them.
fn mapped<'m>(mut record: AnyRecord<'m>, netmap: &NetMap) -> Option<AnyRecord<'m>> {
    match record.data_mut() {
        AllRecordData::A(data) => match netmap.to_client(data.addr().into())? {
            IpAddr::V4(address) => data.set_addr(address),
            IpAddr::V6(_) => return None,
        },
        AllRecordData::Aaaa(data) => match netmap.to_client(data.addr().into())? {
            IpAddr::V6(address) => data.set_addr(address),
            IpAddr::V4(_) => return None,
        },
        _ => {}
    }
    Some(record)
}

/// Returns the shortest lifetime of an answer's records.
fn shortest(message: &Message<Bytes>) -> Ttl {
    let records = message.answer().into_iter().flatten();
    let lifetimes = records.filter_map(|record| Some(record.ok()?.ttl()));
    lifetimes.min().unwrap_or(Ttl::ZERO)
}
