"""Dual-stack clients: everything of the other tests that IPv6 makes different, over IPv6."""

import re
import signal
import socket
import struct

import pytest

from . import hoststate, iperf, topology
from .net import wait_for
from .samba import Samba

OWN = "fd00:77::2"
MTU = 1420
IP_AND_ICMP = 48
IP_AND_UDP = 48
IPV6_MTU_DISCOVER = 23
IPV6_MTU = 24
IPV6_PMTUDISC_DO = 2


@pytest.fixture(params=[OWN, "auto"])
def address6(request):
    return request.param


@pytest.fixture
def make_gateway(lab, make_gateway):
    """The gateway machine is there before its LAN gets IPv6."""
    with lab.ipv6_on_the_lan():
        yield make_gateway


@pytest.fixture
def samba(lab, make_gateway):
    server = Samba(lab.server, topology.SERVER6)
    yield server
    server.stop()


@pytest.fixture
def iperf_servers(lab, make_gateway, tmp_path):
    servers = iperf.Servers(lab.server, topology.SERVER6, tmp_path)
    yield servers
    servers.stop()


@pytest.fixture
def client(lab, start_gateway, address6):
    (client,) = clients = lab.clients(1)
    start_gateway(clients, "vcgate", address6=address6)
    return client


def test_a_neighbour_that_asks_again_is_answered(lab, start_gateway):
    """RFC 4861 section 7.3: it asks the address that it knows, not all of the LAN."""
    (client,) = clients = lab.clients(1)
    start_gateway(clients, "vcgate", address6=OWN)
    client.machine.reaches(topology.SERVER6)

    def known():
        return lab.server.ip("-6", "neighbour", "show", OWN).stdout.split()

    device, station = known()[2:5:2]
    lab.server.ip("-6", "neighbour", "replace", OWN, "lladdr", station, "dev", device, "nud", "probe")
    wait_for("the neighbour to have asked", lambda: "PROBE" not in known())
    assert "REACHABLE" in known()


@pytest.fixture
def udp(lab, client):
    """Two UDP sockets that know each other: the client's, and the server's."""
    with lab.server.entered():
        server = socket.socket(socket.AF_INET6, socket.SOCK_DGRAM)
    with client.machine.entered():
        user = socket.socket(socket.AF_INET6, socket.SOCK_DGRAM)
    with server, user:
        for end in (server, user):
            end.settimeout(5)
            end.setsockopt(socket.IPPROTO_IPV6, IPV6_MTU_DISCOVER, IPV6_PMTUDISC_DO)
        server.bind((topology.SERVER6, 7777))
        user.connect((topology.SERVER6, 7777))
        user.send(b"hello")
        _, source = server.recvfrom(100)
        server.connect(source)
        yield user, server


def mtu_of(end):
    return end.getsockopt(socket.IPPROTO_IPV6, IPV6_MTU)


def test_ping(client):
    machine = client.machine
    assert machine.ping(topology.TUNNEL6).returncode == 0
    assert machine.ping(topology.SERVER6).returncode == 0
    assert machine.ping(topology.SERVER).returncode == 0, "IPv4 works beside it"
    assert machine.ping("fd00:77::99").returncode == 1


def test_ping_in_fragments(client):
    """The server's first answer is cut for its own MTU; Packet Too Big reports the tunnel's."""
    shown = client.machine.ping(topology.SERVER6, "-s", "4000", "-c", "3")
    assert shown.returncode == 0, shown.stdout


def test_a_hop_limit_of_one_ends_at_the_gateway(client):
    shown = client.machine.ping(topology.SERVER6, "-t", "1")
    assert re.search(rf"From {topology.TUNNEL6} .*Hop limit", shown.stdout), shown.stdout
    assert client.machine.ping(topology.SERVER6, "-t", "2").returncode == 0


def test_the_largest_packet_passes_and_one_more_byte_does_not(client):
    whole = client.machine.ping(topology.SERVER6, "-M", "do", "-s", str(MTU - IP_AND_ICMP))
    assert whole.returncode == 0, whole.stdout
    larger = client.machine.ping(topology.SERVER6, "-M", "do", "-s", str(MTU - IP_AND_ICMP + 1))
    assert larger.returncode != 0


def test_the_server_learns_the_tunnels_mtu(udp):
    """Packet Too Big to the LAN, in terms of the server's own flow."""
    user, server = udp
    server.send(bytes(MTU + 1 - IP_AND_UDP))
    wait_for("the server to learn the MTU", lambda: mtu_of(server) == MTU)
    # Reading the pending error clears it.
    server.getsockopt(socket.SOL_SOCKET, socket.SO_ERROR)
    server.send(bytes(MTU - IP_AND_UDP))
    assert len(user.recv(2000)) == MTU - IP_AND_UDP


def test_the_client_learns_the_lans_mtu(lab, udp):
    """Packet Too Big from the LAN's side, in terms of the client's own flow."""
    user, server = udp
    narrow = 1300
    lab.gateway.ip("link", "set", "lan", "mtu", str(narrow))
    user.send(bytes(narrow + 1 - IP_AND_UDP))
    wait_for("the client to learn the MTU", lambda: mtu_of(user) == narrow)
    user.getsockopt(socket.SOL_SOCKET, socket.SO_ERROR)
    user.send(bytes(narrow - IP_AND_UDP))
    assert len(server.recv(2000)) == narrow - IP_AND_UDP


def test_what_is_closed_is_reported(client):
    with client.machine.entered():
        user = socket.socket(socket.AF_INET6, socket.SOCK_DGRAM)
    with user, pytest.raises(ConnectionRefusedError):
        user.settimeout(5)
        user.connect((topology.SERVER6, 7778))
        user.send(b"anybody?")
        user.recv(100)
    with client.machine.entered(), pytest.raises(ConnectionRefusedError):
        socket.create_connection((topology.SERVER6, 7778), timeout=5)


@pytest.mark.parametrize("options", [[], ["-R"], ["-u", "-b", "50M", "-l", "1300"],
                                     ["-u", "-b", "50M", "-l", "1300", "-R"]],
                         ids=["tcp up", "tcp down", "udp up", "udp down"])
def test_iperf(client, iperf_servers, options):
    result = iperf.measure(client, iperf_servers, *options)
    print(result)
    assert result.bytes > 0


def test_assign_cuts_nobody_off(lab, start_gateway, open_office, address6):
    gateway = start_gateway(lab.clients(3), "vcgate", hook="assign", address6=address6)
    office = open_office(445)
    office.assert_nobody_is_cut_off()
    assert office.log.sources() == {topology.GATEWAY_LAN6 if address6 == "auto" else OWN}
    assert gateway.json("smb")["zero_seen"] >= 3


def test_off_shows_the_failure(lab, start_gateway, open_office):
    start_gateway(lab.clients(3), "vcgate", hook="off", address6=OWN)
    open_office(445).assert_the_first_is_cut_off()


def test_ipv6_inside_and_outside(lab, start_gateway):
    (client,) = clients = lab.clients(1)
    gateway = start_gateway(clients, "vcgate", connect=False, address6=OWN)
    client.connect(gateway, endpoint=gateway.endpoint6)
    client.machine.reaches(topology.SERVER6)
    (flow,) = [flow for flow in gateway.json("flows") if topology.SERVER6 in flow["remote"]]
    assert flow["lan"].startswith(f"[{OWN}]"), flow


def test_without_address6_a_client_is_told_at_once(lab, start_gateway):
    """A program with addresses of both families can then use the other one."""
    (client,) = clients = lab.clients(1)
    gateway = start_gateway(clients, "vcgate", address6="auto", connect=False)
    gateway.stop()
    text = gateway.config.read_text().replace('address6 = "auto"\n', "")
    gateway.config.write_text(text)
    gateway.up()
    client.connect(gateway)
    shown = client.machine.ping(topology.SERVER6)
    assert re.search(rf"From {topology.TUNNEL6} .*No route", shown.stdout), shown.stdout


def advertise(lab):
    """A router advertisement of the LAN: a default route, and a prefix for addresses."""
    advertisement = struct.pack("!BBHBBHII", 134, 0, 0, 64, 0, 1800, 0, 0)
    prefix = struct.pack("!BBBBIII16s", 3, 4, 64, 0xC0, 7200, 3600, 0,
                         socket.inet_pton(socket.AF_INET6, "fd00:78::"))
    with lab.probe.entered():
        router = socket.socket(socket.AF_INET6, socket.SOCK_RAW, socket.IPPROTO_ICMPV6)
        index = socket.if_nametoindex("br0")
    with router:
        router.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_MULTICAST_HOPS, 255)
        router.sendto(advertisement + prefix, ("ff02::1", 0, 0, index))


@pytest.mark.parametrize("sig", [signal.SIGTERM, signal.SIGKILL], ids=lambda sig: sig.name)
def test_the_hosts_own_autoconfiguration_lives_on_and_all_is_undone(lab, make_gateway, address6, sig):
    machine = lab.gateway
    machine.sysctl("net.ipv6.conf.lan.accept_ra", 1)

    def routes():
        return [route["protocol"] for route in machine.ip_json("-6", "route", "show", "default")]

    # The link has to be up for a while before the kernel hears anybody.
    wait_for("a route of the router's", lambda: advertise(lab) or "ra" in routes(), every=0.2)
    before = hoststate.of(machine)
    gateway = make_gateway("vcgate", address6=address6)
    gateway.start(lab.clients(1))
    assert machine.sysctl("net.ipv6.conf.all.forwarding") == "1"
    assert "ra" in routes()
    machine.ip("-6", "route", "delete", "default", "dev", "lan")
    wait_for("the route again", lambda: advertise(lab) or "ra" in routes(), every=0.2)
    gateway.stop(sig)
    if sig == signal.SIGKILL:
        gateway.up()
        gateway.stop()
    assert "ra" in routes()
    after = hoststate.of(machine)
    lifetimes = re.compile(r" expires \d+sec")
    for state in (before, after):
        state["routes -6"] = sorted(lifetimes.sub("", line) for line in state["routes -6"])
    assert hoststate.difference(before, after) == []
