"""Many clients in one namespace, each with its own tunnel (tools/src/bin/tunnels.rs)."""

import socket

from .gateway import VCGATE
from .net import PREFIX, Namespace, link, wait_for
from .wireguard import NETWORKS, Keys

PROGRAM = VCGATE.parent / "tunnels"

# Every other client has a firewall that says nothing to what it does not know: no RST leaves it.
STEALTH = """
table ip vcl {{
    chain out {{
        type filter hook output priority filter
        ip saddr {{ {addresses} }} tcp flags & rst == rst drop
    }}
}}
"""


class TunnelClient:
    """A user, as gateways and smb.py want him. Number N has 198.51.100.N outside and 10.8.0.(10+N)
    inside."""

    crashes = True
    psk = None
    keepalive_of_gateway = None

    def __init__(self, number, tunnels):
        self.name = f"user{number}"
        self.outer = f"198.51.100.{number}"
        self.inner = self.source = f"10.8.0.{10 + number}"
        self.inner6 = f"fd00:8::{10 + number}"
        self.keys = Keys()
        self.machine = tunnels.machine
        self.stealth = number % 2 == 0
        self._tunnels = tunnels

    def crash(self):
        """Nothing of it goes in or out from now on."""
        self._tunnels.send(f"crash {self.inner}")

    def come_back(self):
        """With a new WireGuard session."""
        self._tunnels.send(f"return {self.inner}")


class Tunnels:
    """The clients and their machine; they are there for a gateway's configuration before they
    `connect` to it."""

    name = f"{PREFIX}crowd"
    wan = "203.0.113.250"
    network = "198.51.100.0/24"

    def __init__(self, lab, count):
        if not PROGRAM.exists():
            raise RuntimeError(f"no {PROGRAM}: build it with `cargo build --release --workspace --bins`")
        self._scratch = lab.scratch
        self._commands = lab.scratch / f"{self.name}.sock"
        self.machine = Namespace("crowd")
        self.clients = [TunnelClient(number, self) for number in range(1, count + 1)]
        link(self.machine, "wan", lab.wan, f"{self.wan}/24")
        # A whole prefix is local at once when it is an address of `lo`.
        self.machine.ip("address", "add", self.network, "dev", "lo")
        silent = ", ".join(client.inner for client in self.clients if client.stealth)
        self.machine.run("nft", "-f", "-", input=STEALTH.format(addresses=silent))
        self._process = None

    def connect(self, gateway):
        """Starts all tunnels, and waits until the gateway answers through the first and the last."""
        gateway.machine.ip("route", "add", self.network, "via", self.wan)
        file = self._scratch / f"{self.name}.clients"
        file.touch(0o600)
        file.write_text("".join(f"{client.keys.private} {client.outer} {client.inner}\n"
                                for client in self.clients))
        self._process = self.machine.start(
            PROGRAM, self.name, file, gateway.public_key, gateway.endpoint, self._commands,
            output=self._scratch / f"{self.name}.log")
        self._process.wait_for_line("ready")
        for client in self.clients:
            self.machine.ip("address", "add", f"{client.inner}/32", "dev", self.name)
        self.machine.ip("link", "set", self.name, "mtu", 1420, "up")
        for network in NETWORKS:
            self.machine.ip("route", "add", network, "dev", self.name)
        for client in (self.clients[0], self.clients[-1]):
            wait_for(f"{gateway.inner} to answer {client.name}",
                     lambda: self.machine.ping(gateway.inner, "-I", client.inner).returncode == 0)

    def send(self, command):
        with socket.socket(socket.AF_UNIX) as commands:
            commands.settimeout(30)
            commands.connect(str(self._commands))
            commands.sendall(command.encode() + b"\n")
            if commands.recv(16) != b"ok\n":
                raise RuntimeError(f"{PROGRAM.name} has ended:\n{self._process.text()}")

    def disconnect(self):
        if self._process:
            self._process.stop()
            self._commands.unlink(missing_ok=True)
            self._process = None

    def remove(self):
        self.disconnect()
        self.machine.remove()
