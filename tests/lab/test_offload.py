"""Without one of the kernel's offloads, or without all, everything still works, and status says so."""

import pytest

from . import iperf

WITHOUT = {
    "tun none": ({"tun": "none"}, {"tun-tcp", "tun-udp"}),
    "tun tcp": ({"tun": "tcp"}, {"tun-udp"}),
    "gso": ({"gso": False}, {"udp-gso"}),
    "gro": ({"gro": False}, {"udp-gro"}),
    "all": ({"tun": "none", "gso": False, "gro": False},
            {"tun-tcp", "tun-udp", "udp-gso", "udp-gro"}),
}


@pytest.mark.parametrize("what", WITHOUT)
def test_without(lab, start_gateway, iperf_servers, open_office, what):
    offload, missing = WITHOUT[what]
    gateway = start_gateway(lab.clients(3), offload=offload)
    office = open_office(445)
    offloads = set(gateway.json("status")["offloads"])
    assert offloads.isdisjoint(missing)
    assert offloads | missing == {"tun-tcp", "tun-udp", "udp-gso", "udp-gro"}
    servers = iperf_servers()
    for options in ([], ["-R"], ["-u", "-b", "20M", "-l", "1300"], ["-u", "-b", "20M", "-R"]):
        result = iperf.measure(office.users[0], servers, *options, seconds=1)
        print(what, *options, result)
        assert result.bytes > 0
    office.assert_nobody_is_cut_off()
