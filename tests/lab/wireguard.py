"""WireGuard clients as users have them: wireguard-go, set up with the standard `wg`."""

import os
import pathlib
import re
import signal
import socket

from .net import PREFIX, run, wait_for

ENVIRONMENT = {**os.environ, "WG_I_PREFER_BUGGY_USERSPACE_TO_POLISHED_KMOD": "1"}
WIREGUARD_GO = ("wireguard-go", "--foreground")
NETWORKS = ["10.8.0.0/24", "192.168.77.0/24"]
NETWORKS6 = ["fd00:8::/64", "fd00:77::/64"]


class Keys:
    """A key pair."""

    def __init__(self):
        self.private = run("wg", "genkey").stdout.strip()
        self.public = run("wg", "pubkey", input=self.private).stdout.strip()


class Device:
    """A WireGuard in user space, and its interface in a namespace."""

    def __init__(self, machine, name, scratch, program=WIREGUARD_GO):
        self.machine = machine
        self.name = name
        self._scratch = pathlib.Path(scratch)
        path = pathlib.Path(f"/run/wireguard/{name}.sock")
        # Not every kind removes its own when it ends.
        path.unlink(missing_ok=True)
        self.process = machine.start(
            *program, name, output=self._scratch / f"{name}.log", env=ENVIRONMENT)
        wait_for(f"{path} to answer", lambda: _answers(path))

    def configure(self, text):
        """`wg setconf` with the text of a configuration file."""
        file = self._scratch / f"{self.name}.conf"
        file.touch(0o600)
        file.write_text(text)
        self.machine.run("wg", "setconf", self.name, file)

    def up(self, address, mtu=1420):
        self.machine.ip("address", "add", address, "dev", self.name)
        self.machine.ip("link", "set", self.name, "mtu", mtu, "up")

    def show(self, what):
        return show(self.machine, self.name, what)

    def stop(self):
        self.process.stop()


def _answers(path):
    with socket.socket(socket.AF_UNIX) as client:
        return client.connect_ex(str(path)) == 0


def show(machine, name, what):
    """`wg show NAME what`, such as `endpoints`: a dictionary by public key."""
    lines = machine.run("wg", "show", name, what).stdout.splitlines()
    return dict(line.split("\t", 1) for line in lines)


class Client:
    """A user's machine: namespace, WAN address, tunnel. Number N has 203.0.113.(100+N) outside
    and 10.8.0.(10+N) inside."""

    source = None
    """The kernel knows: the machine has one inner address."""
    crashes = False

    def __init__(self, machine, number, scratch):
        self.machine = machine
        self.number = number
        self.name = f"user{number}"
        self.inner = f"10.8.0.{10 + number}"
        self.inner6 = f"fd00:8::{10 + number}"
        self.keys = Keys()
        self.forget()
        self.device = None
        self._quick = None
        self.scratch = scratch

    def forget(self):
        """Drops what a test has chosen for this client."""
        self.psk = None
        self.keepalive_of_gateway = None

    def connect(self, gateway, endpoint=None, keepalive=None, mtu=1420, seconds=10):
        """Brings the tunnel up and waits for the gateway's tunnel address to answer."""
        self.start(f"""
            [Interface]
            PrivateKey = {self.keys.private}
            [Peer]
            PublicKey = {gateway.public_key}
            {f"PresharedKey = {self.psk}" if self.psk else ""}
            Endpoint = {endpoint or gateway.endpoint}
            AllowedIPs = {", ".join(NETWORKS + NETWORKS6)}
            {f"PersistentKeepalive = {keepalive}" if keepalive else ""}
            """, mtu, gateway.address6 is not None)
        self.machine.reaches(gateway.inner, seconds)

    def start(self, configuration, mtu=1420, ipv6=False):
        """The tunnel from a configuration in the form of `wg setconf`."""
        self.disconnect()
        self.device = Device(self.machine, f"{PREFIX}w{self.number}", self.scratch)
        self.device.configure(configuration)
        self.route(mtu, ipv6)

    def route(self, mtu=1420, ipv6=False):
        """The tunnel's addresses and routes."""
        self.device.up(f"{self.inner}/32", mtu)
        if ipv6:
            self.machine.ip("address", "add", f"{self.inner6}/128", "dev", self.device.name)
        for network in NETWORKS + (NETWORKS6 if ipv6 else []):
            self.machine.ip("route", "replace", network, "dev", self.device.name)

    def connect_quick(self, configuration, dns=False):
        """The tunnel from a client configuration as it is handed out, with `wg-quick`. Its DNS line is
        only for machines with a resolv.conf of their own: others have the host's."""
        self.disconnect()
        if not dns:
            configuration = re.sub(r"^DNS = .*\n", "", configuration, flags=re.MULTILINE)
        file = pathlib.Path(self.scratch) / f"{PREFIX}w{self.number}.conf"
        file.touch(0o600)
        file.write_text(configuration)
        self.machine.run("wg-quick", "up", file, env={
            **ENVIRONMENT, "WG_QUICK_USERSPACE_IMPLEMENTATION": WIREGUARD_GO[0]})
        self._quick = file

    def die(self):
        """From one moment to the next, nothing goes through the tunnel any more."""
        self.device.process.stop(signal.SIGKILL)
        self.device = None

    def disconnect(self):
        if self.device:
            self.device.stop()
            self.device = None
        if self._quick:
            self.machine.run("wg-quick", "down", self._quick)
            self._quick = None

    def roam(self, address):
        """Takes another WAN address, as a laptop that changes its network does. The socket is bound
        again, as the apps do then: wireguard-go alone would continue with the source that it remembers."""
        self.machine.ip("address", "flush", "dev", "wan", "scope", "global")
        self.machine.ip("address", "add", address, "dev", "wan")
        self.machine.run("wg", "set", self.device.name, "listen-port", "51999")

    def endpoint_seen(self):
        """The gateway's address as the client last saw it."""
        (seen,) = self.device.show("endpoints").values()
        return re.sub(r":\d+$", "", seen)
