//! One nftables table of our own, by the `nft` command. Nobody else's tables are touched.

use super::HostError;
use std::io;
use std::net::Ipv4Addr;
use std::process::{Output, Stdio};
use tokio::io::AsyncWriteExt;
use tokio::process::Command;

/// The table of the endpoint `interface`.
pub fn table(interface: &str) -> String {
    let escape = |c: char| match c {
        c if c.is_ascii_alphanumeric() => c.to_string(),
        other => format!("_{:02x}", u32::from(other)),
    };
    format!(
        "vcgate_{}",
        interface.chars().map(escape).collect::<String>()
    )
}

/// Makes what `source` sends leave `lan` with the machine's own address. Replaces the table if it
/// is there, in one transaction.
pub async fn masquerade(table: &str, source: Ipv4Addr, lan: &str) -> Result<(), HostError> {
    run(&masquerade_script(table, source, lan)).await
}

/// Deletes the table, if it is there.
pub async fn delete(table: &str) -> Result<(), HostError> {
    run(&format!("add table ip {table}\ndelete table ip {table}\n")).await
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

fn masquerade_script(table: &str, source: Ipv4Addr, lan: &str) -> String {
    format!(
        "add table ip {table}\n\
         delete table ip {table}\n\
         table ip {table} {{\n\
         \tchain postrouting {{\n\
         \t\ttype nat hook postrouting priority srcnat; policy accept;\n\
         \t\tip saddr {source} oifname \"{lan}\" masquerade\n\
         \t}}\n\
         }}\n"
    )
}

async fn run(script: &str) -> Result<(), HostError> {
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
        assert_eq!(table("vcg0"), "vcgate_vcg0");
        assert_eq!(table("a-b.1"), "vcgate_a_2db_2e1");
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
