//! `vcgate diagnose`: prints the diagnosis of a capture.

use super::Usage;
use super::human::{counted, duration};
use super::output;
use super::table::{Align, Table};
use anyhow::Context;
use indicatif::{ProgressBar, ProgressStyle};
use std::fs::File;
use std::io::{self, ErrorKind, IsTerminal};
use std::net::SocketAddr;
use std::path::Path;
use vcgate_capture::diagnose::{
    Capture, Confidence, Diagnosis, End, Ending, Report, Request, Signing,
};

/// Maximum number of rows of each table.
const MAX_ROWS: usize = 20;

/// Reads a capture, and one from the other side of the NAT if there is one, and prints the
/// diagnosis.
pub(super) fn run(file: &Path, against: Option<&Path>, json: bool) -> anyhow::Result<()> {
    if [Some(file), against]
        .iter()
        .all(|path| *path == Some(Path::new("-")))
    {
        return Err(
            Usage("cannot read both captures from stdin; name a file for one".into()).into(),
        );
    }
    let mut diagnosis = read(file)?;
    let mut found = String::new();
    if let Some(other) = against {
        let count = diagnosis.name_clients(&read(other)?) as u64;
        let all = diagnosis.report().counts.connections;
        let (all, other) = (counted(all, "connection"), other.display());
        match count {
            0 => tracing::warn!(
                "cannot match any of {all} in {other}: not the same connections; capture both \
                 sides of the same NAT at the same time"
            ),
            count => found = format!("  {count} of {all} found in {other}\n"),
        }
    }
    let name = match file == Path::new("-") {
        true => "stdin".to_owned(),
        false => file.display().to_string(),
    };
    output::report(diagnosis.report(), json, |report| {
        render(&name, report, &found)
    })
}

fn read(path: &Path) -> anyhow::Result<Diagnosis> {
    if path == Path::new("-") {
        if io::stdin().is_terminal() {
            let remedy = "give it a file, or a writer: tcpdump -w - … | vcgate diagnose -";
            return Err(Usage(format!("cannot read a capture from a terminal; {remedy}")).into());
        }
        return Diagnosis::read(io::stdin()).context("cannot read the capture on stdin");
    }
    let place = || format!("cannot read {}", path.display());
    let file = File::open(path).map_err(|error| {
        let remedy = match error.kind() {
            ErrorKind::PermissionDenied => "run as the user who owns it",
            _ => "name a capture; \"vcgate capture --side lan -w FILE\" takes one",
        };
        anyhow::anyhow!("cannot read {}: {error}; {remedy}", path.display())
    })?;
    let bar = progress(&file);
    let diagnosis = Diagnosis::read(bar.wrap_read(file)).with_context(place);
    bar.finish_and_clear();
    diagnosis
}

/// A bar on stderr, if that is a terminal; a small file needs none.
fn progress(file: &File) -> ProgressBar {
    const SMALL: u64 = 64 << 20;
    let length = file.metadata().map_or(0, |metadata| metadata.len());
    if length < SMALL {
        return ProgressBar::hidden();
    }
    let template = "{bar:40} {bytes} of {total_bytes}, {binary_bytes_per_sec}, {eta} left";
    let bar = ProgressBar::new(length);
    match ProgressStyle::with_template(template) {
        Ok(style) => bar.with_style(style),
        Err(_) => bar,
    }
}

fn render(name: &str, report: &Report, found: &str) -> String {
    [
        format!("{name}: {}\n", capture_line(&report.capture)),
        content_lines(report),
        found.to_owned(),
        requests(report),
        victims(&report.requests),
        endings(report),
        verdict(report),
    ]
    .concat()
}

fn capture_line(capture: &Capture) -> String {
    let frames = counted(capture.frames, "frame");
    let links = capture.links.join(", ");
    match (capture.first, capture.last) {
        (Some(first), Some(last)) => {
            let seconds = last.since(first).as_secs();
            format!("{frames} in {} from {first}, {links}", duration(seconds))
        }
        _ => frames,
    }
}

fn content_lines(report: &Report) -> String {
    let counts = &report.counts;
    let mut lines = vec![format!(
        "{} to file servers: {} SMB1, {} SMB2 or 3, {} encrypted, {} unknown",
        counted(counts.connections, "connection"),
        counts.smb1,
        counts.smb2,
        counts.encrypted,
        counts.connections - counts.smb1 - counts.smb2 - counts.encrypted,
    )];
    if counts.session_setups > 0 {
        lines.push(format!(
            "{} (SESSION_SETUP_ANDX), {} with VcNumber 0",
            counted(counts.session_setups, "logon message"),
            counts.zeros
        ));
    }
    match &report.capture.end {
        End::Whole => {}
        End::Cut { at } => lines.push(format!(
            "the file is cut off in the record at byte {at}: everything before it was read"
        )),
        End::Damaged { at } => lines.push(format!(
            "the file is damaged at byte {at}: everything before it was read, nothing after it"
        )),
        End::Unreadable { at, why } => lines.push(format!(
            "the file could not be read from byte {at} on: {why}; everything before it was read"
        )),
    }
    if let Some(length) = report.capture.snap_length {
        lines.push(format!(
            "{} captured only in part, up to {length} bytes: capture with `tcpdump -s 0`",
            counted(counts.cut_frames, "frame")
        ));
    }
    for (count, noun, text) in [
        (
            counts.cut_session_setups,
            "logon message",
            "cut off before the VcNumber",
        ),
        (counts.unanswered, "connection", "without any answer"),
        (counts.refused, "connection", "refused"),
        (counts.declined, "NetBIOS call", "declined or redirected"),
        (
            counts.lost,
            "connection",
            "that the server no longer knew when the client used it",
        ),
        (
            counts.only_to_server,
            "connection",
            "without the server's packets",
        ),
        (
            counts.only_from_server,
            "connection",
            "without the client's packets",
        ),
        (
            counts.rewritten_zeros,
            "logon message",
            "with VcNumber 0 that a gateway replaced",
        ),
        (
            report.capture.out_of_order,
            "packet",
            "too far out of order",
        ),
        (
            counts.evicted,
            "connection",
            "dropped early, to bound the memory",
        ),
    ] {
        if count > 0 {
            lines.push(format!("{} {text}", counted(count, noun)));
        }
    }
    for unread in report.capture.unread.iter().take(MAX_ROWS) {
        let frames = counted(unread.frames, "frame");
        lines.push(format!("{frames} not read: {}", unread.reason));
    }
    lines.iter().map(|line| format!("  {line}\n")).collect()
}

fn requests(report: &Report) -> String {
    if report.requests.is_empty() {
        return String::new();
    }
    let mut table = Table::new([
        ("VCNUMBER 0", Align::Left),
        ("FRAME", Align::Right),
        ("CLIENT", Align::Left),
        ("SERVER", Align::Left),
        ("WORDS", Align::Right),
        ("SECURITY", Align::Left),
        ("SIGNING", Align::Left),
        ("NATIVE OS", Align::Left),
        ("OTHERS", Align::Right),
        ("CUT OFF", Align::Right),
    ]);
    for request in report.requests.iter().take(MAX_ROWS) {
        table.row([
            request.time.to_string(),
            request.frame.to_string(),
            client(request.client, request.inner),
            request.server.to_string(),
            request.word_count.to_string(),
            match request.extended_security {
                true => "extended".to_owned(),
                false => "plain".to_owned(),
            },
            signing(request),
            native(request),
            request.others.to_string(),
            request.victims.len().to_string(),
        ]);
    }
    format!("\n{table}{}", more(report.counts.zeros, MAX_ROWS))
}

fn victims(requests: &[Request]) -> String {
    let victims: Vec<_> = requests.iter().flat_map(|r| &r.victims).collect();
    let own: Vec<_> = requests.iter().flat_map(|r| &r.own_victims).collect();
    let tables = [("CUT OFF", victims), ("OWN, ENDED", own)];
    let tables = tables.into_iter().filter(|(_, all)| !all.is_empty());
    let tables = tables.map(|(heading, all)| {
        let count = all.len() as u64;
        format!("\n{}{}", ended(heading, all), more(count, MAX_ROWS))
    });
    tables.collect()
}

fn endings(report: &Report) -> String {
    if report.endings.is_empty() {
        return String::new();
    }
    let table = ended("ENDED BY SERVER", &report.endings);
    format!("\n{table}{}", more(report.counts.endings, MAX_ROWS))
}

fn ended<'a>(heading: &str, endings: impl IntoIterator<Item = &'a Ending>) -> Table<6> {
    let mut table = Table::new([
        (heading, Align::Left),
        ("FRAME", Align::Right),
        ("CLIENT", Align::Left),
        ("BY", Align::Left),
        ("AFTER", Align::Right),
        ("ACTIVITY", Align::Left),
    ]);
    for ending in endings.into_iter().take(MAX_ROWS) {
        let odd = match ending.odd_ttl {
            true => " (by a packet with another TTL, perhaps from a firewall)",
            false => "",
        };
        let after = ending.delay_ms.map(|ms| format!("{ms:.1} ms"));
        table.row([
            ending.time.to_string(),
            ending.frame.to_string(),
            client(ending.client, ending.inner),
            ending.by.to_owned(),
            after.unwrap_or_default(),
            format!("{}{odd}", ending.doing),
        ]);
    }
    table
}

fn verdict(report: &Report) -> String {
    let verdict = &report.verdict;
    let confidence = match verdict.confidence {
        Confidence::Certain => "Certain",
        Confidence::Likely => "Likely",
        Confidence::Possible => "Possible",
    };
    [
        ("Finding:       ", &*verdict.happened),
        (
            "Confidence:    ",
            &*format!("{confidence}. {}", verdict.because),
        ),
        ("Advice:        ", &*verdict.advice),
    ]
    .map(|(label, text)| format!("\n{label}{}\n", wrapped(text)))
    .concat()
}

/// The text in lines that fit a terminal, indented after a label.
fn wrapped(text: &str) -> String {
    const WIDTH: usize = 80;
    const INDENT: usize = 15;
    let mut lines = String::new();
    let mut column = INDENT;
    for word in text.split_whitespace() {
        let length = word.chars().count();
        if column == INDENT {
            // The first word of a line.
        } else if column + 1 + length > WIDTH {
            lines += "\n               ";
            column = INDENT;
        } else {
            lines.push(' ');
            column += 1;
        }
        lines += word;
        column += length;
    }
    lines
}

fn client(address: SocketAddr, inner: Option<SocketAddr>) -> String {
    match inner {
        Some(inner) => format!("{address} = {inner}"),
        None => address.to_string(),
    }
}

fn signing(request: &Request) -> String {
    let signing = match request.signing {
        None => "unknown",
        Some(Signing::Off) => "off",
        Some(Signing::Enabled) => "enabled",
        Some(Signing::Required) => "required",
    };
    match request.signed {
        true => format!("{signing}, signed"),
        false => signing.to_owned(),
    }
}

fn native(request: &Request) -> String {
    match (&*request.native_os, &*request.native_lan_manager) {
        ("", "") => "-".to_owned(),
        (os, "") => os.to_owned(),
        ("", lan_manager) => lan_manager.to_owned(),
        (os, lan_manager) => format!("{os} / {lan_manager}"),
    }
}

fn more(count: u64, shown: usize) -> String {
    match count.saturating_sub(shown as u64) {
        0 => String::new(),
        rest => format!("and {rest} more: --json shows them\n"),
    }
}
