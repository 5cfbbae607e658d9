//! Manages nftables tables of vcgate's own with the `nft` program. It never changes other tables.

use super::HostError;
use serde::{Deserialize, Serialize};
use std::fmt;
use std::io;
use std::net::IpAddr;
use std::process::{Output, Stdio};
use tokio::io::AsyncWriteExt;
use tokio::process::Command;

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
    listed.is_ok_and(|listed| {
        let text = String::from_utf8_lossy(&listed.stdout);
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
pub(crate) async fn list_ruleset() -> Result<Vec<u8>, HostError> {
    nft(&["-j", "list", "ruleset"], "")
        .await
        .map(|listed| listed.stdout)
}

/// The output of a command that lists rules.
pub(crate) async fn tool(program: &str) -> Result<String, HostError> {
    let output = run_program(program, &[], "").await?;
    Ok(String::from_utf8_lossy(&output.stdout).into_owned())
}

/// Returns the version text of nft.
pub(crate) async fn version() -> Result<String, HostError> {
    let output = nft(&["--version"], "").await?;
    Ok(String::from_utf8_lossy(&output.stdout).trim().to_owned())
}

/// Script that replaces the table by one that gives packets from `source` the machine's own address,
/// except on the interfaces `except`.
pub(super) fn masquerade_script(table: &Table, source: IpAddr, except: &[&str]) -> String {
    let family = table.family;
    let except: Vec<_> = except.iter().map(|name| format!("\"{name}\"")).collect();
    let except = except.join(", ");
    format!(
        "add table {table}\n\
         delete table {table}\n\
         table {table} {{\n\
         \tchain postrouting {{\n\
         \t\ttype nat hook postrouting priority srcnat; policy accept;\n\
         \t\t{family} saddr {source} oifname != {{ {except} }} masquerade\n\
         \t}}\n\
         }}\n"
    )
}

pub(super) async fn run(script: &str) -> Result<(), HostError> {
    nft(&["-f", "-"], script).await.map(drop)
}

async fn nft(arguments: &[&str], input: &str) -> Result<Output, HostError> {
    run_program("nft", arguments, input).await
}

async fn run_program(name: &str, arguments: &[&str], input: &str) -> Result<Output, HostError> {
    // The PATH of ordinary users often lacks /usr/sbin.
    for program in [name.to_owned(), format!("/usr/sbin/{name}")] {
        match command(&program, arguments, input).await {
            Err(e) if e.kind() == io::ErrorKind::NotFound => continue,
            Err(e) => return Err(HostError::Nft(e.to_string())),
            Ok(output) if output.status.success() => return Ok(output),
            Ok(output) => {
                let said = String::from_utf8_lossy(&output.stderr);
                return Err(HostError::Nft(said.trim().to_owned()));
            }
        }
    }
    Err(HostError::NoNft)
}

async fn command(program: &str, arguments: &[&str], input: &str) -> io::Result<Output> {
    let mut child = Command::new(program)
        .args(arguments)
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        // An nft that is still running when the endpoint stops must not create a table afterwards.
        .kill_on_drop(true)
        .spawn()?;
    if let Some(mut stdin) = child.stdin.take() {
        stdin.write_all(input.as_bytes()).await?;
    }
    child.wait_with_output().await
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
