"""In a container: /proc/sys cannot be written, and CAP_NET_ADMIN is the only capability. What is as it
has to be already is no error, and what is missing is named with a remedy that a container takes."""

import re

import pytest

from . import topology

READ_ONLY = ("sh", "-c", 'mount --bind /proc/sys /proc/sys && mount -o remount,ro,bind /proc/sys '
             '&& exec "$@"', "sh")
WRITABLE = ()
NET_ADMIN = ("setpriv", "--bounding-set", "-all,+net_admin", "--inh-caps", "-all,+net_admin")
IPV4_ALONE = "IPv6 is not translated"


@pytest.fixture
def start(lab, make_gateway):
    """A function that starts vcgate with these settings of the machine and connects a client."""
    def start(proc, forward, forward6, disable_ipv6, caps=NET_ADMIN, address="auto", address6="auto"):
        lab.gateway.sysctl("net.ipv4.ip_forward", forward)
        lab.gateway.sysctl("net.ipv6.conf.all.forwarding", forward6)
        lab.gateway.sysctl("net.ipv6.conf.default.disable_ipv6", disable_ipv6)
        gateway = make_gateway("vcgate", address=address, address6=address6)
        gateway.write(lab.clients(1))
        gateway.launch(*proc, *caps)
        return gateway

    return start


@pytest.mark.parametrize("proc, forward, forward6, disable_ipv6, missing", [
    (READ_ONLY, 1, 0, 0, "net.ipv6.conf.all.forwarding=1"),
    (READ_ONLY, 1, 0, 1, "net.ipv6.conf.all.forwarding=1"),
    (READ_ONLY, 1, 1, 1, "net.ipv6.conf.all.disable_ipv6=0"),
    (READ_ONLY, 1, 1, 0, None),
    (WRITABLE, 0, 0, 0, None),
    (WRITABLE, 0, 0, 1, None),
])
def test_it_runs_with_what_there_is(lab, start, proc, forward, forward6, disable_ipv6, missing):
    (client,) = lab.clients(1)
    with lab.ipv6_on_the_lan():
        gateway = start(proc, forward, forward6, disable_ipv6)
        gateway.process.wait_for_line("ready.*peers=")
        client.connect(gateway)
        client.machine.reaches(topology.SERVER)
        assert (IPV4_ALONE in gateway.process.text()) == bool(missing), gateway.process.text()
        if missing:
            assert f"--sysctl {missing}`" in gateway.process.text()
        else:
            client.machine.reaches(topology.SERVER6)
        # Nothing is said twice, and what cannot be written is not missed later.
        gateway.machine.run("nft", "flush", "ruleset")
        gateway.process.wait_for_line("had removed: the nftables table ip vcgate_vclg0")
        lines = [re.sub(r"^\S+ +", "", line) for line in gateway.process.text().splitlines()]
        assert len(lines) == len(set(lines)), lines
        assert "cannot restore a part" not in gateway.process.text()
        assert gateway.stop() == 0, gateway.process.text()


def test_what_is_missing_is_named_with_a_remedy_for_containers(lab, start):
    gateway = start(READ_ONLY, 0, 0, 0)
    assert gateway.process.wait(20) == 1
    assert "--sysctl net.ipv4.ip_forward=1" in gateway.process.text()
    found = lab.gateway.run(*READ_ONLY, *NET_ADMIN, *gateway.program, "doctor", "--config", gateway.config,
                            check=False)
    assert re.search(r"FAIL +forwarding +lan does not forward.*\n.*--sysctl net.ipv4.ip_forward=1", found.stdout)
    assert re.search(r"ok +permission ", found.stdout), found.stdout


def test_an_address_of_its_own_needs_no_settings_but_forwarding(lab, start):
    (client,) = lab.clients(1)
    gateway = start(READ_ONLY, 1, 0, 0, caps=(), address="192.168.77.2", address6=None)
    gateway.process.wait_for_line("ready.*peers=")
    client.connect(gateway)
    client.machine.reaches(topology.SERVER)
    assert "net.ipv4.neigh.lan.proxy_delay" in gateway.process.text()
