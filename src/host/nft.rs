//! One nftables table of our own, by the `nft` command. Nobody else's tables are touched.

use super::HostError;
use serde::{Deserialize, Serialize};
use std::fmt;
use std::io;
use std::net::IpAddr;
use std::process::{Output, Stdio};
use tokio::io::AsyncWriteExt;
use tokio::process::Command;

/// A table of ours.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Table {
    #[serde(default)]
    family: Family,
    name: String,
}

/// Whose packets a table sees, in nft's words.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Family {
    /// IPv4's.
    #[default]
    Ip,
    /// IPv6's.
    Ip6,
}

impl Table {
    /// The table of the endpoint `interface`.
    pub fn of(interface: &str, family: Family) -> Self {
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

    /// Its name, without the family.
    pub fn name(&self) -> &str {
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

/// Whether the table is there, and not flushed.
pub async fn masquerades(table: &Table) -> bool {
    let listed = nft(
        &["list", "table", &table.family.to_string(), &table.name],
        "",
    )
    .await;
    listed.is_ok_and(|it| String::from_utf8_lossy(&it.stdout).contains(" masquerade"))
}

/// Deletes the table, if it is there.
pub async fn delete(table: &Table) -> Result<(), HostError> {
    run(&format!("add table {table}\ndelete table {table}\n")).await
}

/// The chains of the whole machine that drop what no rule accepts on its way through.
pub async fn dropping_forward_chains() -> Result<Vec<String>, HostError> {
    let listed = nft(&["-j", "list", "chains"], "").await?;
    Ok(dropping(&listed.stdout).unwrap_or_default())
}

/// What nft says of its version.
pub async fn version() -> Result<String, HostError> {
    let output = nft(&["--version"], "").await?;
    Ok(String::from_utf8_lossy(&output.stdout).trim().to_owned())
}

/// Makes what `source` sends leave with the machine's own address, except by these interfaces.
/// Replaces the table if it is there.
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
    // A user's PATH often lacks the second.
    for program in ["nft", "/usr/sbin/nft"] {
        match command(program, arguments, input).await {
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
        // What was begun when the endpoint stops makes no table after its end.
        .kill_on_drop(true)
        .spawn()?;
    if let Some(mut stdin) = child.stdin.take() {
        stdin.write_all(input.as_bytes()).await?;
    }
    child.wait_with_output().await
}

fn dropping(json: &[u8]) -> Option<Vec<String>> {
    let listed: serde_json::Value = serde_json::from_slice(json).ok()?;
    let chains = listed
        .get("nftables")?
        .as_array()?
        .iter()
        .filter_map(|o| o.get("chain"));
    let text = |chain: &serde_json::Value, key| chain.get(key)?.as_str().map(str::to_owned);
    let drops = |chain: &&serde_json::Value| {
        text(chain, "hook").as_deref() == Some("forward")
            && text(chain, "policy").as_deref() == Some("drop")
    };
    let name = |chain: &serde_json::Value| {
        let part = |key| text(chain, key).unwrap_or_default();
        format!("{} {} {}", part("family"), part("table"), part("name"))
    };
    Some(chains.filter(drops).map(name).collect())
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

    #[test]
    fn finds_the_forward_chains_that_drop() {
        let json = br#"{"nftables": [{"metainfo": {"json_schema_version": 1}},
            {"chain": {"family": "ip", "table": "filter", "name": "FORWARD", "hook": "forward", "policy": "drop"}},
            {"chain": {"family": "ip", "table": "filter", "name": "INPUT", "hook": "input", "policy": "drop"}},
            {"chain": {"family": "inet", "table": "t", "name": "f", "hook": "forward", "policy": "accept"}},
            {"chain": {"family": "ip", "table": "filter", "name": "DOCKER-USER"}}]}"#;
        assert_eq!(dropping(json).unwrap(), ["ip filter FORWARD"]);
        assert_eq!(dropping(b"nonsense"), None);
    }
}
