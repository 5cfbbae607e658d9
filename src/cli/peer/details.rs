//! The options of `vcgate peer add` for keys of the client's section.

use clap::Args;
use std::time::SystemTime;
use vcgate::config::Assignment;

/// Keys of a new client's section, in the notation of `vcgate peer set`.
#[derive(Debug, Default, Args)]
pub(in crate::cli) struct Details {
    /// The time at which its access ends: 2027-01-31T18:00:00Z, or a time from now, such as 30d
    #[arg(long, value_name = "TIME")]
    expires: Option<String>,
    /// A text about it
    #[arg(long, value_name = "TEXT")]
    note: Option<String>,
    /// A group that it belongs to; can be given several times
    #[arg(long, value_name = "NAME")]
    group: Vec<String>,
    /// The destinations it may reach, with commas between, such as 192.168.77.10:445,icmp
    #[arg(long, value_name = "RULES")]
    reach: Option<String>,
    /// The limit of traffic from it, such as 10Mbit
    #[arg(long, value_name = "RATE")]
    rate_up: Option<String>,
    /// The limit of traffic to it
    #[arg(long, value_name = "RATE")]
    rate_down: Option<String>,
    /// Route all its traffic through the tunnel
    #[arg(long)]
    full_tunnel: bool,
    /// Any other key of its section; can be given several times
    #[arg(long = "set", value_name = "KEY=VALUE")]
    others: Vec<String>,
}

impl Details {
    /// Returns the keys that were given.
    pub(in crate::cli) fn assignments(&self) -> anyhow::Result<Vec<Assignment>> {
        let now = SystemTime::now();
        let groups = Some(self.group.join(",")).filter(|groups| !groups.is_empty());
        let full_tunnel = self.full_tunnel.then(|| "true".to_owned());
        let named = [
            ("expires", &self.expires),
            ("note", &self.note),
            ("groups", &groups),
            ("reach", &self.reach),
            ("rate_up", &self.rate_up),
            ("rate_down", &self.rate_down),
            ("client.full_tunnel", &full_tunnel),
        ];
        let named = { named.into_iter() }.filter_map(|(key, value)| Some((key, value.as_ref()?)));
        let named = named.map(|(key, value)| Assignment::of(key, value, now));
        let others = self.others.iter().map(|text| Assignment::parse(text, now));
        let all = named.chain(others).collect::<Result<_, _>>();
        all.map_err(|wrong| anyhow::anyhow!("{wrong}"))
    }
}
