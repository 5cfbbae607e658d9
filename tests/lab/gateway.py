"""The machine in the middle, in several kinds: vcgate, and what people use without it.

The peers are there for contrast (the failure must be seen with them) and for ratios of throughput.
Every kind: `start(clients)`, `stop()`, `program`, `public_key`, `endpoint`, `inner`, `external_address`,
`cpu_seconds()`.
"""

import json
import os
import pathlib
import signal

from . import topology, wireguard
from .net import PREFIX, wait_for

ROOT = pathlib.Path(__file__).resolve().parents[2]
VCGATE = pathlib.Path(os.environ.get("VCGATE", ROOT / "target/release/vcgate")).resolve()
PORT = 51820
MASQUERADE = """
table ip vcl {
    chain out {
        type nat hook postrouting priority srcnat
        oifname "lan" ip saddr 10.8.0.0/24 masquerade
    }
}
table ip6 vcl {
    chain out {
        type nat hook postrouting priority srcnat
        oifname "lan" ip6 saddr fd00:8::/64 masquerade
    }
}
"""


class Gateway:
    """The common part of all kinds."""

    inner = topology.TUNNEL
    endpoint = f"{topology.GATEWAY_WAN}:{PORT}"
    endpoint_second = f"{topology.GATEWAY_WAN_SECOND}:{PORT}"
    endpoint6 = f"[{topology.GATEWAY_WAN6}]:{PORT}"
    name = f"{PREFIX}g0"
    hook = None
    address6 = None

    def __init__(self, lab, directory):
        self.machine = lab.gateway
        self.dir = pathlib.Path(directory)
        self.keys = wireguard.Keys()
        self.public_key = self.keys.public
        self.process = None

    def cpu_seconds(self):
        return self.process.cpu_seconds()

    def wg(self, what):
        return wireguard.show(self.machine, self.name, what)

    def peer_lines(self, client):
        lines = (f"[Peer]\nPublicKey = {client.keys.public}\n"
                 f"AllowedIPs = {client.inner}/32, {client.inner6}/128\n")
        if client.psk:
            lines += f"PresharedKey = {client.psk}\n"
        if client.keepalive_of_gateway:
            lines += f"PersistentKeepalive = {client.keepalive_of_gateway}\n"
        return lines


class WireguardGo(Gateway):
    """wireguard-go, and the kernel's NAT: every client comes from the gateway's LAN address."""

    external_address = topology.GATEWAY_LAN
    external_address6 = address6 = topology.GATEWAY_LAN6
    program = wireguard.WIREGUARD_GO
    FORWARDING = ("net.ipv4.ip_forward", "net.ipv6.conf.all.forwarding")

    def start(self, clients):
        self._device(clients)
        for key in self.FORWARDING:
            self.machine.sysctl(key, 1)
        # It answers every refused packet with an error, without a rate limit.
        for key in ("net.ipv4.icmp_ratelimit", "net.ipv6.icmp.ratelimit"):
            self.machine.sysctl(key, 0)
        self.machine.run("nft", "-f", "-", input=MASQUERADE)

    def narrow_ports(self, client, count):
        """The kernel has no limit for each client; its nearest is a range of ports, here for UDP."""
        for family, source in (("ip", client.inner), ("ip6", client.inner6)):
            self.machine.run("nft", "insert", "rule", family, "vcl", "out", "oifname", "lan", family, "saddr",
                             source, "meta", "l4proto", "udp", "masquerade", "to", f":40000-{39999 + count}")

    def _device(self, clients):
        device = wireguard.Device(self.machine, self.name, self.dir, self.program)
        self.process = device.process
        device.configure(f"[Interface]\nPrivateKey = {self.keys.private}\nListenPort = {PORT}\n"
                         + "".join(map(self.peer_lines, clients)))
        device.up(f"{self.inner}/24")
        self.machine.ip("address", "add", f"{topology.TUNNEL6}/64", "dev", self.name)

    def stop(self):
        self.process.stop()
        for family in ("ip", "ip6"):
            self.machine.run("nft", "delete", "table", family, "vcl", check=False)
        for key in self.FORWARDING:
            self.machine.sysctl(key, 0)


class Boringtun(WireguardGo):
    """The same with boringtun-cli, from $BORINGTUN or the PATH."""

    program = (os.environ.get("BORINGTUN", "boringtun-cli"), "--foreground",
               "--disable-drop-privileges")


class Gotatun(WireguardGo):
    """The same with gotatun-cli, whose program is $GOTATUN or `gotatun` from the PATH."""

    program = (os.environ.get("GOTATUN", "gotatun"), "--foreground", "--disable-drop-privileges")


class Vcgate(Gateway):
    """vcgate itself, with a configuration file written for the test."""

    program = (str(VCGATE),)

    def __init__(self, lab, directory, hook="assign", stale="probe", address="192.168.77.2",
                 address6=None, offload=None, nat=None, limits=None, own=None, unreadable="reset",
                 **interface):
        super().__init__(lab, directory)
        self.hook = hook
        self.stale = stale
        self.unreadable = unreadable
        self.address = address
        self.address6 = address6
        self.offload = offload or {}
        self.nat = nat or {}
        self.limits = limits or {}
        self.own = own or {}
        """Addresses on the LAN of single clients, by name."""
        first = address[0] if isinstance(address, list) else address
        self.external_address = topology.GATEWAY_LAN if first == "auto" else first
        self.external_address6 = topology.GATEWAY_LAN6 if address6 == "auto" else address6
        self.interface = {"listen_port": PORT, **interface}
        self.config = self.dir / "vcgate.toml"

    def start(self, clients):
        self.write(clients)
        self.up()

    def write(self, clients):
        """The configuration and its key files."""
        interface = {"name": self.name, "private_key_file": self._key("server", self.keys.private),
                     "address": self._both(f"{self.inner}/24", f"{topology.TUNNEL6}/64"),
                     "endpoint": self.endpoint, **self.interface}
        lan = {"interface": "lan", "address": self.address,
               "networks": self._both("192.168.77.0/24", "fd00:77::/64")}
        if self.address6:
            lan["address6"] = self.address6
        text = _table("[interface]", interface) + _table("[lan]", lan)
        text += _table("[smb]", {"hook": self.hook, "stale": self.stale, "unreadable": self.unreadable})
        text += _table("[offload]", self.offload)
        if self.nat or self.limits:
            text += _table("[nat]", self.nat) + _table("[nat.limits]", self.limits)
        for client in clients:
            peer = {"name": client.name, "public_key": client.keys.public,
                    "allowed_ips": self._both(f"{client.inner}/32", f"{client.inner6}/128")}
            if client.name in self.own:
                peer["lan_address"] = self.own[client.name]
            if client.psk:
                peer["preshared_key_file"] = self._key(client.name, client.psk)
            if client.keepalive_of_gateway:
                peer["persistent_keepalive"] = client.keepalive_of_gateway
            text += _table("[[peer]]", peer)
        self.config.write_text(text)

    def _both(self, ipv4, ipv6):
        return [ipv4, ipv6] if self.address6 else [ipv4]

    def _key(self, name, key):
        file = self.dir / "keys" / f"{name}.key"
        file.parent.mkdir(mode=0o700, exist_ok=True)
        file.touch(0o600)
        file.write_text(key + "\n")
        return f"keys/{name}.key"

    def up(self, *wrapper):
        """`vcgate up`, until its control socket answers. `wrapper` is put in front of it."""
        self.launch(*wrapper)
        wait_for("vcgate to answer `wg show`", self.answers)

    def launch(self, *wrapper):
        """`vcgate up`, without waiting for anything."""
        self.process = self.machine.start(*wrapper, VCGATE, "up", "--config", self.config,
                                          output=self.dir / "vcgate.log", cwd=self.dir)

    def answers(self):
        if self.process.returncode() is not None:
            raise RuntimeError(f"vcgate ended with {self.process.returncode()}:\n{self.process.text()}")
        shown = self.machine.run("wg", "show", self.name, "listen-port", check=False)
        return shown.returncode == 0

    def vcgate(self, *argv, **options):
        """A vcgate command beside the running one."""
        return self.machine.run(VCGATE, *argv, "--config", self.config, cwd=self.dir, **options)

    def json(self, command):
        """`vcgate status|flows|smb --json`."""
        return json.loads(self.vcgate(command, "--json").stdout)

    def tcp_state(self, port):
        """The reported state of the TCP flow that has a port of the LAN address."""
        (state,) = (flow["state"] for flow in self.json("flows")
                    if flow["protocol"] == "tcp" and flow["lan"].endswith(f":{port}"))
        return state

    def stop(self, sig=signal.SIGTERM):
        return self.process.stop(sig)


KINDS = {"vcgate": Vcgate, "wireguard-go": WireguardGo, "boringtun": Boringtun,
         "gotatun": Gotatun}


def _table(head, values):
    """A TOML table; JSON writes strings, numbers and lists of strings as TOML does."""
    return "\n".join([head] + [f"{key} = {json.dumps(value)}" for key, value in values.items()]) + "\n\n"
