//! Replays the corpus of the fuzz targets that need the vcgate crate; the other targets and their
//! replay are in `vcgate-test-support`.

mod targets;

use std::fs;
use std::path::Path;

fn replay(name: &str, target: fn(&[u8])) {
    let corpus = Path::new(env!("CARGO_MANIFEST_DIR"))
        .join("fuzz/corpus")
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
fn uapi_corpus() {
    replay("uapi", targets::uapi);
}

#[test]
fn config_corpus() {
    replay("config", targets::config);
}
