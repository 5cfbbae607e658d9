//! docs/configuration.md against the parser: each documented key is accepted, each accepted key is
//! documented, and each documented default is the one that a file without the key has.

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;
use vcgate::config::{Config, parse};
use vcgate::keys::{KeyFile, PrivateKey};

const PAGE: &str = include_str!("../docs/configuration.md");

/// Keys that a valid file has, by the heading of their section.
const BASE: [(&str, &str); 5] = [
    ("[nat]", "log_file = \"ports.jsonl\""),
    ("[audit]", "log_file = \"ports.jsonl\""),
    ("[[group]]", "name = \"staff\"\nreach = [\"icmp\"]"),
    ("[[forward]]", "lan_port = 8443\nto = \"10.8.0.11:443\""),
    (
        "[[peer]]",
        "name = \"anna\"\n\
         public_key = \"hSDwCYkwp1R0i33ctD73Wg2/Og0mOBr066SpjqqbTmo=\"\n\
         allowed_ips = [\"10.8.0.11/32\"]",
    ),
];

/// A row of a table of keys.
#[derive(Debug)]
struct Row {
    key: String,
    default: String,
}

/// The rows of the page by section heading, such as `[nat.limits]`.
fn documented() -> BTreeMap<String, Vec<Row>> {
    let mut sections = BTreeMap::<String, Vec<Row>>::new();
    let mut heading = None;
    for line in PAGE.lines() {
        if let Some(title) = line.strip_prefix("## ") {
            heading = code(title).map(str::to_owned);
            if let Some(heading) = &heading {
                sections.insert(heading.clone(), Vec::new());
            }
        }
        let cells: Vec<_> = line.split(" | ").collect();
        let (Some(heading), [key, _, default, _]) = (&heading, cells.as_slice()) else {
            continue;
        };
        let Some(key) = key.strip_prefix("| ").and_then(code) else {
            continue;
        };
        sections.entry(heading.clone()).or_default().push(Row {
            key: key.to_owned(),
            default: (*default).to_owned(),
        });
    }
    sections
}

/// The text between two backticks that contain all of `cell`.
fn code(cell: &str) -> Option<&str> {
    let inner = cell.strip_prefix('`')?.strip_suffix('`')?;
    (!inner.contains('`')).then_some(inner)
}

/// A file with the keys of [`BASE`] and one more line.
fn file(section: &str, line: &str) -> String {
    let mut sections = BTreeMap::from(BASE.map(|(heading, keys)| (heading, keys.to_owned())));
    let keys = sections.entry(section).or_default();
    *keys = format!("{keys}\n{line}");
    let sections = sections
        .iter()
        .map(|(heading, keys)| format!("{heading}\n{keys}\n"));
    sections.collect()
}

/// Reads a file in a folder that has the default key.
fn read(text: &str) -> Result<Config, String> {
    let dir = tempfile::tempdir().unwrap();
    std::fs::create_dir(dir.path().join("keys")).unwrap();
    let key = PrivateKey::from([1; 32]);
    key.write_new(&dir.path().join("keys/server.key")).unwrap();
    let loaded = parse(text, &dir.path().join("vcgate.toml"));
    let mut config = loaded.map_err(|problems| problems.to_string())?.config;
    // The folder differs from file to file.
    for path in [&mut config.path, &mut config.interface.private_key_file] {
        *path = path.strip_prefix(dir.path()).unwrap().to_owned();
    }
    for log in [&mut config.nat.log, &mut config.audit]
        .into_iter()
        .flatten()
    {
        log.file = Path::new("ports.jsonl").to_owned();
    }
    Ok(config)
}

/// The keys that the parser accepts in a section, as its error about an unknown key lists them.
fn accepted(section: &str) -> BTreeSet<String> {
    let file = match section {
        "" => "unknown_key_of_no_version = 1\n".to_owned(),
        section => file(section, "unknown_key_of_no_version = 1"),
    };
    let error = read(&file).unwrap_err();
    let (_, known) = error.split_once("known keys are ").unwrap();
    let known = known.lines().next().unwrap_or_default();
    known.split(", ").map(str::to_owned).collect()
}

/// The sections inside a section, such as `limits` in `nat`; those of the file in "".
fn inside<'a>(headings: impl Iterator<Item = &'a String>, section: &str) -> BTreeSet<String> {
    let names = headings.map(|heading| heading.trim_matches(['[', ']']));
    let split = names.map(|name| name.rsplit_once('.').unwrap_or(("", name)));
    let children = split.filter(|(parent, _)| *parent == section);
    children.map(|(_, name)| name.to_owned()).collect()
}

#[test]
fn every_accepted_key_is_documented_and_every_documented_key_is_accepted() {
    let documented = documented();
    assert_eq!(accepted(""), inside(documented.keys(), ""));
    for (heading, rows) in &documented {
        let mut described = inside(documented.keys(), heading.trim_matches(['[', ']']));
        described.extend(rows.iter().map(|row| row.key.clone()));
        assert_eq!(accepted(heading), described, "{heading}");
    }
}

#[test]
fn every_documented_default_is_the_default() {
    let without = format!("{:?}", read(&file("[nat]", "")).unwrap());
    let mut compared = 0;
    for (heading, rows) in documented() {
        for Row { key, default } in rows {
            let Some(default) = code(&default) else {
                continue;
            };
            let with = read(&file(&heading, &format!("{key} = {default}")));
            let with = with.map(|config| format!("{config:?}"));
            assert_eq!(with, Ok(without.clone()), "{heading} {key} = {default}");
            compared += 1;
        }
    }
    assert!(compared > 20, "only {compared} defaults were found");
}
