//! Replays the corpus of the fuzz targets that need the vcgate crate; the other targets and their
//! replay are in `vcgate-test-support`.

mod targets;

use vcgate_test_support::fuzz::replay;

#[test]
fn uapi_corpus() {
    replay("uapi", targets::uapi);
}

#[test]
fn config_corpus() {
    replay("config", targets::config);
}
