//! `vcgate doctor`: checks whether this machine can run an endpoint, and prints remedies.

use super::output;
use std::path::Path;
use tokio::runtime::Runtime;
use vcgate::config::{self, LanAddress};
use vcgate::control::client::Client;
use vcgate::doctor::{Check, Subject, Verdict, checks, confinement_checks};
use vcgate::operate::checkup::subject;

/// Refuses a first start that could not work, with every cause and its remedy.
///
/// # Errors
/// A check failed for an endpoint with this LAN interface and defaults otherwise.
pub(super) fn refuse_blocked(
    runtime: &Runtime,
    lan_interface: Option<String>,
) -> anyhow::Result<()> {
    let subject = Subject {
        lan_interface,
        ..first_subject()
    };
    let mut failed = runtime.block_on(checks(&subject, false));
    // A firewall can be opened while the endpoint runs, which warns of it.
    failed.retain(|check| check.verdict == Verdict::Fail && !check.name.ends_with("-filter"));
    anyhow::ensure!(
        failed.is_empty(),
        "cannot start an endpoint here; no file was made:\n{}",
        text(&failed).trim_end()
    );
    Ok(())
}

/// Checks this machine, for the configuration if there is one. Failed checks are an error.
pub(super) fn run(config: Option<&Path>, json: bool) -> anyhow::Result<()> {
    let (subject, endpoint) = match config {
        Some(path) => {
            let loaded = config::load(path)?;
            (subject(&loaded), Client::of(&loaded.config))
        }
        None => {
            let subject = first_subject();
            let endpoint = Client::new(Some(&subject.tun));
            (subject, endpoint)
        }
    };
    let status = endpoint.and_then(|c| c.status()).ok();
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()?;
    let mut checks = runtime.block_on(checks(&subject, status.is_some()));
    let confinement = status.and_then(|status| status.confinement);
    checks.extend(confinement.iter().flat_map(confinement_checks));
    output::report(&checks, json, |checks| text(checks))?;
    let failed = checks.iter().filter(|c| c.verdict == Verdict::Fail).count();
    anyhow::ensure!(failed == 0, "{failed} of {} checks failed", checks.len());
    Ok(())
}

/// Returns the subject of the checks before there is a configuration.
fn first_subject() -> Subject {
    Subject {
        tun: config::DEFAULT_NAME.into(),
        listen_port: config::DEFAULT_PORT,
        lan_interface: None,
        lan_address: LanAddress::Auto,
        further_addresses: Vec::new(),
        lan_address6: None,
        lan_problems: Vec::new(),
        peers_with_everything: Vec::new(),
        dns: Some(Vec::new()),
    }
}

/// Renders a line for each check, with the remedy below it.
fn text(checks: &[Check]) -> String {
    let width = checks.iter().map(|c| c.name.len()).max().unwrap_or(0);
    let mut text = String::new();
    for check in checks {
        let verdict = match check.verdict {
            Verdict::Ok => "ok  ",
            Verdict::Warn => "warn",
            Verdict::Fail => "FAIL",
        };
        text += &format!("{verdict}  {:width$}  {}\n", check.name, check.meaning);
        if let Some(remedy) = &check.remedy {
            text += &format!("      {:width$}  → {remedy}\n", "");
        }
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn failed_checks_are_followed_by_their_remedies() {
        let check = |name, verdict, meaning: &str, remedy: Option<&str>| Check {
            name,
            verdict,
            meaning: meaning.into(),
            remedy: remedy.map(str::to_owned),
        };
        let checks = [
            check("kernel", Verdict::Ok, "Linux 6.18", None),
            check(
                "nft",
                Verdict::Fail,
                "nft is missing",
                Some("apt-get install nftables"),
            ),
        ];
        let expected = "\
ok    kernel  Linux 6.18
FAIL  nft     nft is missing
              → apt-get install nftables
";
        assert_eq!(text(&checks), expected);
    }
}
