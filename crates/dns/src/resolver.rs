//! The order in which the sources of names are asked: what is known here, the servers, the LAN.

use crate::clients::Clients;
use crate::counters::Source;
use crate::limits::Client;
use crate::name::DnsName;
use crate::names::{Asker, Known, Names, of_family};
use crate::netbios::{self, Lan};
use crate::reply::{Answer, Data, Forwarded, Question};
use crate::search::Search;
use crate::settings::Settings;
use crate::upstream::Upstream;
use domain::base::Ttl;
use domain::base::iana::Rcode;
use std::future::Future;
use std::net::{IpAddr, Ipv4Addr};
use std::pin::pin;
use std::sync::Arc;
use std::time::{Duration, Instant};
use tokio::time::timeout;
use vcgate_core::netmap::NetMap;

/// Lifetime of answers from here: short, since a reload changes them.
const LOCAL_TTL: Ttl = Ttl::from_secs(60);
/// Time to wait for servers before the LAN is asked as well.
const SERVERS_FIRST: Duration = Duration::from_secs(1);
/// Maximum time for one question. Clients have asked again by then.
const MAX_TIME: Duration = Duration::from_secs(8);

/// The sources of names for one set of settings.
pub(crate) struct Resolver {
    settings: Settings,
    names: Names,
    search: Search,
    clients: Clients,
    upstream: Upstream,
    lan: Option<Arc<Lan>>,
}

impl Resolver {
    /// Connects to the servers. What a change leaves as it was is taken from the `old` resolver, with
    /// its cache.
    pub(crate) async fn new(settings: Settings, old: Option<&Self>) -> Self {
        let same_servers = |old: &&Self| old.settings.servers == settings.servers;
        let upstream = match old.filter(same_servers) {
            Some(old) => old.upstream.clone(),
            None => Upstream::new(&settings.servers).await,
        };
        let same_lan = |old: &&Self| old.settings.netbios == settings.netbios;
        let lan = match old.filter(same_lan) {
            Some(old) => old.lan.clone(),
            None => settings.netbios.clone().map(|lan| Arc::new(Lan::new(lan))),
        };
        Self {
            names: Names::new(&settings),
            search: Search::new(&settings),
            clients: Clients::new(&settings.peers),
            upstream,
            lan,
            settings,
        }
    }

    /// Returns the prefixes that clients know by others.
    pub(crate) fn netmap(&self) -> &NetMap {
        &self.settings.netmap
    }

    /// Returns the client that has an address.
    pub(crate) fn client(&self, address: IpAddr) -> Asker {
        self.clients.find(address)
    }

    /// Returns the name of a client in messages to people.
    pub(crate) fn client_name(&self, asker: Asker, address: IpAddr) -> String {
        let peer = asker.and_then(|number| self.settings.peers.get(number));
        peer.map_or_else(|| address.to_string(), |peer| peer.name.clone())
    }

    /// Answers a client's question.
    pub(crate) async fn answer(
        &self,
        asker: Asker,
        client: &Client,
        question: &Question,
    ) -> (Answer, Source) {
        if let Some(known) = self.names.find(asker, &question.name, question.rtype) {
            let answer = match known {
                Known::Addresses(addresses) => local(addresses),
                Known::Pointer(name) => Answer::Local(vec![Data::Pointer(name.clone())], LOCAL_TTL),
                Known::NoName => Answer::NoName,
            };
            return (answer, Source::Local);
        }
        let answer = timeout(MAX_TIME, self.look_up(client, question)).await;
        let answer = answer.unwrap_or(Answer::Failure);
        let source = match &answer {
            Answer::Forwarded(forwarded) if forwarded.cached => Source::Cache,
            Answer::Forwarded(_) | Answer::Failure | Answer::Refused => Source::Server,
            Answer::Local(..) | Answer::NoName => Source::Netbios,
        };
        (answer, source)
    }

    async fn look_up(&self, client: &Client, question: &Question) -> Answer {
        let plan = self.search.plan(&question.name, question.rtype);
        let mut servers = pin!(self.ask_servers(&plan.candidates, question));
        let (Some(lan), Some(label)) = (&self.lan, &plan.netbios) else {
            return servers.await;
        };
        let on_lan = |found: Vec<Ipv4Addr>| {
            let found: Vec<IpAddr> = found.into_iter().map(IpAddr::V4).collect();
            local(of_family(&found, question.rtype))
        };
        let remembered = lan.remembered(label, Instant::now());
        if let Some(found) = remembered.clone().filter(|found| !found.is_empty()) {
            return on_lan(found);
        }
        let early = timeout(SERVERS_FIRST, servers.as_mut()).await.ok();
        if let Some(answer) = early.as_ref().filter(|answer| is_known(answer)) {
            return answer.clone();
        }
        let ask_lan = async {
            match (remembered, client.netbios()) {
                (Some(nothing), _) => Some(nothing),
                (None, Some(_permit)) => lan.look_up(label).await,
                (None, None) => None,
            }
        };
        match early {
            Some(answer) => choose(ask_lan.await, answer, on_lan),
            None => race(ask_lan, servers.as_mut(), on_lan).await,
        }
    }

    /// Asks for one name after the other, until one exists.
    async fn ask_servers(&self, candidates: &[DnsName], question: &Question) -> Answer {
        let mut answer = match self.upstream.is_empty() {
            true => Answer::Refused,
            false => Answer::Failure,
        };
        let mut cached = true;
        for name in candidates {
            let asked = self
                .upstream
                .ask(name, question.rtype, question.flags)
                .await;
            cached &= asked.as_ref().is_some_and(|(_, cached)| *cached);
            if let Some((message, _)) = asked {
                let found = message.header().rcode() == Rcode::NOERROR;
                let asked = (found && *name != question.name).then(|| name.clone());
                let forwarded = Answer::Forwarded(Forwarded {
                    message,
                    asked,
                    cached,
                });
                if found {
                    return forwarded;
                }
                // An error of a later server does not mean that the name may exist.
                if !is_missing(&answer) {
                    answer = forwarded;
                }
            }
        }
        answer
    }
}

/// Returns the first of the LAN's and the servers' answers that has the name, otherwise the servers'.
async fn race(
    lan: impl Future<Output = Option<Vec<Ipv4Addr>>>,
    mut servers: impl Future<Output = Answer> + Unpin,
    on_lan: impl Fn(Vec<Ipv4Addr>) -> Answer,
) -> Answer {
    let mut lan = pin!(lan);
    tokio::select! {
        found = &mut lan => match found {
            Some(found) if !found.is_empty() => on_lan(found),
            _ => servers.await,
        },
        answer = &mut servers => match is_known(&answer) {
            true => answer,
            false => choose(lan.await, answer, on_lan),
        },
    }
}

/// Returns the LAN's answer if it has the name, otherwise the servers' answer.
fn choose(
    found: Option<Vec<Ipv4Addr>>,
    answer: Answer,
    on_lan: impl Fn(Vec<Ipv4Addr>) -> Answer,
) -> Answer {
    match (found, answer) {
        (Some(found), _) if !found.is_empty() => on_lan(found),
        // There is no server that could know the name.
        (Some(_), Answer::Refused) => Answer::NoName,
        (_, answer) => answer,
    }
}

fn local(addresses: Vec<IpAddr>) -> Answer {
    debug_assert!(netbios::FOUND_TIME >= Duration::from_secs(LOCAL_TTL.as_secs().into()));
    let data = addresses.into_iter().map(Data::Address);
    Answer::Local(data.collect(), LOCAL_TTL)
}

/// Whether a server knows that the name does not exist.
fn is_missing(answer: &Answer) -> bool {
    match answer {
        Answer::Forwarded(forwarded) => forwarded.message.header().rcode() == Rcode::NXDOMAIN,
        _ => false,
    }
}

/// Whether a server has the name.
fn is_known(answer: &Answer) -> bool {
    match answer {
        Answer::Forwarded(forwarded) => forwarded.message.header().rcode() == Rcode::NOERROR,
        _ => false,
    }
}
