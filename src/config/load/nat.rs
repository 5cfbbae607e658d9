//! Reads the subsections of `[nat]`, and the keys of a log file.

use super::super::document::Section;
use super::super::problem::{Collector, Diagnostic};
use super::super::value::{self, duration, number, text};
use super::super::{Limits, LogFile, Timeouts};
use std::path::Path;
use std::time::Duration;
use toml::Spanned;

/// Defaults of a log: its maximum size, and the number of rotated files.
const LOG_MEGABYTES: u64 = 16;
const LOG_FILES: u16 = 8;

/// Reads `[nat.timeouts]`, and warns of times that are shorter than the RFC's minimum.
pub(super) fn timeouts(mut section: Section<'_, '_>, problems: &mut Collector<'_>) -> Timeouts {
    let mut read = |key: &'static str, default: Duration, least: u64, rfc: &str| {
        let Some(given) = section.get(key, problems, duration) else {
            return default;
        };
        let (place, given) = (given.span().start, given.into_inner());
        let least = Duration::from_secs(least);
        if given < least {
            let (given, least) = (value::format_duration(given), value::format_duration(least));
            let what = format!("nat.timeouts.{key}: {given} is less than the {least} of {rfc}");
            let remedy = "idle connections will break early; leave it out for the default";
            problems.warning(place, Diagnostic::new(what, remedy));
        }
        given
    };
    let default = Timeouts::default();
    let timeouts = Timeouts {
        udp: read("udp", default.udp, 120, "RFC 4787 REQ-5"),
        tcp_established: read(
            "tcp_established",
            default.tcp_established,
            7440,
            "RFC 5382 REQ-5",
        ),
        tcp_transitory: read(
            "tcp_transitory",
            default.tcp_transitory,
            240,
            "RFC 5382 REQ-5",
        ),
        icmp: read("icmp", default.icmp, 60, "RFC 5508 REQ-2"),
    };
    section.finish(problems);
    timeouts
}

/// Reads the keys of a log file. Returns the offset of `log_file`, too.
pub(super) fn log_file(
    section: &mut Section<'_, '_>,
    dir: &Path,
    problems: &mut Collector<'_>,
) -> Option<(usize, LogFile)> {
    let file = section.get(
        "log_file",
        problems,
        text(value::file("/var/log/vcgate/log.jsonl")),
    );
    let megabytes = section.get("log_megabytes", problems, number::<u64>(1..=65536));
    let keep = section.get("log_files", problems, number(1..=9999));
    let file = file?;
    let place = file.span().start;
    let log = LogFile {
        file: dir.join(file.into_inner()),
        size: megabytes.map_or(LOG_MEGABYTES, Spanned::into_inner) << 20,
        keep: keep.map_or(LOG_FILES, Spanned::into_inner),
    };
    Some((place, log))
}

/// Reads `[nat.limits]`.
pub(super) fn limits(mut section: Section<'_, '_>, problems: &mut Collector<'_>) -> Limits {
    let default = Limits::default();
    let ports = section.get("ports", problems, number(1..=64512));
    let sessions = section.get("sessions", problems, number(1..=1 << 24));
    let rate = section.get("new_flows_per_second", problems, number(1..=1 << 24));
    let fragments = section.get("fragments", problems, number(1..=256));
    section.finish(problems);
    Limits {
        ports: ports.map_or(default.ports, Spanned::into_inner),
        sessions: sessions.map_or(default.sessions, Spanned::into_inner),
        new_flows_per_second: rate.map_or(default.new_flows_per_second, Spanned::into_inner),
        fragments: fragments.map_or(default.fragments, Spanned::into_inner),
    }
}
