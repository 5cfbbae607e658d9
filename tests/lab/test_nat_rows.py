"""The rows of the NAT's RFCs that show from outside, packet by packet, over both families.

The gateway is vcgate, or whatever `--gateway` names: `tests/run rows` runs them against the kernel's
masquerade for comparison. What must be waited for begins with the first test and is looked at in
the last ones.
"""

import struct
import time
import types

import pytest
from scapy.layers.inet import ICMP, TCP, UDP, IPOption_NOP, IPOption_RR
from scapy.layers.inet6 import ICMPv6EchoReply, ICMPv6EchoRequest, IPv6ExtHdrDestOpt, PadN
from scapy.packet import Raw

from .gateway import KINDS
from .slow import SILENCE, STRANGER, answer_to_a_syn, begin
from .wire import (FAMILIES, TUNNEL_MTU, V4, Flow, connect, fragment_of, l4_of, payloads, sums_hold, tapped,
                   together, transport)

PORTS_OF_A_CLIENT = 128
KERNEL_FORGETS_A_RESET_AFTER = 10
NARROW = 1300
TCP_NUMBER, UDP_NUMBER = 6, 17


@pytest.fixture(scope="module")
def place(lab, request, tmp_path_factory):
    """The gateway, three clients and the server, each with a tap instead of a kernel."""
    kind = request.config.getoption("--gateway")
    options = {"address6": "fd00:77::2", "limits": {"ports": PORTS_OF_A_CLIENT}} if kind == "vcgate" else {}
    lab.new_gateway()
    gateway = KINDS[kind](lab, tmp_path_factory.mktemp("rows"), **options)
    with tapped(lab, gateway) as worlds:
        if kind != "vcgate":
            gateway.narrow_ports(lab.client(3), PORTS_OF_A_CLIENT)
        early = {name: begin(world) for name, world in worlds.items()}
        yield types.SimpleNamespace(gateway=gateway, worlds=worlds, early=early, kind=kind)


@pytest.fixture(params=FAMILIES, scope="module")
def world(place, request):
    return place.worlds[request.param]


@pytest.fixture
def only_ipv4(world):
    if world.family is not V4:
        pytest.skip("nothing of it in IPv6")


# -- Mappings

@pytest.mark.parametrize("protocol", ["udp", "tcp"])
def test_rfc4787_req1_rfc5382_req1_one_port_for_all_destinations(world, protocol):
    """In a crowd: another client has the same port of its own, to one of these destinations."""
    family = world.family
    first = Flow(world, protocol)
    ends = {"port": first.port, "server": family.second}
    world.flow(protocol, client="other", **ends)
    first.open()
    assert world.flow(protocol, **ends).outer == first.outer
    assert world.flow(protocol, port=first.port, server_port=7778).outer == first.outer


def test_rfc4787_req3_rfc5382_req7_no_two_clients_share_a_port(world):
    """Not even when they talk to different servers."""
    first = world.flow()
    second = world.flow(client="other", port=first.port, server=world.family.second)
    assert first.outer != second.outer


@pytest.mark.parametrize("port", [1002, 1003, 50002, 50003])
def test_rfc4787_req3a_req4_class_and_parity_of_the_port_are_kept(world, port):
    outer = world.flow(port=port).outer
    assert (outer < 1024, outer % 2) == (port < 1024, port % 2)


def test_rfc4787_req8_rfc5382_req3_filtering_is_address_dependent(world):
    flow = world.flow()
    assert payloads(world.from_server(flow.back(b"another port", port=7778))) == [b"another port"]
    assert world.from_server(flow.back(b"another address", src=world.family.second)) == []


def test_rfc5508_req1_echoes_of_clients_with_one_identifier(world):
    request, reply = {4: (ICMP(type=8), ICMP(type=0)),
                      6: (ICMPv6EchoRequest(), ICMPv6EchoReply())}[world.family.number]
    outer = {}
    for client in ("user", "other"):
        request.id, request.seq = 777, 1
        ask = world.family.ip(world.inner(client), world.family.server) / request / Raw(client)
        (arrived,) = world.from_client(ask, name=client)
        assert sums_hold(arrived)
        outer[client] = arrived[type(request)].id
    assert outer["user"] != outer["other"]
    for client, identifier in outer.items():
        reply.id, reply.seq = identifier, 1
        answer = world.family.ip(world.family.server, world.lan) / reply / Raw(client)
        (arrived,) = world.from_server(answer, name=client)
        assert sums_hold(arrived)
        assert (arrived.dst, arrived[type(reply)].id) == (world.inner(client), 777)
        assert transport(arrived)[1][8:] == client.encode()


def test_rfc5508_req8_rfc6888_req4_req11_no_port_left_is_said_and_nobody_evicted(world):
    """All to one destination: the kernel gives a port to several, if these are different."""
    flows = [Flow(world, client="greedy") for _ in range(PORTS_OF_A_CLIENT)]
    arrived = world.from_client(*(flow.out(b"%d" % flow.port) for flow in flows), name="greedy")
    outer = {int(bytes(packet[UDP].payload)): packet[UDP].sport for packet in arrived}
    used = [flow for flow in flows if flow.port in outer]
    # Of its ports the client has used a few before.
    assert len(set(outer.values())) == len(used) > PORTS_OF_A_CLIENT - 10
    last = Flow(world, client="greedy")
    ((kind, _, quote),) = world.errors_to("greedy", last.out(b"?"))
    assert (kind, quote.src, quote[UDP].sport) == ("prohibited", last.inner, last.port)
    for flow in used:
        flow.outer = outer[flow.port]
        world.send("server", flow.back(b"%d" % flow.port))
    answered = world.settle()["greedy"]
    assert [(packet[UDP].dport, int(bytes(packet[UDP].payload))) for packet in answered] == [
        (flow.port, flow.port) for flow in used]


# -- Hairpinning

@pytest.fixture
def meeting(world):
    """Two clients who know each other's outer end: only packets that turn pass between them."""
    first, second = world.flow(), world.flow(client="other")
    towards = Flow(world, server=world.lan, port=first.port, server_port=second.outer)
    back = Flow(world, client="other", server=world.lan, port=second.port, server_port=first.outer)
    world.from_client(back.out(b"opens the filter"), name="other")
    world.send("user", towards.out(b"turns"))
    arrived = world.settle()["other"]
    assert payloads(arrived) == [b"turns"]
    return types.SimpleNamespace(first=first, second=second, towards=towards, arrived=arrived[0])


def test_rfc4787_req9_rfc5382_req8_what_turns_shows_the_outer_source(world, meeting):
    arrived = meeting.arrived
    assert (arrived.src, arrived[UDP].sport) == (world.lan, meeting.first.outer)
    assert (arrived.dst, arrived[UDP].dport) == (meeting.second.inner, meeting.second.port)
    assert world.family.hops(arrived) == 63


def test_rfc4787_req9_rfc5508_req7_errors_turn_too(world, meeting):
    family = world.family
    world.send("other", family.error("port", meeting.second.inner, world.lan, meeting.arrived))
    seen = world.settle()["user"]
    ((kind, _, quote),) = world.errors(seen)
    assert (kind, seen[0].src) == ("port", world.lan)
    assert (quote.src, quote[UDP].sport) == (meeting.first.inner, meeting.first.port)
    assert (quote.dst, quote[UDP].dport) == (world.lan, meeting.second.outer)


# -- ICMP errors

QUOTES = {"whole": None, "8 bytes of UDP": 8}


@pytest.mark.parametrize("quoted", QUOTES.values(), ids=QUOTES)
@pytest.mark.parametrize("kind", ["port", "host", "time"])
def test_rfc5508_req4_errors_from_the_lan_reach_the_client(world, kind, quoted):
    """From a router on the way, about what the server's side saw, in terms of the client's own flow."""
    family, flow = world.family, world.flow()
    (seen,) = world.from_client(flow.out(bytes(100)))
    cut = bytes(seen)[:quoted and len(bytes(seen)) - len(transport(seen)[1]) + quoted]
    world.send("server", family.error(kind, family.router, world.lan, cut))
    arrived = world.settle()["user"]
    ((read, _, quote),) = world.errors(arrived)
    assert (read, arrived[0].src, arrived[0].dst) == (kind, family.router, flow.inner)
    assert (quote.src, quote[UDP].sport) == (flow.inner, flow.port)
    assert (quote.dst, quote[UDP].dport) == (flow.server, flow.server_port)
    if quoted is None:
        assert sums_hold(quote)
    elif family is V4:
        assert sums_hold(quote, whole=b"\0" * 8), "the quoted header's own checksum"


def an_extension():
    return IPv6ExtHdrDestOpt(nh=UDP_NUMBER, options=[PadN(optdata=b"\0" * 4)])


def test_rfc5508_req3_options_in_the_quote_are_skipped(world):
    family, flow = world.family, world.flow()
    (seen,) = world.from_client(flow.out(b"?"))
    if family is V4:
        seen = family.ip(seen.src, seen.dst, options=[IPOption_NOP()] * 4) / seen[UDP]
    else:
        seen = family.ip(seen.src, seen.dst) / an_extension() / seen[UDP]
    ((_, _, quote),) = world.errors(world.from_server(family.error("port", flow.server, world.lan, seen)))
    assert (quote.src, quote[UDP].sport, quote[UDP].dport) == (flow.inner, flow.port, flow.server_port)


def test_rfc5508_req5_errors_from_a_client_reach_the_server(world):
    flow = world.flow()
    (seen,) = world.from_server(flow.back(bytes(100)))
    sent = world.from_client(world.family.error("port", flow.inner, flow.server, bytes(seen)[:48]))
    ((kind, _, quote),) = world.errors(sent)
    assert (kind, sent[0].src) == ("port", world.lan)
    assert (quote.dst, quote[UDP].dport) == (world.lan, flow.outer)
    assert (quote.src, quote[UDP].sport) == (flow.server, flow.server_port)


@pytest.mark.parametrize("protocol", ["udp", "tcp"])
def test_rfc4787_req12_rfc5382_req10_rfc5508_req6_no_error_ends_a_flow(world, protocol):
    family = world.family
    flow = world.flow() if protocol == "udp" else connect(world)
    more = {"flags": "A", "seq": 1001, "ack": 2001} if protocol == "tcp" else {}
    (seen,) = world.from_client(flow.out(b"?", **more))
    for kind in ("port", "host", "time", "prohibited"):
        assert world.from_server(family.error(kind, family.router, world.lan, bytes(seen)[:48]))
    more = {"flags": "A", "seq": 2001, "ack": 1002} if protocol == "tcp" else {}
    assert payloads(world.from_server(flow.back(b"!", **more)), flow.layer) == [b"!"]
    more = {"flags": "A", "seq": 1002, "ack": 2002} if protocol == "tcp" else {}
    (again,) = world.from_client(flow.out(b"?", **more))
    assert again[flow.layer].sport == flow.outer


# -- Path MTU

def test_rfc4787_req13_too_big_for_the_tunnel_is_said(world):
    flow = world.flow()
    big = flow.back(bytes(TUNNEL_MTU - len(flow.back()) + 1))
    ((kind, mtu, quote),) = world.errors_to("server", big)
    assert (kind, mtu) == ("too big", TUNNEL_MTU)
    assert (quote.src, quote.dst, quote[UDP].dport) == (flow.server, world.lan, flow.outer)
    assert len(world.from_server(flow.back(bytes(TUNNEL_MTU - len(flow.back()))))) == 1


def test_rfc4787_req13_too_big_for_the_tunnel_is_cut_if_it_may_be(world, only_ipv4):
    flow = world.flow()
    data = bytes(range(145)) * 10
    big = flow.back(data, df=False, ident=77)
    pieces = world.from_server(big)
    assert len(pieces) == 2 and max(map(len, pieces)) <= TUNNEL_MTU
    _, l4 = together(pieces)
    assert l4[8:] == data
    assert all(sums_hold(piece, l4) for piece in pieces)
    assert struct.unpack("!HH", l4[:4]) == (flow.server_port, flow.port)


@pytest.fixture
def narrow_lan(place):
    """A LAN whose packets are smaller than the tunnel's."""
    place.gateway.machine.ip("link", "set", "lan", "mtu", NARROW)
    yield
    place.gateway.machine.ip("link", "set", "lan", "mtu", 1500)


def test_rfc4787_req13_rfc5508_req4_too_big_for_the_lan_is_said(world, narrow_lan):
    flow = world.flow()
    big = flow.out(bytes(NARROW - len(flow.out()) + 1))
    ((kind, mtu, quote),) = world.errors_to("user", big)
    assert (kind, mtu) == ("too big", NARROW)
    assert (quote.src, quote.dst, quote[UDP].sport) == (flow.inner, flow.server, flow.port)


def test_rfc4787_req13_too_big_for_the_lan_is_cut_if_it_may_be(world, only_ipv4, narrow_lan):
    flow = world.flow()
    pieces = world.from_client(flow.out(bytes(range(230)) * 6, df=False, ident=78))
    assert len(pieces) == 2 and max(map(len, pieces)) <= NARROW
    _, l4 = together(pieces)
    assert l4[8:] == bytes(range(230)) * 6
    assert all(sums_hold(piece, l4) for piece in pieces)


# -- Fragments

ORDERS = {"in order": (0, 1, 2, 3), "backwards": (3, 2, 1, 0), "mixed": (2, 0, 3, 1)}


@pytest.mark.parametrize("order", ORDERS.values(), ids=ORDERS)
@pytest.mark.parametrize("way", ["out", "back"])
def test_rfc4787_req14_pieces_pass_in_any_order(world, way, order):
    family, flow = world.family, world.flow()
    if way == "out":
        data, ends = l4_of(flow.out(bytes(range(200)) * 5)), (flow.inner, flow.server)
    else:
        data, ends = l4_of(flow.back(bytes(range(200)) * 5)), (flow.server, world.lan)
    pieces = family.pieces(*ends, UDP_NUMBER, data, 256, ident=world.new_ident())
    sent = [pieces[place] for place in order]
    arrived = world.from_client(*sent) if way == "out" else world.from_server(*sent)
    protocol, whole = together(arrived)
    assert protocol == UDP_NUMBER and whole[8:] == bytes(range(200)) * 5
    assert all(sums_hold(piece, whole) for piece in arrived)
    ports = (flow.outer, flow.server_port) if way == "out" else (flow.server_port, flow.port)
    assert struct.unpack("!HH", whole[:4]) == ports


def test_rfc4787_req14_rfc1858_rfc5722_overlapping_pieces_are_dropped(world):
    """One that would rewrite the ports of the one before, and one that overlaps by a little."""
    family, flow = world.family, world.flow()
    data = l4_of(flow.out(bytes(600)))
    for at in (0, 248):
        ident = world.new_ident()
        places = [(0, 256, True), (at, at + 256, True), (512, len(data), False)]
        arrived = world.from_client(*(
            family.piece(flow.inner, flow.server, UDP_NUMBER, data[start:end], start, more, ident)
            for start, end, more in places))
        places = [fragment_of(packet)[1] for packet in arrived]
        assert at not in places[1:] and len(places) < 3, places
    assert payloads(world.from_client(flow.out(b"goes on"))) == [b"goes on"]


def test_rfc1858_rfc3128_rfc7112_no_piece_hides_a_tcp_header(world):
    """A first piece too short for the flags, and one that begins inside the header."""
    flow = connect(world)
    data = l4_of(flow.out(bytes(64), flags="A", seq=1001, ack=2001))
    arrived = world.from_client(*world.family.pieces(flow.inner, flow.server, TCP_NUMBER, data, 8, world.new_ident()))
    for packet in arrived:
        at = fragment_of(packet)
        assert at is None or (at[1] == 0 and len(transport(packet)[1]) >= 20) or at[1] >= 20
    later = world.family.piece(flow.inner, flow.server, TCP_NUMBER, data[8:], 8, False, world.new_ident())
    assert world.from_client(later) == []


@pytest.mark.parametrize("way", ["out", "back"])
def test_rfc4787_req14_a_flood_of_pieces_hurts_nobody_else(world, way):
    """A thousand datagrams of which the first piece never comes."""
    family, flow = world.family, world.flow()
    if way == "out":
        flooder, ends = "greedy", (world.inner("greedy"), family.server)
    else:
        flooder, ends = "server", (family.second, world.lan)
    for number in range(1000):
        world.send(flooder, family.piece(*ends, UDP_NUMBER, bytes(64), 64, True, ident=world.new_ident()))
        if number % 50 == 0:
            world.settle()
    data, ends = ((l4_of(flow.out(bytes(1000))), (flow.inner, flow.server)) if way == "out" else
                  (l4_of(flow.back(bytes(1000))), (flow.server, world.lan)))
    pieces = reversed(family.pieces(*ends, UDP_NUMBER, data, 256, ident=world.new_ident()))
    arrived = world.from_client(*pieces) if way == "out" else world.from_server(*pieces)
    assert len(together(arrived)[1]) == 1008


def test_rfc6864_clients_never_share_an_identification(world):
    """Both send datagrams in pieces with one identification to one server, at the same time."""
    family = world.family
    pieces = {}
    for client in ("user", "other"):
        flow = world.flow(client=client)
        data = l4_of(flow.out(client.encode() * 100))
        pieces[client] = family.pieces(flow.inner, flow.server, UDP_NUMBER, data, 256, ident=6000)
    for client, (first, *_) in pieces.items():
        world.send(client, first)
    for client, (_, *rest) in pieces.items():
        for piece in rest:
            world.send(client, piece)
    arrived = world.settle()["server"]
    idents = {fragment_of(packet)[0] for packet in arrived}
    assert len(idents) == 2
    for ident in idents:
        together([packet for packet in arrived if fragment_of(packet)[0] == ident])


# -- TCP

def test_rfc5382_req2_a_connection_from_its_beginning_to_its_end(world):
    flow = connect(world)
    for flags, data, (seq, ack) in [("PA", b"question", (1001, 2001)), ("FA", b"", (1009, 2001))]:
        (arrived,) = world.from_client(flow.out(data, flags=flags, seq=seq, ack=ack))
        assert (arrived[TCP].seq, arrived[TCP].ack, arrived[TCP].flags) == (seq, ack, flags)
    for flags, data, (seq, ack) in [("PA", b"answer", (2001, 1010)), ("FA", b"", (2007, 1010))]:
        (arrived,) = world.from_server(flow.back(data, flags=flags, seq=seq, ack=ack))
        assert (arrived[TCP].seq, arrived[TCP].ack, arrived[TCP].flags) == (seq, ack, flags)
    assert len(world.from_client(flow.out(flags="A", seq=1010, ack=2008))) == 1


def test_rfc5382_req2_simultaneous_open(world):
    flow = world.flow("tcp")
    assert len(world.from_server(flow.back(flags="S", seq=2000))) == 1
    assert len(world.from_client(flow.out(flags="SA", seq=1000, ack=2001))) == 1
    assert len(world.from_server(flow.back(flags="SA", seq=2000, ack=1001))) == 1
    assert payloads(world.from_client(flow.out(b"!", flags="A", seq=1001, ack=2001)), TCP) == [b"!"]
    assert payloads(world.from_server(flow.back(b"!", flags="A", seq=2001, ack=1002)), TCP) == [b"!"]


def test_rfc5961_rfc7857_a_reset_with_a_wrong_number_ends_nothing(world, place):
    """By what passes, and by what vcgate says: what is over is translated for minutes all the same."""
    flow = connect(world)
    for number in (2001 + 500, 2001 + (1 << 30)):
        world.from_server(flow.back(flags="R", seq=number))
    if place.kind == "vcgate":
        assert place.gateway.tcp_state(flow.outer) == "established"
    assert payloads(world.from_client(flow.out(b"?", flags="A", seq=1001, ack=2001)), TCP) == [b"?"]
    assert payloads(world.from_server(flow.back(b"!", flags="A", seq=2001, ack=1002)), TCP) == [b"!"]
    if place.kind == "vcgate":
        world.from_client(flow.out(flags="A", seq=1002, ack=2002))
        world.from_server(flow.back(flags="R", seq=2002))
        assert place.gateway.tcp_state(flow.outer) == "reset"


def test_mss_of_both_ends_is_what_the_tunnel_carries(world):
    most = TUNNEL_MTU - (40 if world.family is V4 else 60)
    flow = Flow(world, "tcp")
    options = [("NOP", None), ("MSS", 1460), ("SAckOK", b"")]
    (syn,) = world.from_client(flow.out(flags="S", seq=1000, options=options))
    flow.outer = syn[TCP].sport
    (answer,) = world.from_server(flow.back(flags="SA", seq=2000, ack=1001, options=options))
    for packet in (syn, answer):
        assert sums_hold(packet)
        assert dict(packet[TCP].options)["MSS"] == most


# -- Checksums, hops, extensions

def test_rfc1624_no_udp_checksum_stays_none(world, only_ipv4):
    flow = world.flow()
    assert world.from_client(flow.out(b"?", chksum=0))[0][UDP].chksum == 0
    assert world.from_server(flow.back(b"!", chksum=0))[0][UDP].chksum == 0


def test_rfc1624_a_computed_checksum_of_zero_is_written_as_all_ones(world):
    """The payload is chosen so that the sum of the translated packet comes out as zero."""
    flow = world.flow()
    (plain,) = world.from_client(flow.out(b"\0\0"))
    filler = struct.pack("!H", plain[UDP].chksum)
    (arrived,) = world.from_client(flow.out(filler))
    assert arrived[UDP].chksum == 0xFFFF


def test_rfc1624_a_damaged_packet_is_translated_and_stays_damaged(world):
    flow = world.flow()
    whole = type(flow.out())(bytes(flow.out(b"?")))
    whole[UDP].chksum ^= 0x0101
    (arrived,) = world.from_client(whole)
    assert (arrived.src, arrived[UDP].sport) == (world.lan, flow.outer)
    assert not sums_hold(arrived)


def test_rfc1812_each_way_is_one_hop(world):
    family, flow = world.family, world.flow()
    assert family.hops(world.from_client(flow.out(b"?", hops=20))[0]) == 19
    assert family.hops(world.from_server(flow.back(b"!", hops=20))[0]) == 19


@pytest.mark.parametrize("way", ["out", "back"])
def test_rfc1812_the_last_hop_is_told(world, way):
    flow = world.flow()
    if way == "out":
        ((kind, _, quote),) = world.errors_to("user", flow.out(b"?", hops=1))
        assert (kind, quote.src, quote[UDP].sport) == ("time", flow.inner, flow.port)
    else:
        ((kind, _, quote),) = world.errors_to("server", flow.back(b"!", hops=1))
        assert (kind, quote.dst, quote[UDP].dport) == ("time", world.lan, flow.outer)


def test_rfc8200_options_and_extension_headers_pass(world):
    flow = world.flow()
    if world.family is V4:
        packets = [flow.out(b"?"), flow.back(b"!")]
        packets[0].options = [IPOption_NOP()] * 4
        packets[1].options = [IPOption_RR(pointer=40, routers=["0.0.0.0"] * 9)]
    else:
        packets = [flow.out(b"?"), flow.back(b"!")]
        for packet in packets:
            packet.payload = an_extension() / packet.payload
    (there,) = world.from_client(packets[0])
    (back,) = world.from_server(packets[1])
    assert there[UDP].sport == flow.outer and back[UDP].dport == flow.port
    assert payloads([there, back]) == [b"?", b"!"]


# -- What was begun at the start

def test_rfc5382_req4_an_unsolicited_syn_is_answered_after_6_seconds_unless_met(world, place):
    early = place.early[world.family.name]
    time.sleep(max(0, early.began + SILENCE + 0.7 - time.time()))
    world.settle()
    heard = [(*answer, when - early.began) for when, packet in world.server_tap.log
             if (answer := answer_to_a_syn(world.family, packet))]
    ((port, how, after),) = heard
    assert (port, how) == (STRANGER, "icmp") and SILENCE <= after < SILENCE + 0.7


def test_rfc7857_a_connection_outlives_its_reset(world, place):
    """By four minutes, of which a few seconds are looked at: the kernel's default is 10."""
    early = place.early[world.family.name]
    time.sleep(max(0, early.began + KERNEL_FORGETS_A_RESET_AFTER + 0.7 - time.time()))
    late = early.reset.back(b"!", flags="A", seq=2001, ack=1001)
    assert payloads(world.from_server(late), TCP) == [b"!"]


TIMERS = {
    "rfc4787_req5": {"udp_timeout": 120, "udp_timeout_stream": 120},
    "rfc5382_req5": {"tcp_timeout_established": 7440, "tcp_timeout_syn_sent": 240, "tcp_timeout_time_wait": 240},
    "rfc7857": {"tcp_timeout_syn_sent": 240, "tcp_timeout_close": 240},
    "rfc5508_req2": {"icmp_timeout": 60, "icmpv6_timeout": 60},
}


@pytest.mark.parametrize("least", TIMERS.values(), ids=TIMERS)
def test_the_kernels_timers(place, least):
    """vcgate's are looked at in virtual time; the kernel says its own."""
    if place.kind == "vcgate":
        pytest.skip("its unit tests do it in virtual time")
    read = {name: int(place.gateway.machine.sysctl(f"net.netfilter.nf_conntrack_{name}")) for name in least}
    assert all(read[name] >= least[name] for name in least), read
