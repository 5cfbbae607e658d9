//! Reads and writes kernel settings under /proc/sys. It does not record them.

use super::HostError;
use std::fs;

/// File of an IPv4 setting of one interface.
pub(crate) fn ipv4(interface: &str, key: &str) -> String {
    format!("/proc/sys/net/ipv4/conf/{interface}/{key}")
}

/// File of an IPv6 setting of one interface.
pub(crate) fn ipv6(interface: &str, key: &str) -> String {
    format!("/proc/sys/net/ipv6/conf/{interface}/{key}")
}

/// Whether `path` is an interface's IPv4 forwarding and the whole machine forwards.
pub(crate) fn forwards_with_all(path: &str) -> bool {
    let of_ipv4 = path.starts_with("/proc/sys/net/ipv4/conf/") && path.ends_with("/forwarding");
    of_ipv4 && read(&ipv4("all", "forwarding")).as_deref() == Some("1")
}

/// File of the delay of answers to neighbour solicitations for proxied addresses.
pub(crate) fn proxy_delay6(interface: &str) -> String {
    format!("/proc/sys/net/ipv6/neigh/{interface}/proxy_delay")
}

/// File of the delay of answers to ARP requests for proxied addresses.
pub(crate) fn proxy_delay(interface: &str) -> String {
    format!("/proc/sys/net/ipv4/neigh/{interface}/proxy_delay")
}

/// Reads the value of a setting, if it exists.
pub(crate) fn read(path: &str) -> Option<String> {
    fs::read_to_string(path)
        .ok()
        .map(|value| value.trim_end().to_owned())
}

/// Sets a value.
pub(crate) fn write(path: &str, value: &str) -> Result<(), HostError> {
    fs::write(path, value).map_err(|source| HostError::Sysctl {
        path: path.into(),
        value: value.into(),
        source,
    })
}

/// Sets a value unless it is set already.
pub(crate) fn ensure(path: &str, value: &str) -> Result<(), HostError> {
    match read(path).as_deref() == Some(value) {
        true => Ok(()),
        false => write(path, value),
    }
}

/// Whether a setting has this value or can be set to it.
pub(crate) fn is_possible(path: &str, value: &str) -> bool {
    // Opening the file changes nothing.
    let writable = || fs::OpenOptions::new().write(true).open(path).is_ok();
    read(path).as_deref() == Some(value) || writable()
}

/// The option that gives a container the setting at its start. The interfaces do not exist at that
/// time, so it is a setting that they inherit.
pub(crate) fn for_container(path: &str, value: &str) -> String {
    let name = match (
        path.starts_with("/proc/sys/net/ipv6/"),
        path.rsplit('/').next(),
    ) {
        (false, Some("forwarding")) => "net.ipv4.ip_forward".to_owned(),
        (true, Some(key @ ("forwarding" | "disable_ipv6" | "proxy_ndp"))) => {
            format!("net.ipv6.conf.all.{key}")
        }
        _ => dotted(path),
    };
    format!("--sysctl {name}={value}")
}

/// Name of a setting in the notation of sysctl(8): dots for slashes, and slashes for dots.
pub(crate) fn dotted(path: &str) -> String {
    let name = path.trim_start_matches("/proc/sys/");
    name.chars()
        .map(|c| match c {
            '/' => '.',
            '.' => '/',
            other => other,
        })
        .collect()
}

#[cfg(test)]
mod tests {
    #[test]
    fn containers_get_settings_that_exist_at_their_start() {
        for (path, setting) in [
            (
                super::ipv4("eth0", "forwarding"),
                "--sysctl net.ipv4.ip_forward=1",
            ),
            (
                super::ipv6("vcg0", "forwarding"),
                "--sysctl net.ipv6.conf.all.forwarding=1",
            ),
            (
                super::ipv6("all", "proxy_ndp"),
                "--sysctl net.ipv6.conf.all.proxy_ndp=1",
            ),
        ] {
            assert_eq!(super::for_container(&path, "1"), setting);
        }
    }

    #[test]
    fn dots_and_slashes_change_places() {
        let path = super::ipv4("eth0.100", "forwarding");
        assert_eq!(super::dotted(&path), "net.ipv4.conf.eth0/100.forwarding");
    }
}
