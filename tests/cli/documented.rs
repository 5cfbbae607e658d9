//! docs/commands.md against `--help`: the same commands with the same options.

use super::*;
use std::collections::{BTreeMap, BTreeSet};

const PAGE: &str = include_str!("../../docs/commands.md");

/// Options that the page describes once for several commands, and those of every program.
const COMMON: [&str; 7] = [
    "--config",
    "--help",
    "--interface",
    "--log-format",
    "--quiet",
    "--verbose",
    "--version",
];

type Commands = BTreeMap<String, BTreeSet<String>>;

/// The commands in the tables of the page, with their options.
fn documented() -> Commands {
    let mut commands = Commands::new();
    let rows = PAGE.lines().filter(|line| line.starts_with("| `vcgate "));
    let cells = rows.filter_map(|row| row.split(" | ").next());
    let usages = cells.flat_map(|cell| cell.split('`').skip(1).step_by(2));
    for usage in usages {
        let mut words = usage.split(' ').skip(1).peekable();
        let mut name = Vec::new();
        while let Some(word) = words.next_if(|word| word.starts_with(char::is_lowercase)) {
            name.push(word);
        }
        let options = words.map(|word| word.trim_matches(['[', ']']));
        let options = options.filter(|word| word.starts_with('-'));
        let known = commands.entry(name.join(" ")).or_default();
        known.extend(options.map(|option| match option {
            "-w" => "--write".to_owned(),
            option => option.to_owned(),
        }));
    }
    commands
}

/// The commands below `command`, with their options, as `--help` lists them.
fn helped(command: &[&str]) -> Commands {
    let dir = tempfile::tempdir().unwrap();
    let help = vcgate(dir.path(), &[command, &["--help"]].concat());
    assert_done(&help);
    let lines = help.stdout.lines();
    let subcommands = lines.skip_while(|line| *line != "Commands:").skip(1);
    let subcommands = subcommands.take_while(|line| !line.is_empty());
    let names: Vec<_> = subcommands
        .filter_map(|line| line.split_whitespace().next())
        .collect();
    if names.is_empty() {
        let lines = help.stdout.lines();
        let options = lines.filter(|line| line.trim_start().starts_with('-'));
        let options = options.filter_map(|line| {
            let found = line.split_whitespace().find(|word| word.starts_with("--"));
            found.map(|option| option.trim_end_matches('.').to_owned())
        });
        let own = options.filter(|option| !COMMON.contains(&option.as_str()));
        return Commands::from([(command.join(" "), own.collect())]);
    }
    let below = names
        .iter()
        .map(|name| helped(&[command, &[name]].concat()));
    below.flatten().collect()
}

#[test]
fn the_page_lists_exactly_the_existing_commands_and_options() {
    assert_eq!(documented(), helped(&[]));
}
