"""Raw packets on the machines of the lab, sent and seen as they are on the wire. The kernels of
those machines hear nothing of them, and say nothing.

Both families are written alike: a `Family` makes packets and reads errors, a `World` sends and
collects, a `Flow` is one client's and one server's end of a conversation.
"""

import contextlib
import socket
import struct
from typing import NamedTuple

from scapy.layers.inet import ICMP, IP, TCP, UDP
from scapy.layers.inet6 import (ICMPv6DestUnreach, ICMPv6PacketTooBig, ICMPv6TimeExceeded, IPv6,
                                IPv6ExtHdrFragment)
from scapy.packet import Packet, Raw
from scapy.utils import checksum

from . import topology
from .net import wait_for

ETH_P_ALL = 3
ETH_P_IP = 0x0800
ETH_P_IPV6 = 0x86DD
PACKET_OUTGOING = 4
SO_TIMESTAMPNS = 35
SO_RCVBUFFORCE = 33
GATEWAYS_LAN = bytes.fromhex("020000000002")
SECOND = "192.168.77.11"
SECOND6 = "fd00:77::11"
TUNNEL_MTU = 1420
NEIGHBOURS = range(130, 144)
"""The ICMPv6 messages of a link's own: discovery, and group membership."""
MUTE = """
table inet vclmute {
    chain mute {
        type filter hook prerouting priority -450
        icmpv6 type { nd-neighbor-solicit, nd-neighbor-advert } accept
        iifname "%s" drop
    }
    chain speechless {
        type filter hook output priority -450
        icmpv6 type { nd-neighbor-solicit, nd-neighbor-advert } accept
        oifname "%s" drop
    }
}
"""
"""A tap's own packets pass by all of this. Without it, connections of earlier tests, which their
kernels still try to end, would be heard too."""


class Seen(NamedTuple):
    """A packet, and when it came (as `time.time()`)."""

    time: float
    packet: Packet


class Tap:
    """One interface: what is sent there leaves as it is; `log` has all that came."""

    def __init__(self, machine, interface, hardware=b""):
        self.interface = interface
        self.log = []
        self._machine = machine
        self._hardware = hardware
        with machine.entered():
            self._socket = socket.socket(socket.AF_PACKET, socket.SOCK_DGRAM, socket.htons(ETH_P_ALL))
        self._socket.setsockopt(socket.SOL_SOCKET, SO_RCVBUFFORCE, 1 << 22)
        self._socket.setsockopt(socket.SOL_SOCKET, SO_TIMESTAMPNS, 1)
        self._socket.bind((interface, ETH_P_ALL))
        machine.run("nft", "-f", "-", input=MUTE % (interface, interface))

    def close(self):
        self._machine.run("nft", "delete", "table", "inet", "vclmute")
        self._socket.close()

    def send(self, packet):
        data = bytes(packet)
        protocol = ETH_P_IPV6 if data[0] >> 4 == 6 else ETH_P_IP
        self._socket.sendto(data, (self.interface, protocol, 0, 0, self._hardware))

    def read(self):
        """Moves what came into the log."""
        readers = {ETH_P_IP: IP, ETH_P_IPV6: IPv6}
        while True:
            try:
                data, extra, _, sender = self._socket.recvmsg(1 << 16, 100, socket.MSG_DONTWAIT)
            except BlockingIOError:
                return
            _, protocol, kind, *_ = sender
            if kind != PACKET_OUTGOING and protocol in readers:
                seconds, nanoseconds = struct.unpack("qq", extra[0][2])
                self.log.append(Seen(seconds + nanoseconds / 1e9, readers[protocol](data)))


class Family:
    """Counterparts of IPv4 and IPv6. `ip` makes a header from neutral fields."""

    def __init__(self, number, addresses, errors, icmp):
        self.number = number
        self.name = f"ipv{number}"
        self.server, self.second, self.router, self.tunnel = addresses
        self.errors = errors
        self.icmp = icmp

    def inner(self, client):
        return client.inner if self.number == 4 else client.inner6

    def ip(self, src, dst, hops=64, df=True, ident=1, **fields):
        if self.number == 4:
            return IP(src=src, dst=dst, ttl=hops, flags="DF" if df else 0, id=ident, **fields)
        return IPv6(src=src, dst=dst, hlim=hops, **fields)

    @staticmethod
    def hops(packet):
        return packet.ttl if packet.version == 4 else packet.hlim

    def error(self, kind, src, dst, quote, mtu=0):
        """An ICMP error about `quote`, which is cut already."""
        message, code = self.errors[kind]
        quote = Raw(bytes(quote))
        if self.number == 4:
            return self.ip(src, dst) / ICMP(type=message, code=code, nexthopmtu=mtu) / quote
        maker = {1: ICMPv6DestUnreach, 2: ICMPv6PacketTooBig, 3: ICMPv6TimeExceeded}[message]
        field = {"mtu": mtu} if message == 2 else {"code": code}
        return self.ip(src, dst) / maker(**field) / quote

    def read_error(self, packet):
        """Kind, MTU and quote of an ICMP error; None of anything else."""
        protocol, l4 = transport(packet)
        if protocol != self.icmp:
            return None
        kinds = [kind for kind, what in self.errors.items() if what == (l4[0], l4[1])]
        if not kinds:
            return None
        mtu = struct.unpack("!I", l4[4:8])[0] if kinds == ["too big"] else 0
        return kinds[0], mtu, (IP if self.number == 4 else IPv6)(l4[8:])

    def pieces(self, src, dst, protocol, l4, size, ident=7, **fields):
        """A datagram in pieces of `size` bytes of payload."""
        return [self.piece(src, dst, protocol, l4[at:at + size], at, at + size < len(l4), ident, **fields)
                for at in range(0, len(l4), size)]

    def piece(self, src, dst, protocol, part, at, more, ident=7, **fields):
        """One piece, with offset and place as the caller likes."""
        if self.number == 4:
            flags = "MF" if more else 0
            return IP(src=src, dst=dst, id=ident, proto=protocol, flags=flags, frag=at // 8,
                      **fields) / Raw(part)
        fragment = IPv6ExtHdrFragment(nh=protocol, offset=at // 8, m=more, id=ident)
        return IPv6(src=src, dst=dst, **fields) / fragment / Raw(part)


V4 = Family(4, (topology.SERVER, SECOND, topology.PROBE, topology.TUNNEL),
            {"port": (3, 3), "host": (3, 1), "too big": (3, 4), "time": (11, 0), "prohibited": (3, 13)}, 1)
V6 = Family(6, (topology.SERVER6, SECOND6, topology.PROBE6, topology.TUNNEL6),
            {"port": (1, 4), "host": (1, 3), "too big": (2, 0), "time": (3, 0), "prohibited": (1, 1)}, 58)
FAMILIES = {family.name: family for family in (V4, V6)}


def fragment_of(packet):
    """Identification, offset in bytes and "more follow"; None of a whole packet."""
    if packet.version == 4:
        more = packet.flags.MF
        return (packet.id, packet.frag * 8, bool(more)) if packet.frag or more else None
    piece = packet.getlayer(IPv6ExtHdrFragment)
    return piece and (piece.id, piece.offset * 8, bool(piece.m))


def transport(packet):
    """The protocol of a packet and its bytes after IP header, options and extensions."""
    data = bytes(packet)
    if packet.version == 4:
        return packet.proto, data[packet.ihl * 4:packet.len]
    protocol, at, end = packet.nh, 40, 40 + packet.plen
    while protocol in (0, 43, 44, 60):
        length = 8 if protocol == 44 else 8 * (data[at + 1] + 1)
        protocol, at = data[at], at + length
    return protocol, data[at:end]


def l4_of(packet):
    """The bytes after the IP header of a packet that scapy has not computed yet."""
    return transport(type(packet)(bytes(packet)))[1]


def together(packets):
    """Protocol and bytes of a datagram of which these are the pieces, in whatever order."""
    parts = sorted((fragment_of(packet)[1:] + transport(packet) for packet in packets))
    whole = b""
    for offset, more, protocol, part in parts:
        assert offset == len(whole), "a gap or an overlap"
        whole += part
    assert not more, "the last piece is missing"
    assert len({fragment_of(packet)[0] for packet in packets}) == 1, "identifications differ"
    return protocol, whole


def sums_hold(packet, whole=None):
    """Whether the checksums of a packet hold; `whole` are its bytes after the IP header if it is a
    piece."""
    data = bytes(packet)
    if packet.version == 4 and checksum(data[:packet.ihl * 4]) != 0:
        return False
    protocol, l4 = transport(packet)
    l4 = whole or l4
    if protocol == socket.IPPROTO_UDP and l4[6:8] == b"\0\0":
        return packet.version == 4
    ends = data[12:20] if packet.version == 4 else data[8:40]
    pseudo = b"" if protocol == socket.IPPROTO_ICMP else ends + struct.pack("!II", len(l4), protocol)
    return checksum(pseudo + l4) == 0


@contextlib.contextmanager
def tapped(lab, gateway):
    """Starts the gateway between three clients and the server, with taps instead of kernels at their
    ends; a `World` for each family, by its name."""
    clients = lab.clients(3)
    with lab.ipv6_on_the_lan(), lab.server_has(SECOND, SECOND6):
        gateway.start(clients)
        try:
            # So that the veth pair carries packets as a wire would.
            gateway.machine.run("ethtool", "-K", "lan", "tx", "off", "gso", "off", "tso", "off")
            for client in clients:
                client.connect(gateway)
            with contextlib.ExitStack() as stack:
                def tap(*place):
                    return stack.enter_context(contextlib.closing(Tap(*place)))
                taps = [tap(client.machine, client.device.name) for client in clients]
                server = tap(lab.server, "lan", GATEWAYS_LAN)
                lan = {V4: gateway.external_address, V6: gateway.external_address6}
                worlds = {name: World(family, lan[family], taps, server, clients)
                          for name, family in FAMILIES.items()}
                for world in worlds.values():
                    world.settle()  # what was under way before is heard no more
                yield worlds
        finally:
            lab.disconnect()
            gateway.stop()


class World:
    """The lab in one family: clients `user`, `other` and `greedy`, and a server with two addresses.
    `lan` is the address by which the server knows the clients."""

    def __init__(self, family, lan, taps, server_tap, clients):
        self.family = family
        self.lan = lan
        self.server_tap = server_tap
        self._taps = dict(zip(("user", "other", "greedy"), taps))
        self._inner = dict(zip(self._taps, map(family.inner, clients)))
        self._read = {tap: len(tap.log) for tap in (*taps, server_tap)}
        self._ports = iter(range(20000, 60000, 2))
        self._idents = iter(range(1000, 60000))
        self.talking = list(self._taps)
        """Clients whose packets are waited for."""
        self.aside = lambda packet: False
        """Filter for packets of programs that run beside a test."""
        self._marker = {name: Flow(self, client=name, server_port=9) for name in self._taps}
        self._marks = 0

    def inner(self, name):
        return self._inner[name]

    def new_port(self):
        return next(self._ports)

    def new_ident(self):
        """Another identification for each datagram: a receiver remembers those that went wrong."""
        return next(self._idents)

    def send(self, name, *packets):
        """Sends packets from a client's end, or the server's."""
        tap = self.server_tap if name == "server" else self._taps[name]
        for packet in packets:
            tap.send(packet)

    def from_client(self, *packets, name="user"):
        """Sends packets of a client's, and collects what comes of it at the server's end."""
        self.send(name, *packets)
        return self.settle()["server"]

    def from_server(self, *packets, name="user"):
        """Sends packets of the server's, and collects what comes of it at a client's end."""
        self.send("server", *packets)
        return self.settle()[name]

    def errors_to(self, name, packet):
        """Sends a packet that goes no further; the ICMP errors that its sender hears."""
        self.send(name, packet)
        seen = self.settle()
        errors = self.errors(seen.pop(name))
        assert not any(seen.values()), seen
        return errors

    def settle(self):
        """Everything that came since the last time, by machine. Packets overtake none of their
        own way: what was to come is there when marks have come from every client, and then back."""
        self._marks += 1
        mark = b"mark %d" % self._marks
        for name in self.talking:
            marker = self._marker[name]
            self.send(name, marker.out(mark + name.encode()))
            marker.outer = self._wait_for(self.server_tap, mark + name.encode())[UDP].sport
        for name in self.talking:
            self.send("server", self._marker[name].back(mark))
            self._wait_for(self._taps[name], mark)
        return {**{name: self._new(tap) for name, tap in self._taps.items()},
                "server": self._new(self.server_tap)}

    def _wait_for(self, tap, mark):
        def seen():
            tap.read()
            return [s.packet for s in tap.log[self._read[tap]:] if self._is_mark(s.packet, mark)]
        return wait_for(f"{mark} at {tap.interface}", seen, seconds=5, every=0.0005)[0]

    def _is_mark(self, packet, mark=b"mark"):
        ours = packet.version == self.family.number
        return ours and UDP in packet and bytes(packet[UDP].payload).startswith(mark)

    def _new(self, tap):
        tap.read()
        fresh = tap.log[self._read[tap]:]
        self._read[tap] = len(tap.log)
        return [s.packet for s in fresh if self._matters(s.packet)]

    def _matters(self, packet):
        if packet.version != self.family.number or self._is_mark(packet) or self.aside(packet):
            return False
        protocol, l4 = transport(packet)
        return not (protocol == V6.icmp and l4[0] in NEIGHBOURS)

    def errors(self, packets):
        """The ICMP errors among these packets, read."""
        read = [self.family.read_error(packet) for packet in packets]
        assert all(map(sums_hold, packets))
        return [error for error in read if error]

    def flow(self, protocol="udp", **ends):
        """A flow that the client has opened."""
        flow = Flow(self, protocol, **ends)
        flow.open()
        return flow


class Flow:
    """A client's port, the LAN's port that stands for it (`outer`), and a server's port."""

    def __init__(self, world, protocol="udp", client="user", server=None, port=None, server_port=7777):
        self.world = world
        self.protocol = protocol
        self.client = client
        self.server = server or world.family.server
        self.port = port or world.new_port()
        self.server_port = server_port
        self.outer = None

    @property
    def inner(self):
        return self.world.inner(self.client)

    @property
    def layer(self):
        return {"udp": UDP, "tcp": TCP}[self.protocol]

    def open(self):
        """The client's first packet; it has to arrive."""
        first = self.out(b"hello") if self.protocol == "udp" else self.out(flags="S", seq=1000)
        arrived = self.world.from_client(first, name=self.client)
        assert len(arrived) == 1 and arrived[0].src == self.world.lan, arrived
        self.outer = arrived[0][self.layer].sport

    def out(self, payload=b"", hops=64, df=True, ident=1, **l4):
        """A packet of the client's."""
        return (self.world.family.ip(self.inner, self.server, hops, df, ident)
                / self._l4(self.port, self.server_port, l4) / Raw(payload))

    def back(self, payload=b"", hops=64, df=True, ident=1, src=None, port=None, **l4):
        """A packet of the server's, or of another one's in its place."""
        return (self.world.family.ip(src or self.server, self.world.lan, hops, df, ident)
                / self._l4(port or self.server_port, self.outer, l4) / Raw(payload))

    def _l4(self, src, dst, fields):
        return self.layer(sport=src, dport=dst, **fields)


def connect(world, **ends):
    """A TCP connection after its handshake: the client's next number is 1001, the server's 2001."""
    flow = world.flow("tcp", **ends)
    assert world.from_server(flow.back(flags="SA", seq=2000, ack=1001), name=flow.client)
    assert world.from_client(flow.out(flags="A", seq=1001, ack=2001), name=flow.client)
    return flow


def payloads(packets, layer=UDP):
    assert all(map(sums_hold, packets))
    return [bytes(packet[layer].payload) for packet in packets]
