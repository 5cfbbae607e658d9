//! The questions to ask about a name that is not known here: under which search domains, and as which
//! NetBIOS name. It sends no question itself.

use crate::name::{DnsName, address_of, below, is_single, parse, reverse};
use crate::settings::Settings;
use domain::base::iana::Rtype;
use domain::base::name::ToName;
use vcgate_core::netmap::NetMap;

/// Names that are never looked up on the LAN: any host could claim them, and would become the proxy or
/// the router of clients that ask for them.
const NEVER_NETBIOS: [&str; 2] = ["wpad", "isatap"];

/// The search domains of clients.
#[derive(Debug)]
pub(crate) struct Search {
    domains: Vec<DnsName>,
    netmap: NetMap,
}

/// The questions to ask about a name that is not known here.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Plan {
    /// The names to ask servers for, until one exists.
    pub candidates: Vec<DnsName>,
    /// The label to look up as a NetBIOS name if none exists.
    pub netbios: Option<String>,
}

impl Search {
    pub(crate) fn new(settings: &Settings) -> Self {
        let domains = settings.search.iter().filter_map(|name| parse(name));
        Self {
            domains: domains.collect(),
            netmap: settings.netmap.clone(),
        }
    }

    /// Returns the questions to ask about a name that is not known here.
    pub(crate) fn plan(&self, name: &DnsName, rtype: Rtype) -> Plan {
        if let Some(candidate) = self.mapped_reverse(name) {
            return Plan {
                candidates: vec![candidate],
                netbios: None,
            };
        }
        let label = name.first().to_string();
        let is_host = matches!(rtype, Rtype::A | Rtype::AAAA)
            && !NEVER_NETBIOS
                .iter()
                .any(|never| never.eq_ignore_ascii_case(&label));
        let single = is_single(name);
        let below_search = || {
            let parent = name.parent();
            parent.is_some_and(|parent| self.domains.contains(&parent.to_name::<Vec<u8>>()))
        };
        let mut candidates = Vec::new();
        if single {
            candidates.extend(
                self.domains
                    .iter()
                    .filter_map(|domain| below(&label, domain)),
            );
        }
        candidates.push(name.clone());
        Plan {
            candidates,
            netbios: (is_host && (single || below_search())).then_some(label),
        }
    }

    /// Returns the reverse name of a LAN's address that a client knows as another one.
    fn mapped_reverse(&self, name: &DnsName) -> Option<DnsName> {
        let address = address_of(name)?;
        let lan = self.netmap.to_lan(address)?;
        (lan != address).then(|| reverse(lan)).flatten()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use vcgate_core::netmap::PrefixMap;

    fn dns(name: &str) -> DnsName {
        parse(name).unwrap()
    }

    fn search() -> Search {
        let map = PrefixMap::new(
            "192.168.77.0/24".parse().unwrap(),
            "10.77.1.0/24".parse().unwrap(),
        );
        Search::new(&Settings {
            search: vec!["lan.example".into(), "b.example".into()],
            netmap: NetMap::new(vec![map.unwrap()]).unwrap(),
            ..Settings::default()
        })
    }

    #[test]
    fn single_names_are_tried_under_each_search_domain_and_as_netbios_names() {
        let search = search();
        let plan = |name: &str, rtype| {
            let plan = search.plan(&dns(name), rtype);
            let candidates: Vec<_> = plan.candidates.iter().map(ToString::to_string).collect();
            (candidates.join(" "), plan.netbios)
        };
        let is = |text: &str| Some(text.to_owned());
        let all = "srv.lan.example srv.b.example srv".to_owned();
        assert_eq!(plan("srv", Rtype::A), (all.clone(), is("srv")));
        assert_eq!(plan("srv", Rtype::MX), (all, None));
        assert_eq!(
            plan("srv.b.example", Rtype::AAAA),
            ("srv.b.example".into(), is("srv"))
        );
        assert_eq!(
            plan("a.b.b.example", Rtype::A),
            ("a.b.b.example".into(), None)
        );
        assert_eq!(
            plan("www.example.net", Rtype::A),
            ("www.example.net".into(), None)
        );
        assert_eq!(
            plan("WPAD.b.example", Rtype::A),
            ("WPAD.b.example".into(), None)
        );
    }

    #[test]
    fn reverse_names_of_mapped_addresses_are_those_of_the_lan() {
        let search = search();
        for (asked, candidate) in [
            ("12.1.77.10.in-addr.arpa", "12.77.168.192.in-addr.arpa"),
            ("12.1.78.10.in-addr.arpa", "12.1.78.10.in-addr.arpa"),
        ] {
            let plan = search.plan(&dns(asked), Rtype::PTR);
            assert_eq!(plan.candidates, [dns(candidate)]);
            assert_eq!(plan.netbios, None);
        }
    }
}
