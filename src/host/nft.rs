//! Manages nftables tables of vcgate's own with the `nft` program. It never changes other tables.

use super::{HostError, programs};
use serde::{Deserialize, Serialize};
use std::fmt;
use std::net::IpAddr;

/// A table of vcgate.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Table {
    #[serde(default)]
    family: Family,
    name: String,
}

/// Address family of a table, by its name in nft.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub(crate) enum Family {
    /// IPv4.
    #[default]
    Ip,
    /// IPv6.
    Ip6,
}

impl Table {
    /// Name of the table of the endpoint `interface`.
    pub(crate) fn of(interface: &str, family: Family) -> Self {
        let escape = |c: char| match c {
            c if c.is_ascii_alphanumeric() => c.to_string(),
            other => format!("_{:02x}", u32::from(other)),
        };
        let interface: String = interface.chars().map(escape).collect();
        Self {
            family,
            name: format!("vcgate_{interface}"),
        }
    }

    /// Name without the family.
    pub(crate) fn name(&self) -> &str {
        &self.name
    }
}

impl fmt::Display for Table {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} {}", self.family, self.name)
    }
}

impl fmt::Display for Family {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Ip => "ip",
            Self::Ip6 => "ip6",
        })
    }
}

/// Whether the table exists and has its rules: masquerade, and DNAT if `forwards` is set.
pub(crate) async fn has_rules(table: &Table, forwards: bool) -> bool {
    let listed = nft(
        &["list", "table", &table.family.to_string(), &table.name],
        "",
    )
    .await;
    listed.is_ok_and(|text| {
        // One for TCP, one for UDP.
        let dnat_rules = text.matches(" dnat to ").count();
        text.contains(" masquerade") && (!forwards || dnat_rules == 2)
    })
}

/// Deletes the table, if it is there.
pub(crate) async fn delete(table: &Table) -> Result<(), HostError> {
    run(&format!("add table {table}\ndelete table {table}\n")).await
}

/// All tables, as JSON.
pub(crate) async fn list_ruleset() -> Result<String, HostError> {
    nft(&["-j", "list", "ruleset"], "").await
}

/// The output of a command that lists rules.
pub(crate) async fn tool(program: &str) -> Result<String, HostError> {
    programs::run(program, &[], "").await
}

/// Returns the version text of nft.
pub(crate) async fn version() -> Result<String, HostError> {
    let version = nft(&["--version"], "").await?;
    Ok(version.trim().to_owned())
}

/// Script that replaces the table by one that gives packets from `sources` the machine's own address,
/// except on the interfaces `except`.
pub(super) fn masquerade_script(table: &Table, sources: &[IpAddr], except: &[&str]) -> String {
    let family = table.family;
    let sources: Vec<_> = sources.iter().map(IpAddr::to_string).collect();
    let sources = sources.join(", ");
    let except: Vec<_> = except.iter().map(|name| format!("\"{name}\"")).collect();
    let except = except.join(", ");
    format!(
        "add table {table}\n\
         delete table {table}\n\
         table {table} {{\n\
         \tchain postrouting {{\n\
         \t\ttype nat hook postrouting priority srcnat; policy accept;\n\
         \t\t{family} saddr {{ {sources} }} oifname != {{ {except} }} masquerade\n\
         \t}}\n\
         }}\n"
    )
}

pub(super) async fn run(script: &str) -> Result<(), HostError> {
    nft(&["-f", "-"], script).await.map(drop)
}

async fn nft(arguments: &[&str], input: &str) -> Result<String, HostError> {
    programs::run("nft", arguments, input).await
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn table_names_are_identifiers() {
        let table = |interface, family| Table::of(interface, family).to_string();
        assert_eq!(table("vcg0", Family::Ip), "ip vcgate_vcg0");
        assert_eq!(table("a-b.1", Family::Ip6), "ip6 vcgate_a_2db_2e1");
    }
}
