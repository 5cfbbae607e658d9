//! Whatever the file is: a configuration or problems, and no panic.

use super::*;
use proptest::prelude::*;

proptest! {
    #[test]
    fn any_text_is_a_configuration_or_problems(text: String) {
        let _ = parse(&text, Path::new("/nonexistent/vcgate.toml"));
    }

    #[test]
    fn any_toml_is_a_configuration_or_problems(lines in proptest::collection::vec(line(), 0..24)) {
        let text = lines.join("\n");
        if let Err(problems) = parse(&text, Path::new("/nonexistent/vcgate.toml")) {
            prop_assert!(!problems.errors.is_empty());
        }
    }
}

/// Lines that are nearly a configuration.
fn line() -> impl Strategy<Value = String> {
    let header = proptest::sample::select(
        &[
            "[interface]",
            "[lan]",
            "[smb]",
            "[nat.timeouts]",
            "[nat.limits]",
            "[dns]",
            "[dns.records]",
            "[[peer]]",
            "[peer]",
        ][..],
    );
    let key = proptest::sample::select(
        &[
            "name",
            "public_key",
            "allowed_ips",
            "address",
            "networks",
            "mtu",
            "listen_port",
            "endpoint",
            "hook",
            "ports",
            "udp",
            "reach",
            "services",
            "servers",
            "search",
            "x",
        ][..],
    );
    let value = proptest::sample::select(
        &[
            "1",
            "-1",
            "1420",
            "\"\"",
            "\"a\"",
            "\"auto\"",
            "[]",
            "[1]",
            "[\"10.8.0.1/24\"]",
            "[\"::/0\", \"fd00::1/64\", \"0.0.0.0/0\"]",
            "\"5m\"",
            "{}",
            "true",
            "1.5",
            "[[]]",
        ][..],
    );
    prop_oneof![
        header.prop_map(str::to_owned),
        (key, value).prop_map(|(key, value)| format!("{key} = {value}")),
        "\\PC{0,12}",
    ]
}
