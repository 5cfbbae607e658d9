"""A running endpoint applies its configuration at a reload, and everything else continues:
`vcgate reload`, SIGHUP, and what `wg` does to peers in between."""

import json
import re
import signal
import socket

import pytest

from . import topology
from .callers import echo, is_prohibited, says
from .gateway import VCGATE
from .net import wait_for

PING = ("ping", "-n", "-i", "0.05", "-c", "100", "-W", "2", topology.SERVER)


@pytest.fixture
def gateway(lab, make_gateway):
    """Of three clients, user1 and user3 are in its file and connected."""
    first, _, third = lab.clients(3)
    gateway = make_gateway("vcgate")
    gateway.write([first, third])
    gateway.up()
    for client in (first, third):
        client.connect(gateway)
    return gateway


def edit(gateway, old, new):
    text = gateway.config.read_text()
    assert old in text
    gateway.config.write_text(text.replace(old, new, 1))


def with_peer(gateway, client, more=""):
    gateway.config.write_text(gateway.config.read_text() + f'[[peer]]\nname = "{client.name}"\n'
                              f'public_key = "{client.keys.public}"\nallowed_ips = ["{client.inner}"]\n{more}')


def by_command(gateway):
    shown = gateway.vcgate("reload").stdout
    assert shown == "peer user3: changed reach\npeer user2: added\n"


def by_signal(gateway):
    gateway.process.send(signal.SIGHUP)
    gateway.process.wait_for_line("peer user2: added")


@pytest.mark.parametrize("reload", [by_command, by_signal])
def test_what_stays_goes_on(lab, gateway, tmp_path, reload):
    first, second, third = lab.clients(3)
    handshakes = gateway.machine.capture("wan", f"host 203.0.113.{100 + first.number} and udp[8] < 4",
                                         tmp_path / "handshakes")
    before, pid = gateway.wg("latest-handshakes"), gateway.process.pid
    with echo(lab.server, (topology.SERVER, 7777)):
        with first.machine.entered():
            connection = socket.socket()
        with connection:
            connection.settimeout(5)
            connection.connect((topology.SERVER, 7777))
            assert says(connection, b"before") == b"before"
            (flow,) = (f for f in gateway.json("flows") if f["protocol"] == "tcp")
            ping = first.machine.start(*PING, output=tmp_path / "ping")
            ping.wait_for_line("icmp_seq=3 ")

            with_peer(gateway, second)
            edit(gateway, 'name = "user3"\n', 'name = "user3"\nreach = []\n')
            reload(gateway)

            assert ping.wait() == 0, ping.text()
            assert "100 received" in ping.text()
            assert says(connection, b"after") == b"after"
            (same,) = (f for f in gateway.json("flows") if f["protocol"] == "tcp")
            assert (same["lan"], same["client"]) == (flow["lan"], flow["client"])
            assert same["to_lan_bytes"] > flow["to_lan_bytes"], "its counters go on"
    assert is_prohibited(third.machine.ping(topology.SERVER))
    assert third.machine.ping(topology.TUNNEL).returncode == 0
    second.connect(gateway)
    second.machine.reaches(topology.SERVER)
    after = gateway.wg("latest-handshakes")
    assert {key: after[key] for key in before} == before
    assert " UDP, " not in handshakes.text(), "there is no new handshake"
    first.connect(gateway)
    handshakes.wait_for_line(" UDP, ")
    handshakes.stop()
    assert gateway.process.pid == pid and gateway.process.returncode() is None


def test_what_is_removed_is_shut_out(lab, gateway):
    first, _, third = lab.clients(3)
    text = gateway.config.read_text()
    gateway.config.write_text(re.sub(r'\[\[peer\]\]\nname = "user3"\n(.+\n)*', "", text))
    shown = json.loads(gateway.vcgate("reload", "--json").stdout)
    assert shown["changes"] == [{"change": "peer_removed", "peer": "user3"}]
    assert third.machine.ping(topology.SERVER).returncode != 0
    assert first.machine.ping(topology.SERVER).returncode == 0
    assert gateway.vcgate("reload").stdout == f"{gateway.config} has no changes.\n"


def test_keys_of_other_sections(lab, gateway):
    first = lab.client(1)
    edit(gateway, "[interface]\n", '[interface]\non_deny = "drop"\nmtu = 1400\nclient_to_client = true\n')
    edit(gateway, '"assign"', '"observe"')
    edit(gateway, '"192.168.77.0/24"', '"192.168.88.0/24"')
    done = gateway.vcgate("reload")
    assert done.stdout == ("interface.client_to_client: changed\ninterface.on_deny: changed\n"
                           "lan.networks: changed\n")
    assert "interface.mtu, smb.hook take effect at the next start" in done.stderr
    ping = first.machine.ping(topology.SERVER)
    assert ping.returncode == 1 and not is_prohibited(ping), ping.stdout
    assert first.machine.ping(lab.client(3).inner).returncode == 0
    again = gateway.vcgate("reload")
    assert "at the next start" in again.stderr and "has no changes" in again.stdout


def test_a_file_that_is_not_in_order_changes_nothing(lab, gateway):
    first, second, third = lab.clients(3)
    with_peer(gateway, second, 'reach = ["everything"]\n')
    edit(gateway, 'name = "user3"\n', 'name = "user3"\nreach = []\n')
    line = gateway.config.read_text().splitlines().index('reach = ["everything"]') + 1
    problem = f"{gateway.config}:{line}: peer \"user2\": reach: "
    checked = gateway.vcgate("check", check=False)
    assert problem in checked.stderr
    refused = gateway.vcgate("reload", check=False)
    assert (refused.returncode, refused.stderr) == (1, checked.stderr)
    # The same, read by the endpoint and not by the command.
    refused = gateway.machine.run(VCGATE, "reload", "--interface", gateway.name, check=False, cwd="/")
    assert (refused.returncode, refused.stderr) == (1, checked.stderr)
    gateway.process.send(signal.SIGHUP)
    gateway.process.wait_for_line("it has errors, so nothing was changed")
    assert problem in gateway.process.text()
    assert set(gateway.wg("allowed-ips")) == {first.keys.public, third.keys.public}
    third.machine.reaches(topology.SERVER)


def test_a_dead_stderr_and_a_hangup_end_nothing(lab, make_gateway):
    first, second = lab.clients(2)
    gateway = make_gateway("vcgate")
    gateway.write([first])
    gateway.up("bash", "-c", 'exec "$@" 2> >(:)', "bash")
    first.connect(gateway)
    with_peer(gateway, second)
    gateway.process.send(signal.SIGHUP)
    wait_for("user2", lambda: second.keys.public in gateway.wg("allowed-ips"))
    second.connect(gateway)
    assert first.machine.ping(topology.SERVER).returncode == 0
    assert gateway.stop() == 0


def test_wg_gives_peers_back_with_their_names_and_rules(lab, gateway):
    first, second, third = lab.clients(3)
    edit(gateway, 'name = "user3"\n', f'name = "user3"\nreach = ["{topology.PROBE}/32"]\n')
    gateway.vcgate("reload")
    wg = gateway.machine.run
    file = gateway.dir / "shown.conf"
    file.touch(0o600)
    file.write_text(wg("wg", "showconf", gateway.name).stdout)
    wg("wg", "setconf", gateway.name, file)

    def names():
        return {peer["name"] for peer in gateway.json("status")["peers"]}

    assert names() == {"user1", "user3"}
    third.connect(gateway)
    assert is_prohibited(third.machine.ping(topology.SERVER))
    third.machine.reaches(topology.PROBE)
    wg("wg", "set", gateway.name, "peer", third.keys.public, "remove")
    assert names() == {"user1"}
    wg("wg", "set", gateway.name, "peer", third.keys.public, "allowed-ips", f"{third.inner}/32")
    assert names() == {"user1", "user3"}
    third.connect(gateway)
    assert is_prohibited(third.machine.ping(topology.SERVER))
    # Peers that the file does not contain are removed.
    wg("wg", "set", gateway.name, "peer", second.keys.public, "allowed-ips", f"{second.inner}/32")
    assert gateway.vcgate("reload").stdout == f"peer {second.keys.public[:8]}: removed\n"


def test_routes_to_networks_behind_peers_come_and_go(lab, make_gateway):
    gateway = make_gateway("vcgate", nat={"no_nat": ["192.168.77.0/24"]})
    gateway.write(lab.clients(1))
    gateway.up()

    def routes():
        return {route["dst"] for route in gateway.machine.ip_json("route", "show", "dev", gateway.name)}

    assert "10.8.0.0/24" in routes() and "10.20.0.0/16" not in routes()
    gateway.vcgate("peer", "add", "site", "--allowed-ips", "10.8.0.20/32,10.20.0.0/16")
    assert {"10.8.0.0/24", "10.20.0.0/16"} <= routes()
    edit(gateway, "10.20.0.0/16", "10.21.0.0/16")
    assert gateway.vcgate("reload").stdout == "peer site: changed allowed_ips\n"
    assert "10.21.0.0/16" in routes() and "10.20.0.0/16" not in routes()
    gateway.vcgate("peer", "remove", "site")
    assert "10.8.0.0/24" in routes() and "10.21.0.0/16" not in routes()


def test_wg_hears_that_the_endpoint_keeps_its_key(lab, start_gateway):
    gateway = start_gateway(lab.clients(1))

    def private():
        return gateway.machine.run("wg", "show", gateway.name, "private-key").stdout

    before = private()
    cleared = gateway.machine.run("wg", "set", gateway.name, "private-key", "/dev/null", check=False)
    assert cleared.returncode == 1
    assert "Operation not supported" in cleared.stderr
    assert private() == before
