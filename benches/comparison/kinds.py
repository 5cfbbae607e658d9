"""The gateways that are compared, and their clients."""

import functools
import ipaddress
import shutil
import types

from lab import wireguard
from lab.gateway import ROOT, Boringtun, Gotatun, Vcgate, WireguardGo
from lab.net import run
from lab.topology import Lab

TOOLS = ROOT / "target/release"


class OffloadingDevice(wireguard.Device):
    """Our own client (tools/src/bin/offloading-client.rs): super-packets on its TUN, bursts on its socket."""

    program = TOOLS / "offloading-client"

    def __init__(self, client, gateway):
        self.machine = client.machine
        self.name = f"vclo{client.number}"
        key = client.scratch / f"{self.name}.key"
        key.touch(0o600)
        key.write_text(client.keys.private + "\n")
        self.process = self.machine.start(
            self.program, self.name, key, gateway.public_key, gateway.endpoint,
            output=client.scratch / f"{self.name}.log")
        self.process.wait_for_line("ready")


class OffloadingClient(wireguard.Client):
    """A user with the offloading client on the machine of one with wireguard-go."""

    def __init__(self, plain):
        super().__init__(plain.machine, plain.number, plain.scratch)

    def connect(self, gateway):
        self.device = OffloadingDevice(self, gateway)
        self.route()
        self.machine.reaches(gateway.inner)


class Generator:
    """Many peers that do handshakes only (tools/src/bin/handshakes.rs), each with an address of its own."""

    program = TOOLS / "handshakes"
    first = "100.64.0.1"
    network = "100.64.0.0/16"

    def __init__(self, client, count):
        self.machine = client.machine
        self._wan = Lab.wan_addresses(client.number)[0].split("/")[0]
        self.peers = [Peer(number, key) for number, key in
                      enumerate(run(self.program, "keys", count).stdout.split())]

    def connect(self, gateway):
        # A whole prefix is local at once when it is an address of `lo`.
        self.machine.ip("address", "replace", self.network, "dev", "lo")
        gateway.machine.ip("route", "replace", self.network, "via", self._wan)

    def run(self, gateway, seconds):
        """Does handshakes for so long; how many were completed."""
        return int(self.machine.run(self.program, "run", len(self.peers), gateway.public_key,
                                    gateway.endpoint, self.first, seconds).stdout)

    def connect_all(self, gateway):
        """A handshake for each peer; then they are idle."""
        done = self.machine.run(self.program, "connect", len(self.peers), gateway.public_key,
                                gateway.endpoint, self.first, timeout=180).stdout
        if int(done) < len(self.peers):
            raise ValueError(f"only {int(done)} of {len(self.peers)} peers were connected")

    def disconnect(self):
        self.machine.ip("address", "del", self.network, "dev", "lo", check=False)


class Peer:
    """A peer that exists in the gateway's configuration only."""

    psk = None
    keepalive_of_gateway = None

    def __init__(self, number, key):
        self.name = f"peer{number}"
        self.keys = types.SimpleNamespace(public=key)
        self.inner = str(ipaddress.ip_address("10.8.1.0") + number)
        self.inner6 = str(ipaddress.ip_address("fd00:8:1::") + number)


def _plain(lab, count):
    clients = lab.clients(count)
    return clients, clients


def _offloading(lab, count):
    clients = [OffloadingClient(plain) for plain in lab.clients(count)]
    return clients, clients


def _generator(lab, count):
    generator = Generator(lab.client(1), count)
    return [generator], generator.peers


GATEWAYS = {
    "vcgate": Vcgate,
    "vcgate, hook off": functools.partial(Vcgate, hook="off"),
    "boringtun-cli": Boringtun,
    "gotatun-cli": Gotatun,
    "wireguard-go": WireguardGo,
}
"""All but vcgate do NAT with an nftables masquerade rule."""

HOOK_OFF = "vcgate, hook off"
"""Compared where the hook has something to do."""

CLIENTS = {"wireguard-go": _plain, "offloading": _offloading, "generator": _generator}
"""Functions that make so many clients: the clients, and the peers that the gateway knows."""


def program(gateway):
    """The program of a kind of gateway."""
    kind = GATEWAYS[gateway]
    return getattr(kind, "func", kind).program[0]


def version(gateway):
    """Version text of a gateway's program; None if it is missing."""
    path = shutil.which(program(gateway))
    return path and run(path, "--version").stdout.splitlines()[0]
