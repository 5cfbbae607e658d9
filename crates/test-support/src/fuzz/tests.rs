//! Replays the corpus.

use super::corpus::replay;

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
fn dns_corpus() {
    replay("dns", super::dns);
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
fn journal_corpus() {
    replay("journal", super::journal);
}

#[test]
fn tunnel_corpus() {
    replay("tunnel", super::tunnel);
}
