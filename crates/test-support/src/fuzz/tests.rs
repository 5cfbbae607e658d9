//! Replays the corpus.

use std::fs;
use std::path::Path;

fn replay(name: &str, target: fn(&[u8])) {
    let corpus = Path::new(env!("CARGO_MANIFEST_DIR"))
        .join("../../fuzz/corpus")
        .join(name);
    let mut inputs = 0;
    for entry in fs::read_dir(&corpus).expect("the corpus exists") {
        let path = entry.expect("a directory entry").path();
        // Names the input of a failure.
        println!("{}", path.display());
        target(&fs::read(path).expect("a readable input"));
        inputs += 1;
    }
    assert!(inputs > 0, "{} is empty", corpus.display());
}

#[test]
fn hook_corpus() {
    replay("hook", super::hook);
}

#[test]
fn nbss_corpus() {
    replay("nbss", super::nbss);
}

#[test]
fn smb1_corpus() {
    replay("smb1", super::smb1);
}

#[test]
fn capture_corpus() {
    replay("diagnose", super::diagnose);
}

#[test]
fn engine_corpus() {
    replay("engine", super::engine);
}

#[test]
fn ip_corpus() {
    replay("ip", super::ip);
}

#[test]
fn snapshot_corpus() {
    replay("snapshot", super::snapshot);
}

#[test]
fn tunnel_corpus() {
    replay("tunnel", super::tunnel);
}
