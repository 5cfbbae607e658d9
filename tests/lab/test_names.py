"""Names: DNS at the tunnel address, with real servers and clients."""

import pathlib
import random
import re
import socket
from ipaddress import ip_address

import pytest

from . import names, topology
from .callers import serving
from .net import wait_for
from .samba import PASSWORD

TUNNEL, TUNNEL6, SERVER, PROBE = topology.TUNNEL, topology.TUNNEL6, topology.SERVER, topology.PROBE
WWW = "192.168.77.80"
FORGED = "192.168.77.66"


@pytest.fixture
def start(make_gateway):
    """A function that starts vcgate with a `[dns]` section."""
    def start(clients, dns="", peers=None, **options):
        gateway = make_gateway("vcgate", **options)
        gateway.write(clients)
        text = gateway.config.read_text()
        for name, lines in (peers or {}).items():
            text = re.sub(rf'name = "{name}"\n', lambda found: found[0] + lines + "\n", text)
        gateway.config.write_text(f'{text}\n[dns]\nsearch = ["lan.example"]\n{dns}\n')
        gateway.up()
        for client in clients:
            client.connect(gateway)
        return gateway

    return start


def servers(*addresses):
    return "servers = [" + ", ".join(f'"{address}"' for address in addresses) + "]\n"


def test_names_are_answered_over_udp_and_tcp_and_both_families(lab, start, tmp_path):
    first, second = clients = lab.clients(2)
    with lab.ipv6_on_the_lan(), names.dnsmasq(
            lab.server, SERVER, tmp_path, f"www.lan.example,{WWW}",
            options=["--txt-record=long.lan.example," + ",".join(["x" * 250] * 8)]) as dnsmasq:
        gateway = start(clients, servers(SERVER) + '[dns.records]\nfilesrv = "192.168.77.10"\n',
                        address6="fd00:77::2")
        machine = first.machine
        for server, option in [(TUNNEL, "+notcp"), (TUNNEL, "+tcp"), (TUNNEL6, "+notcp"), (TUNNEL6, "+tcp")]:
            assert names.dig(machine, server, "www.lan.example", option) == [WWW]
            assert names.dig(machine, server, "filesrv", option) == [SERVER]
            assert names.dig(machine, server, "nobody.lan.example", option) == "NXDOMAIN"
        assert dnsmasq.asked_for("www.lan.example") == 1, "answers are cached"
        assert len(names.dig(machine, TUNNEL, "long.lan.example", rtype="TXT")[0]) > 2000
        # Reverse zones: of records, of the LAN, of the tunnel.
        back = lambda address: names.dig(machine, TUNNEL, ip_address(address).reverse_pointer, rtype="PTR")
        assert back(SERVER) == ["filesrv.lan.example."]
        assert back(WWW) == ["www.lan.example."]
        assert back(first.inner) == ["user1.peers.lan.example."]
        assert names.dig(machine, TUNNEL, "user1.peers.lan.example") == [first.inner]
        # Clients do not meet, so they do not learn of each other.
        assert back(second.inner) == "NXDOMAIN"
        assert names.dig(machine, TUNNEL, "user2.peers.lan.example") == "NXDOMAIN"
        # A reload applies at once and keeps the cache.
        gateway.config.write_text(gateway.config.read_text().replace('filesrv = ', 'other = '))
        assert "dns.records" in gateway.vcgate("reload").stdout
        assert names.dig(machine, TUNNEL, "other") == [SERVER]
        assert names.dig(machine, TUNNEL, "filesrv") == "NXDOMAIN"
        assert dnsmasq.asked_for("www.lan.example") == 1


def test_hosts_outside_the_tunnel_are_not_answered(lab, start, tmp_path):
    (client,) = clients = lab.clients(1)
    start(clients, '[dns.records]\nfilesrv = "192.168.77.10"\n')
    assert names.dig(client.machine, TUNNEL, "filesrv") == [SERVER]
    lab.server.ip("route", "add", f"{TUNNEL}/32", "via", topology.GATEWAY_LAN)
    try:
        for option in ("+notcp", "+tcp"):
            assert SERVER not in names.dig(lab.server, TUNNEL, "filesrv", option, "+time=1")
    finally:
        lab.server.ip("route", "delete", f"{TUNNEL}/32")


# The first of the tests with nmbd: after another one, it does not register its names in time.
def test_a_wins_server_knows_hosts_that_no_broadcast_reaches(lab, start, samba, tmp_path):
    """As behind a LAN of several subnets: the server is asked by unicast, and its answers count."""
    (client,) = clients = lab.clients(1)
    with names.dnsmasq(lab.server, SERVER, tmp_path), names.nmbd(
            lab.server, samba, lab.probe, "192.168.77.255", wins={"FARSRV": "10.1.0.5"}):
        gateway = start(clients, servers(SERVER))
        assert names.dig(client.machine, TUNNEL, "farsrv") == "NXDOMAIN", "by broadcast"
        gateway.config.write_text(gateway.config.read_text() + f'wins = ["{SERVER}"]\n')
        assert "dns.wins" in gateway.vcgate("reload").stdout
        assert names.dig(client.machine, TUNNEL, "farsrv.lan.example") == ["10.1.0.5"]
        assert names.dig(client.machine, TUNNEL, "FILESERVER") == [SERVER]
        assert names.dig(client.machine, TUNNEL, "nobody") == "NXDOMAIN"
        counters = gateway.json("status")["dns"]
        assert counters["queries"] == 4 and counters["netbios"] == 2, counters


def test_a_file_server_is_found_by_its_netbios_name(lab, start, samba, tmp_path):
    (client,) = clients = lab.clients(1)
    with names.dnsmasq(lab.server, SERVER, tmp_path) as dnsmasq, names.nmbd(
            lab.server, samba, lab.probe, "192.168.77.255"):
        start(clients, servers(SERVER))
        assert names.dig(client.machine, TUNNEL, "FILESERVER.lan.example") == [SERVER]
        assert names.dig(client.machine, TUNNEL, "fileserver") == [SERVER]
        assert names.dig(client.machine, TUNNEL, "fileserver", rtype="AAAA") == "NOERROR"
        assert names.dig(client.machine, TUNNEL, "nobody") == "NXDOMAIN"
        assert names.dig(client.machine, TUNNEL, "wpad.lan.example") == "NXDOMAIN"
        assert dnsmasq.asked_for("fileserver.lan.example") >= 1, "servers come first"
        # As a user: the C library with the lines of the client's file.
        with names.resolv_conf(client.machine, f"nameserver {TUNNEL}\nsearch lan.example\n"):
            listed = client.machine.run(
                *names.OWN_CACHE, "smbclient", "-R", "host", "-U", "user1%Pa55-word", "//FILESERVER/data", "-c", "ls")
            assert "blocks of size" in listed.stdout


def test_the_first_steps_of_the_documentation(lab, make_gateway, samba, tmp_path):
    """docs/names.md, with the lab's names and addresses in place of the office's."""
    text = (pathlib.Path(__file__).parents[2] / "docs/names.md").read_text()
    steps = re.search(r"^## First steps$(.*?)^## ", text, re.DOTALL | re.MULTILINE)[1]
    for ours, lab_s in {"192.168.1.": "192.168.77.", "filesrv": "fileserver", "laptop1": "user1",
                        "-U anna": f"-U user1%{PASSWORD} -R host"}.items():
        steps = steps.replace(ours, lab_s)
    sections = dict(re.findall(r"^ +\[(\w+)\]\n(.*?)(?=^ *$|^ +```)", steps, re.DOTALL | re.MULTILINE))
    commands = re.findall(r"^ +((?:vcgate|dig|smbclient|ssh) .*)$", steps, re.MULTILINE)
    assert list(sections) == ["interface", "lan", "dns"] and len(commands) == 9

    (client,) = lab.clients(1)
    gateway = make_gateway("vcgate")
    gateway.write([client])
    gateway.up()
    plain = re.sub("networks = .+\n", "", gateway.config.read_text())
    for name in ("interface", "lan"):
        plain = plain.replace(f"[{name}]\n", f"[{name}]\n{sections[name]}")
    gateway.config.write_text(f"{plain}\n[dns]\n{sections['dns']}servers = [\"{SERVER}\"]\n")
    ssh = lambda listener: listener.accept()[0].sendall(b"SSH-2.0")
    with names.dnsmasq(lab.server, SERVER, tmp_path), names.resolv_conf(
            client.machine, f"nameserver {TUNNEL}\nsearch office.example\n"), names.nmbd(
            lab.server, samba, lab.probe, "192.168.77.255"), serving(
            gateway.machine, ("0.0.0.0", 22), socket.SOCK_STREAM, ssh):
        for command in commands:
            program, *words = command.split("#")[0].split()
            expected = command.partition("# ")[2].split(",")[0]
            if program == "vcgate":
                shown = gateway.vcgate(*words, check=words[0] != "doctor").stdout
                assert words[0] != "doctor" or re.search("ok +dns-filter", shown), shown
                if words[0] == "peer":
                    assert "10.77.1.0/24" in shown and f"DNS = {TUNNEL}, office.example" in shown
                    client.connect_quick(shown.replace(f"# PrivateKey = (the one of {client.keys.public})",
                                                       f"PrivateKey = {client.keys.private}"))
            elif program == "dig":
                assert client.machine.run("dig", "+short", *words).stdout.strip().rstrip(".") == expected
            elif program == "smbclient":
                assert "blocks of size" in client.machine.run(*names.OWN_CACHE, "smbclient", *words).stdout
            else:
                with client.machine.entered():
                    connection = socket.create_connection((words[0].split("@")[1], 22), timeout=5)
                with connection:
                    assert connection.recv(9) == b"SSH-2.0"
        assert "DNS " in gateway.vcgate("status").stdout


def test_servers_that_are_down_or_slow_or_lie_do_no_harm(lab, start, tmp_path):
    (client,) = clients = lab.clients(1)
    lying = lambda query: [names.answer(query, FORGED, identifier=id) for id in range(500)]
    with names.dnsmasq(lab.server, SERVER, tmp_path, f"www.lan.example,{WWW}",
                       f"www2.lan.example,{WWW}", f"www3.lan.example,{WWW}"):
        gateway = start(clients, servers(PROBE, SERVER))
        # Nobody listens: ICMP port unreachable.
        assert names.dig(client.machine, TUNNEL, "www.lan.example") == [WWW]
        with names.fake(lab.probe, PROBE, lambda query: []):
            assert names.dig(client.machine, TUNNEL, "www2.lan.example") == [WWW]
        with names.fake(lab.probe, PROBE, lying):
            assert names.dig(client.machine, TUNNEL, "www3.lan.example") == [WWW]
    assert names.dig(client.machine, TUNNEL, "www4.lan.example", "+time=9") == "SERVFAIL"
    assert gateway.answers()


def test_forged_answers_to_guessed_ports_are_ignored(lab, start, tmp_path):
    """A host of the LAN answers in the name of the server, before it does, to many ports."""
    (client,) = clients = lab.clients(1)
    with lab.probe.entered():
        forger = socket.socket(socket.AF_INET, socket.SOCK_RAW, socket.IPPROTO_RAW)
    pending = []

    def answers(query):
        # The forger knows the question, and is faster than the server.
        for _ in range(5000):
            identifier, port = random.getrandbits(16), random.randint(32768, 60999)
            forged = names.answer(query, FORGED, identifier)
            packet = names.datagram((SERVER, 53), (topology.GATEWAY_LAN, port), forged)
            forger.sendto(packet, (topology.GATEWAY_LAN, 0))
        pending.append(query)
        return [names.answer(query, WWW)]

    with forger, names.fake(lab.server, SERVER, answers):
        start(clients, servers(SERVER))
        assert names.dig(client.machine, TUNNEL, "www.lan.example") == [WWW]
    assert pending


def test_a_flood_from_one_client_is_limited(lab, start):
    first, second = clients = lab.clients(2)
    gateway = start(clients, '[dns.records]\nfilesrv = "192.168.77.10"\n')
    with first.machine.entered():
        flood = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
    with flood:
        for number in range(20000):
            flood.sendto(names.question(f"host{number}.lan.example"), (TUNNEL, 53))
        for _ in range(5):
            # As the C library: a question that was lost is asked again.
            assert names.dig(second.machine, TUNNEL, "filesrv", "+tries=5", "+time=2") == [SERVER]
    wait_for("a warning", lambda: 'client "user1" asks for too many names' in gateway.process.text())
    assert '"user2" asks' not in gateway.process.text()


def test_the_machines_resolvers_are_the_default_and_followed(lab, make_gateway, tmp_path):
    (client,) = lab.clients(1)
    gateway = make_gateway("vcgate")
    gateway.write([client])
    with names.dnsmasq(lab.server, SERVER, tmp_path, f"www.lan.example,{WWW}"), \
            names.resolv_conf(gateway.machine, f"search lan.example\nnameserver {PROBE}\n"):
        gateway.up()
        client.connect(gateway)
        file = names.NETNS / gateway.machine.name / "resolv.conf"
        file.write_text(f"search lan.example\nnameserver {TUNNEL}\nnameserver {SERVER}\n")
        wait_for("the new server", lambda: "resolv.conf has changed" in gateway.process.text())
        assert names.dig(client.machine, TUNNEL, "www") == []  or \
            names.dig(client.machine, TUNNEL, "www", rtype="CNAME") == ["www.lan.example."]
        assert names.dig(client.machine, TUNNEL, "www.lan.example") == [WWW]
        shown = gateway.vcgate("peer", "show", "user1").stdout
        assert f"DNS = {TUNNEL}, lan.example\n" in shown


@pytest.mark.skipif(not names.has_openresolv(), reason="resolvconf is not that of openresolv")
def test_a_client_file_sets_up_the_resolver(lab, start, tmp_path):
    """wg-quick gives the lines to resolvconf(8), and commands of the client find the name."""
    (client,) = clients = lab.clients(1)
    gateway = start(clients, '[dns.records]\nfilesrv = "192.168.77.10"\n')
    shown = gateway.vcgate("peer", "show", client.name).stdout
    shown = shown.replace(f"# PrivateKey = (the one of {client.keys.public})",
                          f"PrivateKey = {client.keys.private}")
    with names.resolv_conf(client.machine, "# of the client's own network\n"):
        client.connect_quick(shown, dns=True)
        resolv = (names.NETNS / client.machine.name / "resolv.conf").read_text()
        assert f"nameserver {TUNNEL}" in resolv and "search lan.example" in resolv
        client.machine.reaches("filesrv")
        client.disconnect()
        assert TUNNEL not in (names.NETNS / client.machine.name / "resolv.conf").read_text()
    gateway.config.write_text(gateway.config.read_text().replace(
        f'name = "{client.name}"\n', f'name = "{client.name}"\ndns = false\n'))
    assert "DNS" not in gateway.vcgate("peer", "show", client.name).stdout
