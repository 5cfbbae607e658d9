//! The inputs in `fuzz/corpus`, which tests replay.

use std::fs;
use std::path::Path;

/// Gives a target each input of its corpus.
///
/// # Panics
/// If the target finds an error, or if the corpus is missing or empty.
pub fn replay(name: &str, target: fn(&[u8])) {
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
