//! The rules as `nft -j list ruleset` writes them (libnftables-json(5)).

use super::{Action, Chain, Kind, Match, Rule, Table};
use serde_json::Value;
use std::ops::RangeInclusive;

/// Reads the tables; what is not understood is an unknown match.
pub(super) fn parse(json: &[u8]) -> Vec<Table> {
    let listed: Value = serde_json::from_slice(json).unwrap_or_default();
    let mut tables: Vec<Table> = Vec::new();
    let objects = listed.get("nftables").and_then(Value::as_array);
    for object in objects.into_iter().flatten() {
        let (chain, rule) = (object.get("chain"), object.get("rule"));
        let Some(value) = chain.or(rule) else {
            continue;
        };
        let name = format!("{} {}", text(value, "family"), text(value, "table"));
        let at = match tables.iter().position(|table| table.name == name) {
            Some(at) => at,
            None => {
                tables.push(Table {
                    tool: tool_of(&name),
                    name,
                    ..Table::default()
                });
                tables.len() - 1
            }
        };
        let Some(table) = tables.get_mut(at) else {
            continue;
        };
        if chain.is_some() {
            let chain = table
                .chains
                .entry(text(value, "name").to_owned())
                .or_default();
            chain.hook = value.get("hook").and_then(Value::as_str).map(str::to_owned);
            chain.drops = text(value, "policy") == "drop";
        } else {
            let chain: &mut Chain = table
                .chains
                .entry(text(value, "chain").to_owned())
                .or_default();
            chain.rules.extend(rules(value));
        }
    }
    tables
}

/// The tables that iptables makes are changed with it.
fn tool_of(name: &str) -> &'static str {
    match name {
        "ip filter" => "iptables",
        "ip6 filter" => "ip6tables",
        _ => "nft",
    }
}

/// A rule; a verdict map is one for each of its elements.
fn rules(value: &Value) -> Vec<Rule> {
    let mut matches = Vec::new();
    let mut rules = Vec::new();
    let mut action = Action::Continue;
    let expressions = value.get("expr").and_then(Value::as_array);
    for expression in expressions.into_iter().flatten() {
        let Some((key, value)) = expression.as_object().and_then(|map| map.iter().next()) else {
            continue;
        };
        match key.as_str() {
            "match" => matches.push(comparison(value)),
            "vmap" => rules.extend(verdict_map(value, &matches)),
            "counter" | "log" | "comment" | "mangle" => {}
            _ => match action_of(key, value) {
                Some(found) => action = found,
                None => matches.push(UNKNOWN),
            },
        }
    }
    rules.push(Rule { matches, action });
    rules
}

const UNKNOWN: Match = Match {
    negated: false,
    kind: Kind::Unknown,
};

fn action_of(key: &str, value: &Value) -> Option<Action> {
    let target = || text(value, "target").to_owned();
    match key {
        "accept" => Some(Action::Accept),
        "drop" | "reject" => Some(Action::Drop),
        "return" => Some(Action::Return),
        "jump" => Some(Action::Jump(target())),
        "goto" => Some(Action::Goto(target())),
        _ => None,
    }
}

fn verdict_map(value: &Value, before: &[Match]) -> Vec<Rule> {
    let (Some(key), Some(data)) = (value.get("key"), value.pointer("/data/set")) else {
        return Vec::new();
    };
    let elements = data.as_array().into_iter().flatten();
    let rule = |element: &Value| {
        let (when, then) = (element.get(0)?, element.get(1)?);
        let (name, verdict) = then.as_object()?.iter().next()?;
        let own = Match {
            negated: false,
            kind: kind(key, when),
        };
        Some(Rule {
            matches: before.iter().cloned().chain([own]).collect(),
            action: action_of(name, verdict)?,
        })
    };
    elements.filter_map(rule).collect()
}

fn comparison(value: &Value) -> Match {
    let (Some(left), Some(right)) = (value.get("left"), value.get("right")) else {
        return UNKNOWN;
    };
    let negated = match text(value, "op") {
        "==" | "in" => false,
        "!=" => true,
        _ => return UNKNOWN,
    };
    let kind = kind(left, right);
    Match { negated, kind }
}

fn kind(left: &Value, right: &Value) -> Kind {
    let part = |pointer| left.pointer(pointer).and_then(Value::as_str);
    let found = match (part("/meta/key"), part("/payload/field"), part("/ct/key")) {
        (Some("iifname" | "iif"), _, _) => words(right).map(Kind::Input),
        (Some("oifname" | "oif"), _, _) => words(right).map(Kind::Output),
        (Some("l4proto"), _, _) => words(right).map(Kind::Protocol),
        (Some("nfproto"), _, _) => match right.as_str() {
            Some("ipv4") => Some(Kind::Ipv6(false)),
            Some("ipv6") => Some(Kind::Ipv6(true)),
            _ => None,
        },
        // "th" is the port of any protocol.
        (_, Some("dport"), _) if matches!(part("/payload/protocol"), Some("udp" | "th")) => {
            ports(right).map(Kind::UdpPort)
        }
        // Of another protocol than UDP.
        (_, Some("dport" | "sport"), _) if part("/payload/protocol") == Some("tcp") => {
            Some(Kind::Protocol(vec!["tcp".to_owned()]))
        }
        (_, _, Some("state")) => words(right).map(Kind::State),
        _ => None,
    };
    found.unwrap_or(Kind::Unknown)
}

/// One value, or those of a set.
fn elements(value: &Value) -> Vec<&Value> {
    let list = value.get("set").unwrap_or(value);
    match list.as_array() {
        Some(list) => list.iter().collect(),
        None => vec![list],
    }
}

fn words(value: &Value) -> Option<Vec<String>> {
    let word = |value: &&Value| match value {
        Value::String(text) => Some(text.clone()),
        Value::Number(number) => Some(number.to_string()),
        _ => None,
    };
    elements(value).iter().map(word).collect()
}

fn ports(value: &Value) -> Option<Vec<RangeInclusive<u16>>> {
    let number = |value: &Value| value.as_u64().and_then(|n| u16::try_from(n).ok());
    let range = |value: &&Value| match value.get("range") {
        Some(range) => Some(number(range.get(0)?)?..=number(range.get(1)?)?),
        None => number(value).map(|port| port..=port),
    };
    elements(value).iter().map(range).collect()
}

fn text<'v>(value: &'v Value, key: &str) -> &'v str {
    value.get(key).and_then(Value::as_str).unwrap_or_default()
}
