//! Recognizes session setups on unread flows. With VcNumber 0 they disconnect other users, and
//! otherwise no report would name their client.
//!
//! Without a position in the stream, a message is recognised only at the beginning of a segment.
//! The module never changes or stores a byte.

use super::Shared;
use super::identity::FlowIdentity;
use super::report::{Event, Logon, Outcome, Reason};
use vcgate_wire::nbss::{self, Kind};
use vcgate_wire::packet::Payload;
use vcgate_wire::smb1::{self, Block, Protocol, VC_NUMBER, command};

/// Length of a session setup up to the end of its number, in bytes.
const EXCERPT: usize = nbss::HEADER_LEN + smb1::HEADER_LEN + VC_NUMBER.end;

/// Reports a session setup at the beginning of a client's segment.
pub(super) fn look(
    reason: Reason,
    payload: &Payload<'_>,
    owner: &FlowIdentity,
    shared: &mut Shared,
) {
    let mut bytes = [0; EXCERPT];
    if payload.read(0, &mut bytes) < EXCERPT {
        return;
    }
    if let Some(found) = parse(&bytes) {
        shared.counters.unread_setups += 1;
        let logon = Logon {
            flow: owner.id,
            ends: owner.ends,
            asked: found.vc_number,
            given: found.vc_number,
            outcome: Outcome::Unread(reason),
            words: found.words,
            signed: found.signed,
            negotiated: None,
        };
        shared
            .events
            .push(Event::Logon(logon), &mut shared.counters);
    }
}

struct Found {
    words: u8,
    signed: bool,
    vc_number: u16,
}

fn parse(bytes: &[u8; EXCERPT]) -> Option<Found> {
    let (transport, message) = bytes.split_first_chunk()?;
    let (header, block) = message.split_first_chunk::<{ smb1::HEADER_LEN }>()?;
    let transport = nbss::Header::from(*transport);
    let is_smb1 = Protocol::from(*header.first_chunk()?) == Protocol::Smb1;
    let (header, block) = (smb1::Header::from(*header), Block::from(block));
    let is_setup = header.command() == command::SESSION_SETUP_ANDX && !header.is_response();
    if transport.kind != Kind::Message || !is_smb1 || !is_setup {
        return None;
    }
    Some(Found {
        words: block.word_count()?,
        signed: header.is_signed(),
        vc_number: block.vc_number()?,
    })
}
