//! `vcgate capture` and `vcgate diagnose`.

use super::*;

/// An empty pcap file of raw IP packets.
const EMPTY_PCAP: [u8; 24] = [
    0xD4, 0xC3, 0xB2, 0xA1, 2, 0, 4, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 4, 0, 101, 0, 0, 0,
];

#[test]
fn diagnose_reports_empty_captures() {
    let dir = tempfile::tempdir().unwrap();
    fs::write(dir.path().join("a.pcap"), EMPTY_PCAP).unwrap();
    let done = vcgate(dir.path(), &["diagnose", "a.pcap"]);
    assert_done(&done);
    assert!(done.stdout.starts_with("a.pcap: 0 frames\n"), "{done:?}");
    assert!(done.stdout.contains("No connection to a file server"));
    let done = vcgate(dir.path(), &["diagnose", "a.pcap", "--json"]);
    assert_done(&done);
    let report: serde_json::Value = serde_json::from_str(&done.stdout).unwrap();
    assert_eq!(report["verdict"]["kind"], "no_smb");
    assert_eq!(report["capture"]["end"]["how"], "whole");
    // A truncated record.
    fs::write(
        dir.path().join("a.pcap"),
        [&EMPTY_PCAP[..], &[0; 7]].concat(),
    )
    .unwrap();
    let done = vcgate(dir.path(), &["diagnose", "a.pcap"]);
    assert_done(&done);
    assert!(
        done.stdout
            .contains("the file is cut off in the record at byte 24")
    );
}

#[test]
fn diagnose_counts_the_connections_in_both_captures() {
    let dir = tempfile::tempdir().unwrap();
    for (name, client, seq) in [("lan", 2, 5), ("inside", 11, 5), ("elsewhere", 11, 6)] {
        // A SYN from 10.0.0.X:49152 to 192.168.77.10:445.
        let syn: [u8; 40] = [
            0x45, 0, 0, 40, 0, 1, 0x40, 0, 64, 6, 0, 0, 10, 0, 0, client, 192, 168, 77, 10, 0xC0,
            0, 0x01, 0xBD, 0, 0, 0, seq, 0, 0, 0, 0, 0x50, 2, 1, 0, 0, 0, 0, 0,
        ];
        let record = [0u32, 0, 40, 40].map(u32::to_le_bytes).concat();
        fs::write(
            dir.path().join(name),
            [&EMPTY_PCAP[..], &record, &syn].concat(),
        )
        .unwrap();
    }
    let found = vcgate(dir.path(), &["diagnose", "lan", "--against", "inside"]);
    assert_done(&found);
    assert!(
        found
            .stdout
            .contains("\n  1 of 1 connection found in inside\n"),
        "{found:?}"
    );
    let none = vcgate(dir.path(), &["diagnose", "lan", "--against", "elsewhere"]);
    assert!(
        none.stderr
            .contains("cannot match any of 1 connection in elsewhere: not the same connections"),
        "{none:?}"
    );
    assert_eq!(none.code, Some(0));
}

#[test]
fn diagnose_reads_stdin() {
    let dir = tempfile::tempdir().unwrap();
    let done = run(command(dir.path(), &["diagnose", "-"]), &EMPTY_PCAP);
    assert_done(&done);
    assert!(done.stdout.starts_with("stdin: 0 frames\n"), "{done:?}");
    let both = vcgate(dir.path(), &["diagnose", "-", "--against", "-"]);
    assert_eq!(both.code, Some(2));
    assert!(both.stderr.contains("cannot read both captures from stdin"));
}

#[test]
fn diagnose_reports_why_a_file_cannot_be_read() {
    let dir = tempfile::tempdir().unwrap();
    let missing = vcgate(dir.path(), &["diagnose", "a.pcap"]);
    assert_fails(
        missing,
        1,
        "error: cannot read a.pcap: No such file or directory (os error 2); name a capture; \
         \"vcgate capture --side lan -w FILE\" takes one\n",
    );
    fs::write(dir.path().join("a.pcap"), "hello, I am a text").unwrap();
    let text = vcgate(dir.path(), &["diagnose", "a.pcap"]);
    assert_fails(
        text,
        1,
        "error: cannot read a.pcap: byte 0: not a pcap or pcapng file; write one with `tcpdump -w FILE` \
         or save it from Wireshark as pcapng\n",
    );
    fs::write(dir.path().join("b.pcap"), "").unwrap();
    let empty = vcgate(dir.path(), &["diagnose", "b.pcap"]);
    assert_eq!(empty.code, Some(1));
    assert!(
        empty
            .stderr
            .starts_with("error: cannot read b.pcap: the file is empty"),
        "{empty:?}"
    );
}

#[test]
fn capture_requires_a_file_and_an_endpoint() {
    let dir = tempfile::tempdir().unwrap();
    for (arguments, missing) in [
        (&["capture"][..], "--write <FILE>"),
        (
            &["capture", "-w"],
            "a value is required for '--write <FILE>'",
        ),
        (
            &["capture", "-w", "a.pcapng", "--side", "both sides"],
            "[possible values: tunnel, lan, both]",
        ),
    ] {
        let done = vcgate(dir.path(), arguments);
        assert_eq!((done.code, &*done.stdout), (Some(2), ""));
        assert!(done.stderr.contains(missing), "{done:?}");
    }
    // The existing file is not changed unless a capture starts.
    let file = dir.path().join("a.pcapng");
    fs::write(&file, "an earlier one").unwrap();
    let done = vcgate(
        dir.path(),
        &["capture", "-w", "a.pcapng", "--interface", "vcgate-none"],
    );
    assert_eq!((done.code, &*done.stdout), (Some(1), ""));
    let said = "error: no endpoint is running as vcgate-none";
    assert!(done.stderr.starts_with(said), "{done:?}");
    assert_eq!(fs::read(&file).unwrap(), b"an earlier one");
}
