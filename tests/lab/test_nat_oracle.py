"""The kernel's masquerade as an oracle: the same conversations through vcgate and through
wireguard-go with nftables have to look the same at both ends, packet by packet.

What is made equal before it is compared, and what the conversations leave out, are the differences
that are known and wanted (test_nat_rows.py has them one by one):

- Ports, echo identifiers and IPv4 identifications are chosen differently.
- Fragments of one datagram may be cut differently: they are reassembled first.
- Of an ICMP error that the gateway itself makes, not which of its addresses on the LAN it comes
  from, neither TTL nor DF, nor how much it quotes, nor ECN, which the kernel copies from the cause.
- Left out: several clients with one port (vcgate: endpoint-independent, no port for two), answers
  from a port of the server's that the client never wrote to (vcgate lets them in), resets and
  segments that are out of the window (vcgate translates them and lets the ends decide, the kernel
  lets them pass without translation), damaged packets (the same), MSS above the tunnel's (vcgate
  lowers it), unsolicited SYNs, and SMB, whose VcNumber vcgate rewrites.
"""

import random
import struct

import pytest
from scapy.layers.inet import ICMP, UDP, IPOption_NOP
from scapy.layers.inet6 import ICMPv6EchoReply, ICMPv6EchoRequest
from scapy.packet import Raw

from . import topology
from .gateway import Vcgate, WireguardGo
from .wire import FAMILIES, TUNNEL_MTU, V4, Flow, fragment_of, sums_hold, tapped, together, transport

SEED = 4787
STEPS = 150
ERRORS = ["port", "host", "time", "prohibited"]


@pytest.fixture(scope="module")
def seen(lab, tmp_path_factory):
    """Observations by gateway and family: a list of (step, packets by end)."""
    gateways = {
        "vcgate": Vcgate(lab, tmp_path_factory.mktemp("vcgate"), hook="off", address6="fd00:77::2"),
        "kernel": WireguardGo(lab, tmp_path_factory.mktemp("kernel")),
    }
    seen = {}
    for kind, gateway in gateways.items():
        lab.new_gateway()
        gateway.machine = lab.gateway
        with tapped(lab, gateway) as worlds:
            for name, world in worlds.items():
                seen[kind, name] = Conversation(world, random.Random(SEED)).run(STEPS)
    return seen


@pytest.mark.parametrize("family", FAMILIES)
def test_both_ends_see_the_same_as_with_kernel_masquerade(seen, family):
    ours, theirs = seen["vcgate", family], seen["kernel", family]
    differences = [(number, *one, *other[1:]) for number, (one, other) in enumerate(zip(ours, theirs))
                   if one != other]
    for number, step, one, other in differences[:5]:
        print(f"step {number}, {step}\n  vcgate: {one!r:.400}\n  kernel: {other!r:.400}")
    assert [step for _, step, *_ in differences] == []
    arrived = [step for step, ends in ours if any(ends.values())]
    print(f"{len(ours)} steps, {len(arrived)} of them seen; {len({step for step, _ in ours})} kinds")
    assert len(arrived) > 0.9 * len(ours)


class Conversation:
    """Random talk between a client and a server; every choice is the generator's alone."""

    def __init__(self, world, rng):
        self.world = world
        self.family = world.family
        self.rng = rng
        self.flows = []
        self.inner_of = {}
        self.last = {}
        self.heard = []
        self.gateway = {world.lan, topology.GATEWAY_LAN, topology.GATEWAY_LAN6}
        world.talking = ["user"]

    def run(self, steps):
        kinds = [self.udp, self.connection, self.echo, self.error, self.pieces, self.last_hop,
                 self.too_big, self.options]
        self.udp()
        while len(self.heard) < steps:
            self.rng.choice(kinds)()
        return self.heard

    # -- What is said

    def udp(self):
        flow, side = self.pick_flow(), self.pick_side()
        sums = [{}, {}, {"chksum": 0}] if self.family is V4 else [{}]
        self.send("udp", side, flow, self.packet(flow, side, self.payload(1300), **self.rng.choice(sums)))

    def options(self):
        flow = self.pick_flow()
        side = self.pick_side()
        packet = self.packet(flow, side, self.payload(100))
        if self.family is V4:
            packet.options = [IPOption_NOP()] * 4 * self.rng.randint(1, 9)
        self.send("options", side, flow, packet)

    def connection(self):
        """A TCP connection, with what is lost, repeated or out of order on the way."""
        rng, flow = self.rng, Flow(self.world, "tcp")
        end = {"user": rng.getrandbits(32), "server": rng.getrandbits(32)}
        options = [("MSS", 1200), ("SAckOK", b""), ("Timestamp", (rng.getrandbits(32), 0)), ("NOP", None),
                   ("WScale", 7)]

        def segment(side, flags, data=b"", at=0, **more):
            other = "server" if side == "user" else "user"
            ack = end[other] if "A" in flags else 0
            packet = self.packet(flow, side, data, flags=flags, seq=(end[side] + at) % 2**32, ack=ack,
                                 window=65535, **more)
            self.send(f"tcp {flags}", side, flow, packet)

        segment("user", "S", options=options)
        end["user"] = (end["user"] + 1) % 2**32
        segment("server", "SA", options=options)
        end["server"] = (end["server"] + 1) % 2**32
        segment("user", "A")
        for _ in range(rng.randint(0, 6)):
            side, data = self.pick_side(), self.payload(1000)
            half = len(data) // 2
            if rng.random() < 0.3:  # the second half first
                segment(side, "PA", data[half:], half)
                segment(side, "A", data[:half])
            else:
                segment(side, "PA", data)
            if rng.random() < 0.3:  # once more
                segment(side, "PA", data)
            end[side] = (end[side] + len(data)) % 2**32
            segment("server" if side == "user" else "user", "A")
        sides = rng.sample(["user", "server"], 2)
        if rng.random() < 0.3:
            return segment(sides[0], "RA")
        for side, other in (sides, sides[::-1]):
            segment(side, "FA")
            end[side] = (end[side] + 1) % 2**32
            segment(other, "A")

    def echo(self):
        identifier, sequence, data = self.rng.getrandbits(16), self.rng.getrandbits(16), self.payload(1000)
        request, reply = {4: (ICMP(type=8), ICMP(type=0)),
                          6: (ICMPv6EchoRequest(), ICMPv6EchoReply())}[self.family.number]
        request.id, request.seq = identifier, sequence
        ask = self.family.ip(self.world.inner("user"), self.family.server) / request / Raw(data)
        self.world.send("user", ask)
        arrived = self.world.settle()
        outer = struct.unpack("!H", transport(arrived["server"][0])[1][4:6])[0]
        self.inner_of["echo", outer] = identifier
        self.note("echo request", arrived)
        reply.id, reply.seq = outer, sequence
        answer = self.family.ip(self.family.server, self.world.lan) / reply / Raw(data)
        self.world.send("server", answer)
        self.note("echo reply", self.world.settle())

    def error(self):
        """About the last packet of a flow, from whoever got it, or from a router on the way to them."""
        flow = self.pick_flow()
        side = self.pick_side()
        kind, mtu = self.rng.choice([*((kind, 0) for kind in ERRORS), ("too big", 1300)])
        length = self.rng.choice([8, 20, 64, 400])
        about = self.last.get((flow.port, side))
        if about is None:
            return
        head = len(bytes(about)) - len(transport(about)[1])
        if side == "user":
            ends = flow.inner, flow.server
        else:
            ends = self.rng.choice([flow.server, self.family.router]), self.world.lan
        packet = self.family.error(kind, *ends, bytes(about)[:head + length], mtu)
        self.world.send(side, packet)
        self.note(f"error {kind}, {length} bytes quoted", self.world.settle(), passes=True)

    def pieces(self):
        flow = self.pick_flow()
        side = self.pick_side()
        packet = self.packet(flow, side, self.payload(1200) + bytes(200))
        whole = type(packet)(bytes(packet))
        size = 8 * self.rng.randint(5, 100)
        pieces = self.family.pieces(whole.src, whole.dst, 17, transport(whole)[1], size, self.world.new_ident())
        self.rng.shuffle(pieces)
        self.world.send(side, *pieces)
        self.note(f"{len(pieces)} pieces", self.world.settle())

    def last_hop(self):
        flow = self.pick_flow()
        side = self.pick_side()
        self.send("last hop", side, flow, self.packet(flow, side, b"far", hops=1))

    def too_big(self):
        flow = self.pick_flow()
        data = bytes(TUNNEL_MTU - len(flow.back()) + self.rng.randint(0, 3))
        self.send("about the MTU", "server", flow, flow.back(data))

    # -- How it is said

    def pick_flow(self):
        """A UDP flow, old or new."""
        if not self.flows or self.rng.random() < 0.1:
            flow = Flow(self.world)
            self.send("udp, new", "user", flow, self.packet(flow, "user", b"hello"))
            self.flows.append(flow)
        return self.rng.choice(self.flows)

    def pick_side(self):
        return self.rng.choice(["user", "server"])

    def payload(self, most):
        return self.rng.randbytes(self.rng.randint(1, most))

    def packet(self, flow, side, data, hops=None, **l4):
        make = flow.out if side == "user" else flow.back
        hops = hops or self.rng.randint(3, 255)
        packet = make(data, hops=hops, df=self.rng.random() < 0.5, **l4)
        if self.family is V4:
            packet.tos = self.rng.getrandbits(8)
        else:
            packet.tc = self.rng.getrandbits(8)
        return packet

    def send(self, what, side, flow, packet):
        self.world.send(side, packet)
        arrived = self.world.settle()
        if side == "user" and arrived["server"] and flow.outer is None:
            flow.outer = arrived["server"][0][flow.layer].sport
            self.inner_of[flow.protocol, flow.outer] = flow.port
        for end in ("user", "server"):
            if flow.protocol == "udp" and arrived[end] and UDP in arrived[end][0]:
                self.last[flow.port, end] = arrived[end][0]
        self.note(f"{what} from {side}", arrived)

    # -- What was heard

    def note(self, what, arrived, passes=False):
        self.heard.append((what, {end: self.normal(packets, passes) for end, packets in arrived.items()}))

    def normal(self, packets, passes):
        """Packets in a form that is the same whoever translated them; `passes` says that an ICMP
        error among them is from an end, not from the gateway."""
        parts = [packet for packet in packets if fragment_of(packet)]
        whole = [packet for packet in packets if not fragment_of(packet)]
        assert all(map(sums_hold, whole))
        seen = [self.describe(packet, passes, *transport(packet)) for packet in whole]
        if parts:
            protocol, l4 = together(parts)
            assert all(sums_hold(part, l4) for part in parts)
            seen.append(self.describe(parts[0], passes, protocol, l4))
        return seen

    def describe(self, packet, passes, protocol, l4):
        error = self.family.read_error(packet)
        own = error and not passes
        head = [self.end(packet.src), self.end(packet.dst)]
        tos_mask = 0xFC if own else 0xFF
        head += ([packet.tos & tos_mask, bytes(packet)[20:packet.ihl * 4]] if packet.version == 4
                 else [packet.tc])
        if not own:
            head += [self.family.hops(packet)]
            head += [bool(packet.flags.DF)] if packet.version == 4 else []
        if error:
            kind, mtu, quote = error
            quoted = transport_of_quote(quote)
            return (*head, kind, mtu, self.end(quote.src), self.end(quote.dst), self.family.hops(quote),
                    self.l4(*quoted, quote)[:8 if own else None])
        return (*head, self.l4(protocol, l4, packet))

    def l4(self, protocol, l4, packet):
        """L4 as the client would see it, without checksum."""
        l4 = bytearray(l4)
        kind, checksum = {17: ("udp", 6), 6: ("tcp", 16)}.get(protocol, ("echo", 2))
        ports = {"src": 0, "dst": 2} if kind != "echo" else {"src": 4, "dst": 4}
        for end, at in ports.items():
            port = struct.unpack_from("!H", l4, at)[0]
            if getattr(packet, end) == self.world.lan:
                struct.pack_into("!H", l4, at, self.inner_of.get((kind, port), port))
        none = kind == "udp" and l4[6:8] == b"\0\0"
        if not none and len(l4) >= checksum + 2:
            l4[checksum:checksum + 2] = b"\xff\xff"
        return bytes(l4)

    def end(self, address):
        """Owner of the address."""
        return "gateway" if address in self.gateway else address


def transport_of_quote(quote):
    """Protocol and L4 of a quoted packet, which may be cut."""
    return (quote.proto, bytes(quote)[quote.ihl * 4:]) if quote.version == 4 else (quote.nh, bytes(quote)[40:])
