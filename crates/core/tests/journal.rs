//! Flow journals that are cut, damaged or made up: their flows are lost or restored, and nothing else
//! happens.

use proptest::prelude::*;
use std::path::Path;
use vcgate_core::journal::{ReplayError, encode, replay};
use vcgate_test_support::fuzz;

/// Returns the journals and bodies of frames of the fuzz target's corpus.
fn corpus() -> Vec<Vec<u8>> {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../fuzz/corpus/journal");
    let mut files: Vec<_> = std::fs::read_dir(folder)
        .unwrap()
        .map(|entry| entry.unwrap().path())
        .collect();
    files.sort();
    files
        .iter()
        .map(|file| std::fs::read(file).unwrap())
        .collect()
}

/// Returns a journal of two frames that contain records.
fn journal() -> Vec<u8> {
    let bodies = corpus().into_iter().filter(|file| file[0] != b'v');
    let mut journal = encode::head().to_vec();
    for body in bodies.take(2) {
        encode::append_body(&mut journal, &body);
    }
    journal
}

/// The journal of a killed process, written by the first build with this format: flows of TCP, UDP, SMB1,
/// SMB3, IPv6 and a forward, two shards. A build that cannot read it needs another format number,
/// and then a new file.
#[test]
fn a_journal_of_an_earlier_build_with_this_format_is_read() {
    let name = format!("tests/journal.format{}", encode::FORMAT);
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join(name);
    let mut read = replay(&std::fs::read(path).unwrap()).unwrap();
    assert_eq!(read.torn, 0);
    assert_eq!(read.state.flow_count(), 10);
    // A snapshot of it has the same meaning.
    let mut snapshot = encode::head().to_vec();
    read.state.append_to(&mut snapshot);
    assert_eq!(
        replay(&snapshot).unwrap().state.describe(),
        read.state.describe()
    );
}

#[test]
fn a_tail_of_any_length_may_be_missing() {
    let whole = journal();
    let all = replay(&whole).unwrap();
    assert_eq!(all.torn, 0);
    assert!(all.state.flow_count() > 1);
    let mut counts = Vec::new();
    for len in encode::HEAD_LEN..whole.len() {
        let cut = replay(&whole[..len]).unwrap();
        counts.push(cut.state.flow_count());
        assert!(cut.torn < whole.len());
    }
    // The frames are applied one after the other, and each as a whole.
    counts.dedup();
    assert_eq!(counts.len(), 2, "{counts:?}");
    for len in 0..encode::HEAD_LEN {
        assert_eq!(replay(&whole[..len]).unwrap_err(), ReplayError::Head);
    }
}

#[test]
fn a_changed_byte_is_damage_or_a_torn_tail() {
    let whole = journal();
    let all = replay(&whole).unwrap().state;
    for at in 0..whole.len() {
        let mut damaged = whole.clone();
        damaged[at] ^= 0x40;
        match replay(&damaged) {
            Err(_) => {}
            // A length beyond the end.
            Ok(read) => assert!(read.torn > 0 && read.state != all, "byte {at}"),
        }
    }
}

proptest! {
    #[test]
    fn any_bytes_are_restored_or_refused(bytes in prop::collection::vec(any::<u8>(), 0..300)) {
        fuzz::journal(&bytes);
    }

    #[test]
    fn any_changed_records_are_restored_or_refused(
        file in any::<prop::sample::Index>(),
        changes in prop::collection::vec((any::<prop::sample::Index>(), any::<u8>()), 1..6),
    ) {
        let mut bytes = corpus().swap_remove(file.index(corpus().len()));
        for (at, value) in changes {
            let at = at.index(bytes.len());
            bytes[at] = value;
        }
        fuzz::journal(&bytes);
    }
}
