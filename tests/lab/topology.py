"""The machines of the lab and how they are plugged together.

    client 1..N ── WAN (203.0.113.0/24, 2001:db8:113::/64) ── gateway ── LAN (192.168.77.0/24) ── server
                                                                          │
                                                                          probe (a host that listens)
"""

import contextlib
import pathlib
import tempfile

from . import net
from .wireguard import Client

GATEWAY_WAN = "203.0.113.1"
GATEWAY_WAN_SECOND = "203.0.113.2"
GATEWAY_WAN6 = "2001:db8:113::1"
GATEWAY_LAN = "192.168.77.1"
SERVER = "192.168.77.10"
PROBE = "192.168.77.9"
TUNNEL = "10.8.0.1"
GATEWAY_LAN6 = "fd00:77::1"
SERVER6 = "fd00:77::10"
PROBE6 = "fd00:77::9"
TUNNEL6 = "fd00:8::1"


class Lab:
    """All machines. Clients are made when a test first asks for them."""

    def __init__(self):
        self.scratch = pathlib.Path(tempfile.mkdtemp(prefix=f"{net.PREFIX}-"))
        self.wan = net.bridge("wan")
        self.probe = net.bridge("probe", f"{PROBE}/24")
        self.gateway = None
        self.server = net.Namespace("srv")
        net.link(self.server, "lan", self.probe, f"{SERVER}/24")
        self._clients = {}

    def new_gateway(self):
        """A gateway machine on which nothing has happened yet. It keeps the hardware addresses of
        the last one, so that no neighbour entry becomes stale."""
        if self.gateway:
            self.gateway.remove()
            net.remove_kept_flows()
            net.remove_kept_connections()
        self.gateway = net.Namespace("gw")
        net.link(self.gateway, "wan", self.wan, f"{GATEWAY_WAN}/24", f"{GATEWAY_WAN_SECOND}/24",
                 f"{GATEWAY_WAN6}/64", hardware="02:00:00:00:00:01")
        net.link(self.gateway, "lan", self.probe, f"{GATEWAY_LAN}/24", hardware="02:00:00:00:00:02")
        # As at home: the LAN's router is elsewhere, and the interface of the default route is the LAN's.
        self.gateway.ip("route", "add", "default", "via", "192.168.77.254")

    @contextlib.contextmanager
    def ipv6_on_the_lan(self):
        """Gives the machines of the LAN IPv6 addresses for a while; the gateway, once it is there."""
        here = [(self.server, "lan", SERVER6), (self.probe, "br0", PROBE6),
                (self.gateway, "lan", GATEWAY_LAN6)]
        for machine, interface, address in here:
            machine.ip("address", "add", f"{address}/64", "dev", interface)
        try:
            yield
        finally:
            for machine, interface, address in here[:2]:
                machine.ip("address", "delete", f"{address}/64", "dev", interface)

    @contextlib.contextmanager
    def server_has(self, *addresses):
        """Gives the server more addresses for a while."""
        lengths = [f"{address}/{64 if ':' in address else 24}" for address in addresses]
        for address in lengths:
            self.server.ip("address", "add", address, "dev", "lan")
        try:
            yield
        finally:
            for address in lengths:
                self.server.ip("address", "delete", address, "dev", "lan")

    def client(self, number):
        """Client `number`, from 1."""
        if number not in self._clients:
            self._clients[number] = Client(self._client_machine(number), number, self.scratch)
        return self._clients[number]

    def _client_machine(self, number):
        machine = net.Namespace(f"c{number}")
        net.link(machine, "wan", self.wan, *self.wan_addresses(number))
        return machine

    def new_machine(self, client):
        """The client's machine is gone from one moment to the next; another one has its addresses
        and its key."""
        client.machine.remove()
        client.machine = self._client_machine(client.number)

    def clients(self, count):
        return [self.client(number) for number in range(1, count + 1)]

    @staticmethod
    def wan_addresses(number):
        return f"203.0.113.{100 + number}/24", f"2001:db8:113::{100 + number}/64"

    def disconnect(self):
        """Ends every client's tunnel and connections and puts its WAN addresses back."""
        for number, client in self._clients.items():
            client.disconnect()
            client.forget()
            # Closed sockets continue to send their FIN, which would open flows at the next test's gateway.
            client.machine.run("ss", "--kill", "--tcp")
            client.machine.ip("address", "flush", "dev", "wan", "scope", "global")
            for address in self.wan_addresses(number):
                client.machine.ip("address", "add", address, "dev", "wan")
