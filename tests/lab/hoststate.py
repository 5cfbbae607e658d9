"""Snapshots of a machine's network configuration, to compare before and after."""

import glob

from .net import PREFIX

SYSCTLS = r"^net\.ipv[46]\.(conf|neigh|ip_forward)"
"""Forwarding, rp_filter, proxy_arp, proxy_delay and their kin."""


def of(machine):
    """All that vcgate may change, as a dictionary of sorted lines."""
    addresses = [(link["ifname"], link["mtu"], sorted(set(link["flags"]) & {"UP", "PROMISC", "NOARP"}),
                  [(a["local"], a["prefixlen"], a["scope"]) for a in link["addr_info"]])
                 for link in machine.ip_json("address", "show")]
    state = {
        "addresses": [repr(address) for address in addresses],
        "rules": machine.ip("rule").stdout.splitlines() + machine.ip("-6", "rule").stdout.splitlines(),
        "nft": machine.run("nft", "list", "ruleset").stdout.splitlines(),
        "sysctls": machine.run("sysctl", "-a", "-r", SYSCTLS).stdout.splitlines(),
        # For the next run: flows, totals of peers, and the LAN addresses until now.
        "files": [file for file in glob.glob(f"/run/**/{PREFIX}g*", recursive=True)
                  if not file.endswith((".flows", ".peers", ".claim"))],
    }
    for family in ("-4", "-6"):
        state[f"routes {family}"] = machine.ip(
            family, "route", "show", "table", "all").stdout.splitlines()
        state[f"proxies {family}"] = machine.ip(family, "neighbour", "show", "proxy").stdout.splitlines()
    return {what: sorted(line.strip() for line in lines) for what, lines in state.items()}


def difference(before, after):
    """The lines that went (-) and came (+), with what they belong to."""
    changes = []
    for what in before:
        changes += [f"{what}: -{line}" for line in before[what] if line not in after[what]]
        changes += [f"{what}: +{line}" for line in after[what] if line not in before[what]]
    return changes
