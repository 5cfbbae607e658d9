//! The port log as it is written and queried.

use super::*;
use crate::config::LogFile;
use std::fs;
use std::io::{BufRead, BufReader};
use std::ops::Range;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use tempfile::TempDir;

fn settings(dir: &TempDir) -> LogFile {
    LogFile {
        file: dir.path().join("log/ports.jsonl"),
        size: 16 << 20,
        keep: 3,
    }
}

fn ports(peer: &str, last_octet: u8, first: u16) -> Ports {
    Ports {
        peer: peer.into(),
        client: IpAddr::from([10, 8, 0, last_octet]),
        lan_address: IpAddr::from([192, 168, 77, 2]),
        first_port: first,
        last_port: first + 63,
        protocol: None,
    }
}

/// Port 1030, forwarded to Bert.
fn forward(client: &str) -> Ports {
    let client: IpAddr = client.parse().unwrap();
    let lan_address = match client {
        IpAddr::V4(_) => "192.168.77.2",
        IpAddr::V6(_) => "fd00:77::2",
    };
    Ports {
        client,
        lan_address: lan_address.parse().unwrap(),
        first_port: 1030,
        last_port: 1030,
        protocol: Some(Transport::Tcp),
        ..ports("bert", 12, 0)
    }
}

/// The holders of a port, as `peer since until`.
fn who(settings: &LogFile, port: u16, at: u64) -> Vec<(String, u64, Option<u64>)> {
    let answer = query(&settings.file, settings.keep, port, Timestamp(at)).unwrap();
    assert_eq!(answer.damaged, 0);
    let brief = |h: Holder| (h.ports.peer, h.since.0, h.until.map(|until| until.0));
    answer.holders.into_iter().map(brief).collect()
}

#[test]
fn rfc6888_req12_rfc6888_req14_one_line_a_block_and_no_destinations() {
    let dir = TempDir::new().unwrap();
    let settings = settings(&dir);
    let mut log = Writer::open(&settings, Timestamp(1_700_000_000)).unwrap();
    log.given(ports("anna", 11, 1024), Timestamp(1_700_000_001));
    log.returned(&ports("anna", 11, 1024).key(), Timestamp(1_700_000_121));
    log.stop(Timestamp(1_700_000_200));
    let block = concat!(
        r#""peer":"anna","client":"10.8.0.11","lan_address":"192.168.77.2","#,
        r#""first_port":1024,"last_port":1087}"#
    );
    let expected = [
        r#"{"time":"2023-11-14T22:13:20Z","event":"started"}"#.to_owned(),
        format!(r#"{{"time":"2023-11-14T22:13:21Z","event":"given",{block}"#),
        format!(r#"{{"time":"2023-11-14T22:15:21Z","event":"returned",{block}"#),
        r#"{"time":"2023-11-14T22:16:40Z","event":"stopped"}"#.to_owned(),
    ];
    let text = fs::read_to_string(&settings.file).unwrap();
    assert_eq!(text.lines().collect::<Vec<_>>(), expected);
    let mode = |path: &Path| path.metadata().unwrap().permissions().mode() & 0o777;
    assert_eq!(mode(&settings.file), 0o600);
    assert_eq!(mode(settings.file.parent().unwrap()), 0o700);
}

#[test]
fn rfc6888_req12_the_log_says_who_had_a_port_at_a_time() {
    let dir = TempDir::new().unwrap();
    let settings = settings(&dir);
    let mut log = Writer::open(&settings, Timestamp(100)).unwrap();
    log.given(ports("anna", 11, 1024), Timestamp(110));
    log.given(ports("bert", 12, 1088), Timestamp(120));
    log.returned(&ports("anna", 11, 1024).key(), Timestamp(130));
    log.given(ports("bert", 12, 1024), Timestamp(140));
    for (port, at, expected) in [
        (1024, 109, vec![]),
        (1024, 110, vec![("anna", 110, Some(130))]),
        (1087, 129, vec![("anna", 110, Some(130))]),
        (1030, 135, vec![]),
        (1030, 999, vec![("bert", 140, None)]),
        (1088, 110, vec![]),
        (1088, 125, vec![("bert", 120, None)]),
        (1152, 125, vec![]),
    ] {
        let expected: Vec<_> = expected
            .into_iter()
            .map(|(p, s, u)| (p.to_owned(), s, u))
            .collect();
        assert_eq!(who(&settings, port, at), expected, "{port} at {at}");
    }
}

#[test]
fn ports_of_a_killed_endpoint_end_when_the_next_one_starts() {
    let dir = TempDir::new().unwrap();
    let settings = settings(&dir);
    let mut log = Writer::open(&settings, Timestamp(100)).unwrap();
    log.given(ports("anna", 11, 1024), Timestamp(110));
    drop(log);
    assert_eq!(who(&settings, 1024, 200), [("anna".into(), 110, None)]);
    drop(Writer::open(&settings, Timestamp(300)).unwrap());
    assert_eq!(who(&settings, 1024, 200), [("anna".into(), 110, Some(300))]);
    assert_eq!(who(&settings, 1024, 400), []);
}

#[test]
fn a_forwarded_port_comes_before_the_block_around_it() {
    let dir = TempDir::new().unwrap();
    let settings = settings(&dir);
    let mut log = Writer::open(&settings, Timestamp(100)).unwrap();
    log.given(ports("anna", 11, 1024), Timestamp(110));
    log.given(forward("10.8.0.12"), Timestamp(120));
    let both = [("bert".into(), 120, None), ("anna".into(), 110, None)];
    assert_eq!(who(&settings, 1030, 130), both);
    log.returned(&forward("10.8.0.12").key(), Timestamp(140));
    assert_eq!(who(&settings, 1030, 150), both[1..]);
}

#[test]
fn a_port_that_is_forwarded_in_both_families_has_two_holders() {
    let dir = TempDir::new().unwrap();
    let settings = settings(&dir);
    let mut log = Writer::open(&settings, Timestamp(100)).unwrap();
    log.given(forward("10.8.0.12"), Timestamp(110));
    log.given(forward("fd00:8::12"), Timestamp(120));
    let (four, six) = (("bert".into(), 110, None), ("bert".into(), 120, None));
    assert_eq!(who(&settings, 1030, 130), [four, six.clone()]);
    log.returned(&forward("10.8.0.12").key(), Timestamp(140));
    assert_eq!(who(&settings, 1030, 150), [six]);
}

#[test]
fn files_are_rotated_and_held_ports_are_carried_over() {
    let dir = TempDir::new().unwrap();
    let settings = LogFile {
        size: 2000,
        ..settings(&dir)
    };
    let mut log = Writer::open(&settings, Timestamp(100)).unwrap();
    log.given(ports("anna", 11, 1024), Timestamp(110));
    for round in 0..50 {
        log.given(ports("bert", 12, 2048), Timestamp(200 + 2 * round));
        log.returned(&ports("bert", 12, 2048).key(), Timestamp(201 + 2 * round));
    }
    drop(log);
    let names = |dir: &Path| {
        let mut names: Vec<_> = fs::read_dir(dir)
            .unwrap()
            .map(|entry| entry.unwrap().file_name().into_string().unwrap())
            .collect();
        names.sort();
        names
    };
    let folder = settings.file.parent().unwrap();
    let kept = [
        "ports.jsonl",
        "ports.jsonl.1",
        "ports.jsonl.2",
        "ports.jsonl.3",
    ];
    assert_eq!(names(folder), kept);
    for name in kept {
        let len = folder.join(name).metadata().unwrap().len();
        assert!((1..2500).contains(&len), "{name} has {len} bytes");
    }
    // The file in which it began is gone long since.
    assert_eq!(who(&settings, 1024, 300), [("anna".into(), 110, None)]);
    assert_eq!(who(&settings, 2048, 298), [("bert".into(), 298, Some(299))]);
}

#[test]
fn damaged_lines_are_counted_and_a_missing_file_is_an_error() {
    let dir = TempDir::new().unwrap();
    let settings = settings(&dir);
    let at = Timestamp(500);
    let error = query(&settings.file, settings.keep, 1024, at).unwrap_err();
    assert_eq!(error.kind(), std::io::ErrorKind::NotFound);
    let mut log = Writer::open(&settings, Timestamp(100)).unwrap();
    log.given(ports("anna", 11, 1024), Timestamp(110));
    let cut = fs::read_to_string(&settings.file).unwrap() + "{\"time\":\"2023";
    fs::write(&settings.file, cut).unwrap();
    let result = || query(&settings.file, settings.keep, 1024, at).unwrap();
    assert_eq!((result().holders.len(), result().damaged), (1, 1));
    // The next record begins a new line.
    drop(Writer::open(&settings, Timestamp(400)).unwrap());
    assert_eq!((result().holders.len(), result().damaged), (0, 1));
}

/// Assigns the same block to Anna and Bert in turns, each for a second.
fn write_rounds(log: &mut Writer, rounds: Range<u64>) {
    for round in rounds {
        let (peer, octet) = [("anna", 11), ("bert", 12)][(round % 2) as usize];
        log.given(ports(peer, octet, 1024), Timestamp(200 + 2 * round));
        log.returned(&ports(peer, octet, 1024).key(), Timestamp(201 + 2 * round));
    }
}

fn assert_rounds(settings: &LogFile, rounds: Range<u64>) {
    for round in rounds {
        let (peer, at) = (["anna", "bert"][(round % 2) as usize], 200 + 2 * round);
        assert_eq!(who(settings, 1024, at), [(peer.into(), at, Some(at + 1))]);
    }
}

#[test]
fn a_file_that_cannot_be_rotated_grows_and_no_line_is_lost() {
    let dir = TempDir::new().unwrap();
    let settings = LogFile {
        size: 2000,
        ..settings(&dir)
    };
    let mut log = Writer::open(&settings, Timestamp(100)).unwrap();
    let old = |number| rotated(&settings.file, number);
    let is_as_it_was = |number| fs::read_to_string(old(number)).unwrap() == number.to_string();
    for number in [1, 2] {
        fs::write(old(number), number.to_string()).unwrap();
    }
    // A folder in the way: of the new file, then of the oldest one.
    let new = settings.file.with_extension("jsonl.new");
    for (in_the_way, rounds) in [(&new, 0..30), (&old(3), 30..60)] {
        fs::create_dir_all(in_the_way.join("full")).unwrap();
        write_rounds(&mut log, rounds.clone());
        assert!(settings.file.metadata().unwrap().len() > 5000);
        assert!(is_as_it_was(1) && is_as_it_was(2) && !log.has_pending());
        fs::remove_dir_all(in_the_way).unwrap();
        assert!(!new.exists());
    }
    // A gap after the old files, as of a failed rotation: files beyond it do not move.
    fs::rename(old(1), old(3)).unwrap();
    log.given(ports("bert", 12, 2048), Timestamp(400));
    assert!(settings.file.metadata().unwrap().len() < 500);
    assert!(old(1).metadata().unwrap().len() > 10_000);
    assert!(is_as_it_was(2));
    for number in [2, 3] {
        fs::remove_file(old(number)).unwrap();
    }
    assert_rounds(&settings, 0..60);
    assert_eq!(who(&settings, 2048, 500), [("bert".into(), 400, None)]);
}

/// A file system of 16 KiB that lives as long as this.
struct Tiny(Child);

impl Tiny {
    /// Mounts it; `None` without root.
    fn new() -> Option<Self> {
        if std::env::var_os("VCGATE_NO_ROOT").is_some() {
            eprintln!("VCGATE_NO_ROOT is set: skipped");
            return None;
        }
        let script = "mount -t tmpfs -o size=16k tiny /mnt && echo mounted; exec cat";
        let mut child = Command::new("unshare")
            .args(["-m", "sh", "-c", script])
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        let mut line = String::new();
        let mut said = BufReader::new(child.stdout.take().unwrap());
        said.read_line(&mut line).unwrap();
        assert_eq!(line, "mounted\n", "needs root; or set VCGATE_NO_ROOT=1");
        Some(Self(child))
    }

    fn path(&self) -> PathBuf {
        PathBuf::from(format!("/proc/{}/root/mnt", self.0.id()))
    }
}

impl Drop for Tiny {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

#[test]
fn lines_for_a_full_disk_are_written_when_there_is_space() {
    let Some(disk) = Tiny::new() else { return };
    let settings = LogFile {
        file: disk.path().join("ports.jsonl"),
        size: 16 << 20,
        keep: 3,
    };
    let filler = disk.path().join("filler");
    fs::write(&filler, [0; 8 << 10]).unwrap();
    let mut log = Writer::open(&settings, Timestamp(100)).unwrap();
    write_rounds(&mut log, 0..50);
    assert!(log.has_pending(), "the disk was not full");
    let text = fs::read_to_string(&settings.file).unwrap();
    assert!(!text.ends_with('\n'), "the last line is whole");
    fs::remove_file(filler).unwrap();
    log.flush_pending(Timestamp(300));
    assert!(!log.has_pending());
    assert_rounds(&settings, 0..50);
    let lines = fs::read_to_string(&settings.file).unwrap().lines().count();
    assert_eq!(lines, 1 + 100);
}

#[test]
fn a_full_disk_keeps_the_old_files() {
    let Some(disk) = Tiny::new() else { return };
    let settings = LogFile {
        file: disk.path().join("ports.jsonl"),
        size: 7000,
        keep: 3,
    };
    let mut log = Writer::open(&settings, Timestamp(100)).unwrap();
    // So many clients hold ports that the beginning of each new file takes most of its capacity.
    for number in 0..40 {
        log.given(ports("bert", 12, 2048 + 64 * number), Timestamp(110));
    }
    fs::write(disk.path().join("filler"), [0; 4 << 10]).unwrap();
    write_rounds(&mut log, 0..6);
    let rotated = |number| rotated(&settings.file, number);
    assert!(!rotated(1).exists() && !disk.path().join("ports.jsonl.new").exists());
    fs::remove_file(disk.path().join("filler")).unwrap();
    log.flush_pending(Timestamp(300));
    assert_rounds(&settings, 0..6);
    assert!(rotated(1).exists());
}

#[test]
fn a_pipe_or_a_device_is_not_a_port_log() {
    let dir = TempDir::new().unwrap();
    let pipe = dir.path().join("pipe");
    assert!(
        Command::new("mkfifo")
            .arg(&pipe)
            .status()
            .unwrap()
            .success()
    );
    for file in [pipe, "/dev/null".into()] {
        let settings = LogFile {
            file,
            ..settings(&dir)
        };
        let error = Writer::open(&settings, Timestamp(0)).unwrap_err();
        assert_eq!(error.to_string(), "not a regular file");
    }
}
