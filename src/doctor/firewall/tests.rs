use super::*;

const FORWARD: Probe<'static> = Probe {
    hook: "forward",
    ipv6: false,
    input: Some("vcg0"),
    output: Some("lan0"),
    port: None,
    established: false,
};
const BACK: Probe<'static> = Probe {
    input: Some("lan0"),
    output: Some("vcg0"),
    established: true,
    ..FORWARD
};
const INPUT: Probe<'static> = Probe {
    hook: "input",
    ipv6: false,
    input: None,
    output: None,
    port: Some(51820),
    established: false,
};

/// Effect of the filter table of iptables on a packet: nothing, "drops", or "may drop".
fn of_iptables(rules: &str, probe: &Probe<'_>) -> &'static str {
    let text = format!("*nat\n:FORWARD DROP [0:0]\nCOMMIT\n*filter\n{rules}\nCOMMIT\n");
    shown(iptables::parse(&text, "iptables", "ip"), probe)
}

/// The same of rules in nft's JSON, in base chains that accept.
fn of_nft(rules: &[&str], probe: &Probe<'_>) -> &'static str {
    let chain = |name: &str, hook: &str| {
        format!(
            r#"{{"chain": {{"family": "inet", "table": "t", "name": "{name}", "hook": "{hook}", "policy": "accept"}}}}"#
        )
    };
    let rule = |expressions: &&str| {
        format!(
            r#"{{"rule": {{"family": "inet", "table": "t", "chain": "{}", "expr": [{expressions}]}}}}"#,
            probe.hook
        )
    };
    let objects: Vec<_> = [chain("forward", "forward"), chain("input", "input")]
        .into_iter()
        .chain(rules.iter().map(rule))
        .collect();
    let json = format!(r#"{{"nftables": [{}]}}"#, objects.join(","));
    let mut tables = nftables::parse(json.as_bytes());
    shown(tables.remove(0), probe)
}

fn shown(table: Table, probe: &Probe<'_>) -> &'static str {
    let firewall = Firewall {
        tables: vec![table],
        unreadable: Vec::new(),
    };
    match firewall.obstacles(probe).as_slice() {
        [] => "passes",
        [Obstacle { unless: true, .. }] => "may drop",
        _ => "drops",
    }
}

#[test]
fn policies_of_iptables_drop_what_no_rule_accepts() {
    let docker = ":FORWARD DROP [0:0]\n:DOCKER-USER - [0:0]\n\
         -A FORWARD -j DOCKER-USER\n\
         -A FORWARD -o docker0 -m conntrack --ctstate RELATED,ESTABLISHED -j ACCEPT\n\
         -A FORWARD -i docker0 ! -o docker0 -j ACCEPT\n\
         -A DOCKER-USER -j RETURN";
    assert_eq!(of_iptables(docker, &FORWARD), "drops");
    assert_eq!(of_iptables(docker, &BACK), "drops");
    assert_eq!(of_iptables(docker, &INPUT), "passes");
    let user = docker.replace(
        "-A DOCKER-USER",
        "-A DOCKER-USER -i vcg+ -m comment --comment \"the -j DROP tunnel\" -j ACCEPT\n-A DOCKER-USER",
    );
    assert_eq!(of_iptables(&user, &FORWARD), "passes");
    assert_eq!(of_iptables(&user, &BACK), "drops");
    let answers = ":FORWARD DROP [0:0]\n\
         -A FORWARD -m state --state ESTABLISHED -j ACCEPT\n-A FORWARD -s 10.0.0.0/8 -j ACCEPT";
    assert_eq!(of_iptables(answers, &BACK), "passes");
    assert_eq!(of_iptables(answers, &FORWARD), "may drop");
    let no_end = ":FORWARD DROP [0:0]\n:A - [0:0]\n:B - [0:0]\n\
         -A FORWARD -j A\n-A A -j B\n-A B -g A";
    assert_eq!(of_iptables(no_end, &FORWARD), "drops");
}

#[test]
fn input_chains_drop_the_port() {
    for (rules, expected) in [
        (":INPUT DROP [0:0]\n-A INPUT -i lo -j ACCEPT", "drops"),
        (
            ":INPUT DROP [0:0]\n-A INPUT -i eth0 -p udp -j ACCEPT",
            "may drop",
        ),
        (
            ":INPUT DROP [0:0]\n-A INPUT -p udp -m multiport --dports 53,51000:52000 -j ACCEPT",
            "passes",
        ),
        (
            ":INPUT ACCEPT [0:0]\n-A INPUT -p udp -m udp --dport 51820 -j DROP",
            "drops",
        ),
        (
            ":INPUT ACCEPT [0:0]\n-A INPUT -p tcp -m tcp --dport 51820 -j DROP",
            "passes",
        ),
        (
            ":INPUT ACCEPT [0:0]\n-A INPUT -j REJECT --reject-with icmp-port-unreachable",
            "drops",
        ),
        (
            ":INPUT ACCEPT [0:0]\n-A INPUT -p udp -m limit --limit 1/s -j DROP",
            "passes",
        ),
    ] {
        assert_eq!(of_iptables(rules, &INPUT), expected, "{rules}");
    }
}

#[test]
fn rules_of_nft_are_played_through() {
    let answers = r#"{"vmap": {"key": {"ct": {"key": "state"}}, "data": {"set": [["established", {"accept": null}], ["invalid", {"drop": null}]]}}}"#;
    let reject = r#"{"counter": {"packets": 0, "bytes": 0}}, {"reject": null}"#;
    assert_eq!(of_nft(&[answers, reject], &BACK), "passes");
    assert_eq!(of_nft(&[answers, reject], &FORWARD), "drops");
    let between = r#"{"match": {"op": "==", "left": {"meta": {"key": "iifname"}}, "right": {"set": ["vcg0", "lan0"]}}}, {"accept": null}"#;
    assert_eq!(of_nft(&[between, reject], &FORWARD), "passes");
    let others = r#"{"match": {"op": "!=", "left": {"meta": {"key": "oifname"}}, "right": "lan*"}}, {"drop": null}"#;
    assert_eq!(of_nft(&[others], &FORWARD), "passes");
    assert_eq!(of_nft(&[others], &BACK), "drops");
    let xt = r#"{"xt": {"type": "match", "name": "conntrack"}}, {"accept": null}"#;
    assert_eq!(of_nft(&[xt, reject], &FORWARD), "may drop");
    let port = r#"{"match": {"op": "==", "left": {"payload": {"protocol": "udp", "field": "dport"}}, "right": {"set": [53, {"range": [51000, 52000]}]}}}, {"accept": null}"#;
    assert_eq!(of_nft(&[port, reject], &INPUT), "passes");
    assert_eq!(of_nft(&[reject], &INPUT), "drops");
    let dns = Probe {
        input: Some("vcg0"),
        port: Some(53),
        ..INPUT
    };
    let any_protocol = port.replace("udp", "th");
    assert_eq!(of_nft(&[&any_protocol, reject], &dns), "passes");
    assert_eq!(of_nft(&[reject], &dns), "drops");
    assert_eq!(nftables::parse(b"nonsense").len(), 0);
}

#[test]
fn remedies_are_in_the_words_of_the_tool() {
    let matches = [("iifname \"vcg0\"".to_owned(), "-i vcg0".to_owned())];
    let obstacle = |tool, table: &str, chain: &str| Obstacle {
        tool,
        table: table.into(),
        chain: chain.into(),
        unless: false,
    };
    for (obstacle, name, remedy) in [
        (
            obstacle("iptables-legacy", "ip filter", "FORWARD"),
            "FORWARD of iptables-legacy",
            "iptables-legacy -I FORWARD -i vcg0 -j ACCEPT",
        ),
        (
            obstacle("nft", "inet mine", "f"),
            "inet mine f",
            "nft insert rule inet mine f iifname \"vcg0\" accept",
        ),
    ] {
        assert_eq!(obstacle.name(), name);
        assert_eq!(obstacle.remedy(&matches), remedy);
    }
}
