//! Replays the corpus.

use std::fs;
use std::path::Path;

fn replay(name: &str, target: fn(&[u8])) {
    let corpus = Path::new(env!("CARGO_MANIFEST_DIR"))
        .join("../../fuzz/corpus")
        .join(name);
    let mut inputs = 0;
    for entry in fs::read_dir(&corpus).expect("a corpus") {
        let path = entry.expect("an entry").path();
        // What fails says by its output which input it was.
        println!("{}", path.display());
        target(&fs::read(path).expect("an input"));
        inputs += 1;
    }
    assert!(inputs > 0, "{} is empty", corpus.display());
}

#[test]
fn the_hook_on_its_corpus() {
    replay("hook", super::hook);
}

#[test]
fn nbss_on_its_corpus() {
    replay("nbss", super::nbss);
}

#[test]
fn smb1_on_its_corpus() {
    replay("smb1", super::smb1);
}

#[test]
fn captures_on_its_corpus() {
    replay("diagnose", super::diagnose);
}

#[test]
fn the_engine_on_its_corpus() {
    replay("engine", super::engine);
}

#[test]
fn ip_headers_on_its_corpus() {
    replay("ip", super::ip);
}

#[test]
fn snapshots_on_its_corpus() {
    replay("snapshot", super::snapshot);
}

#[test]
fn the_tunnel_on_its_corpus() {
    replay("tunnel", super::tunnel);
}
