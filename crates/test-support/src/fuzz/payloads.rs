//! Chooses what client and server send: messages of each kind, or arbitrary bytes.

use super::input::Input;
use crate::smb::messages::{Message, SAMPLE_ZERO, Signature, answer, framed, setup, write_raw};

pub(super) fn by_client(kind: u8, more: u8, input: &mut Input<'_>) -> Vec<u8> {
    let signature = match more >> 2 {
        0 | 1 => Signature::None,
        2 => Signature::Placeholder,
        _ => Signature::Mac,
    };
    match (kind, more) {
        (0, _) => {
            let len = input.u8();
            input.bytes(len.into()).to_vec()
        }
        (1, _) => setup(10 + (more & 3), input.u16(), signature),
        (2, gap) => {
            let vc = u16::from(input.u8());
            Message::LogoffThenSessionSetup { vc, gap }.bytes()
        }
        (_, 0) => Message::Negotiate.bytes(),
        (_, 1) => Message::TreeConnect.bytes(),
        (_, 2) => Message::SessionRequest.bytes(),
        (_, 3) => Message::KeepAlive.bytes(),
        (_, 4) => {
            let len = usize::from(input.u8() % 57);
            Message::Short { len }.bytes()
        }
        (_, 5) => {
            let len = input.u8();
            let data = input.bytes(len.into()).to_vec();
            Message::WriteRaw { data }.bytes()
        }
        (_, 6) => {
            let len = input.u8();
            framed(input.bytes(len.into()).to_vec())
        }
        (_, 7) => {
            let len = usize::from(input.u16());
            Message::Write { len }.bytes()
        }
        (_, 8) => write_raw(200, u16::from(input.u8() & 3), false),
        (_, 9) => SAMPLE_ZERO.to_vec(),
        (_, 10) => Message::ReadRaw.bytes(),
        (_, 11) => {
            let len = usize::from(input.u8());
            Message::WriteMpx { len }.bytes()
        }
        (_, _) => {
            let len = usize::from(input.u8());
            Message::Write { len }.bytes()
        }
    }
}

pub(super) fn by_server(kind: u8, input: &mut Input<'_>) -> Vec<u8> {
    match kind {
        0 => answer::negotiated(input.u8()),
        1 => answer::challenge(),
        2 => answer::logged_on(false),
        3 => answer::logged_on(true),
        4 => answer::logon_failure(),
        5 => answer::logged_on_without_tree(),
        6 => answer::smb2(),
        7 => {
            let len = input.u8();
            framed(input.bytes(len.into()).to_vec())
        }
        8 => answer::write_raw(u16::from(input.u8() & 3)),
        9 => {
            let (status, mid) = (input.u8(), input.u8());
            answer::write_complete(status.into(), u16::from(mid & 3))
        }
        10 => answer::written(),
        _ => {
            let len = input.u8();
            input.bytes(len.into()).to_vec()
        }
    }
}
