//! The hook between a client, a bad network and a server.

mod anonymous;
mod answers;
mod crafted;
mod disconnect;
mod fairness;
mod hostile;
mod hostile_segments;
mod modes;
mod numbers;
mod properties;
mod raw;
mod receiver;
mod reply;
mod segments;
mod snapshot;
mod stale;
mod streams;
mod unacknowledged;

use vcgate_core::smb::{Event, Hook, Logon, Mode, Reason, Settings, Unreadable, Verdict};
use vcgate_test_support::smb::link::SimulatedLink;
use vcgate_test_support::smb::messages::{Signature, VC_AT, setup};

/// A hook that lets unreadable streams pass, so that they can be looked at.
fn hook(mode: Mode) -> Hook {
    Hook::new(Settings {
        mode,
        unreadable: Unreadable::Pass,
        ..Settings::default()
    })
}

/// Sends the whole stream in one segment; returns what arrived.
fn sent(link: &mut SimulatedLink, hook: &mut Hook, stream: &[u8]) -> Vec<u8> {
    let from = link.next();
    assert_eq!(
        link.send(hook, stream, from..stream.len(), 0),
        Verdict::Pass
    );
    link.received()
}

/// The VcNumber that a server gets for a session setup that asks for `vc` on a new flow.
fn given(hook: &mut Hook, slot: u32, vc: u16) -> u16 {
    let bytes = sent(
        &mut SimulatedLink::open(hook, slot, 7),
        hook,
        &setup(12, vc, Signature::None),
    );
    vc_at(&bytes, VC_AT)
}

fn vc_at(bytes: &[u8], at: usize) -> u16 {
    u16::from_le_bytes([bytes[at], bytes[at + 1]])
}

fn events(hook: &mut Hook) -> Vec<Event> {
    std::iter::from_fn(|| hook.poll_event()).collect()
}

fn logons(hook: &mut Hook) -> Vec<Logon> {
    let only_logons = |event| match event {
        Event::Logon(logon) => Some(logon),
        _ => None,
    };
    events(hook).into_iter().filter_map(only_logons).collect()
}

fn bypass(hook: &Hook, link: &SimulatedLink) -> Option<Reason> {
    hook.flow(link.id).and_then(|report| report.bypass)
}
