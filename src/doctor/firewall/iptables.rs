//! The rules as `iptables-save` writes them (iptables-save(8)).

use super::{Action, Chain, Kind, Match, Rule, Table};
use std::ops::RangeInclusive;

/// Reads the table `filter`; what is not understood is an unknown match.
pub(super) fn parse(text: &str, tool: &'static str, family: &str) -> Table {
    let mut table = Table {
        tool,
        name: format!("{family} filter"),
        ..Table::default()
    };
    let lines = text.lines().skip_while(|line| *line != "*filter");
    let lines: Vec<_> = lines.take_while(|line| *line != "COMMIT").collect();
    for line in &lines {
        if let Some((name, rest)) = line.strip_prefix(':').and_then(|l| l.split_once(' ')) {
            let hook = ["INPUT", "FORWARD"].contains(&name);
            let chain = Chain {
                hook: hook.then(|| name.to_lowercase()),
                drops: rest.starts_with("DROP"),
                rules: Vec::new(),
            };
            table.chains.insert(name.to_owned(), chain);
        }
    }
    for line in &lines {
        let Some((name, options)) = line.strip_prefix("-A ").and_then(|l| l.split_once(' ')) else {
            continue;
        };
        let rule = rule(options);
        if let Some(chain) = table.chains.get_mut(name) {
            chain.rules.push(rule);
        }
    }
    table
}

fn rule(options: &str) -> Rule {
    let mut rule = Rule {
        matches: Vec::new(),
        action: Action::Continue,
    };
    let mut words = words(options).into_iter().peekable();
    let mut negated = false;
    while let Some(option) = words.next() {
        if option == "!" {
            negated = true;
            continue;
        }
        let mut values = Vec::new();
        while let Some(value) = words.next_if(|word| *word != "!" && !word.starts_with('-')) {
            values.push(value);
        }
        let value = values.first().copied().unwrap_or_default();
        let list = || value.split(',').map(str::to_lowercase).collect();
        let kind = match option {
            "-i" => Kind::Input(vec![value.to_owned()]),
            "-o" => Kind::Output(vec![value.to_owned()]),
            "-p" => Kind::Protocol(list()),
            "--dport" | "--dports" => ports(value).map_or(Kind::Unknown, Kind::UdpPort),
            "--ctstate" | "--state" => Kind::State(list()),
            // The names of the matches say nothing; neither do the options of the targets.
            "-m" | "--comment" | "--reject-with" => continue,
            "-j" => {
                rule.action = action(value);
                continue;
            }
            "-g" => {
                rule.action = Action::Goto(value.to_owned());
                continue;
            }
            _ => Kind::Unknown,
        };
        rule.matches.push(Match { negated, kind });
        negated = false;
    }
    rule
}

/// A target that is no verdict is a chain, or decides nothing.
fn action(target: &str) -> Action {
    match target {
        "ACCEPT" => Action::Accept,
        "DROP" | "REJECT" => Action::Drop,
        "RETURN" => Action::Return,
        chain => Action::Jump(chain.to_owned()),
    }
}

fn ports(list: &str) -> Option<Vec<RangeInclusive<u16>>> {
    let range = |part: &str| match part.split_once(':') {
        Some((first, last)) => Some(first.parse().ok()?..=last.parse().ok()?),
        None => part.parse().ok().map(|port| port..=port),
    };
    list.split(',').map(range).collect()
}

/// Words, of which those in quotes have spaces.
fn words(line: &str) -> Vec<&str> {
    let mut words = Vec::new();
    for (at, part) in line.split('"').enumerate() {
        match at % 2 {
            0 => words.extend(part.split_ascii_whitespace()),
            _ => words.push(part),
        }
    }
    words
}
