//! Domain names: labels, names below a domain, and the reverse names of addresses. It knows no zone.

use domain::base::Name;
use domain::base::name::{FlattenInto, Label, ToLabelIter};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::str::FromStr;

/// A name with its labels.
pub(crate) type DnsName = Name<Vec<u8>>;

/// Reads a name. `None` if it is not one.
pub(crate) fn parse(name: &str) -> Option<DnsName> {
    Name::from_str(name).ok()
}

/// Returns the name of a label below a domain.
pub(crate) fn below(label: &str, domain: &DnsName) -> Option<DnsName> {
    let label = parse(label)?;
    let label = label.into_relative();
    label.chain(domain.clone()).ok()?.try_flatten_into().ok()
}

/// Whether a name has one label, besides that of the root.
pub(crate) fn is_single(name: &DnsName) -> bool {
    name.label_count() == 2
}

/// Returns the label for the name of a peer: other characters than those of names of hosts become `-`.
pub(crate) fn label_of(name: &str) -> String {
    let plain = |c: char| match c.is_ascii_alphanumeric() || c == '_' {
        true => c.to_ascii_lowercase(),
        false => '-',
    };
    name.chars().map(plain).take(Label::MAX_LEN).collect()
}

/// Returns the reverse name of an address.
pub(crate) fn reverse(address: IpAddr) -> Option<DnsName> {
    let (digits, zone): (Vec<String>, _) = match address {
        IpAddr::V4(address) => {
            let octets = address.octets();
            (octets.iter().rev().map(u8::to_string).collect(), "in-addr")
        }
        IpAddr::V6(address) => {
            let octets = address.octets();
            let halves = octets
                .iter()
                .rev()
                .flat_map(|octet| [octet & 0x0F, octet >> 4]);
            (halves.map(|half| format!("{half:x}")).collect(), "ip6")
        }
    };
    parse(&format!("{}.{zone}.arpa", digits.join(".")))
}

/// Returns the address that a name in a reverse zone stands for (RFC 1035 section 3.5, RFC 3596 section
/// 2.5).
pub(crate) fn address_of(name: &DnsName) -> Option<IpAddr> {
    let labels: Vec<&Label> = name
        .iter_labels()
        .filter(|label| !label.is_root())
        .collect();
    let is = |label: &Label, text: &str| label.as_slice().eq_ignore_ascii_case(text.as_bytes());
    let (top, rest) = labels.split_last()?;
    let (zone, digits) = rest.split_last()?;
    if !is(top, "arpa") {
        return None;
    }
    let digits = digits
        .iter()
        .rev()
        .map(|label| std::str::from_utf8(label.as_slice()).ok());
    if is(zone, "in-addr") && digits.len() == 4 {
        let octets: Option<Vec<u8>> = digits.map(|text| text?.parse().ok()).collect();
        let octets: [u8; 4] = octets?.try_into().ok()?;
        return Some(Ipv4Addr::from(octets).into());
    }
    if is(zone, "ip6") && digits.len() == 32 {
        let mut number = 0u128;
        for digit in digits {
            let digit = digit.filter(|digit| digit.len() == 1)?;
            number = number << 4 | u128::from_str_radix(digit, 16).ok()?;
        }
        return Some(Ipv6Addr::from(number).into());
    }
    None
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn dns(name: &str) -> DnsName {
        parse(name).unwrap()
    }

    #[test]
    fn whole_reverse_names_stand_for_addresses() {
        let of = |name: &str| address_of(&dns(name)).map(|address| address.to_string());
        assert_eq!(of("1.0.8.10.IN-ADDR.arpa").as_deref(), Some("10.8.0.1"));
        let v6 = "1.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.8.0.0.0.0.0.d.f.ip6.arpa";
        assert_eq!(of(v6).as_deref(), Some("fd00:8::1"));
        for name in [
            "0.8.10.in-addr.arpa",
            "300.0.8.10.in-addr.arpa",
            "x.ip6.arpa",
            "arpa",
            ".",
        ] {
            assert_eq!(of(name), None, "{name}");
        }
    }

    proptest! {
        /// The oracle writes the reverse name as the RFCs do.
        #[test]
        fn every_address_is_read_from_its_reverse_name(address: IpAddr) {
            let reverse = match address {
                IpAddr::V4(address) => {
                    let octets = address.octets().map(|octet| octet.to_string());
                    let reversed: Vec<_> = octets.into_iter().rev().collect();
                    format!("{}.in-addr.arpa", reversed.join("."))
                }
                IpAddr::V6(address) => {
                    let digits = format!("{:032x}", u128::from(address));
                    let reversed: Vec<_> = digits.chars().rev().map(|c| c.to_string()).collect();
                    format!("{}.ip6.arpa", reversed.join("."))
                }
            };
            prop_assert_eq!(address_of(&dns(&reverse)), Some(address));
            prop_assert_eq!(super::reverse(address), Some(dns(&reverse)));
        }

        #[test]
        fn names_of_peers_are_labels(name in "\\PC{1,64}") {
            prop_assert!(parse(&label_of(&name)).is_some_and(|label| is_single(&label)));
        }
    }
}
