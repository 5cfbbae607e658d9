"""The loads of the comparison. Each load runs on connected clients and returns its figures.

Figures by name: `mbit` (Mbit/s that arrived), `us_per_mb` (CPU microseconds of the gateway's process
for each megabyte that arrived), `kpps` and `us_per_packet` (thousands of packets a second, and CPU
for each), `lost` (% of what was sent), `ping` and `ping_p99` (ms), `per_second` and `us_each`
(handshakes), `kept` (% of the throughput without the other client), `core` (% of a core), `kb_each`
(resident kilobytes for each peer).
"""

import dataclasses
import hashlib
import os
import re
import shutil
import statistics
import time
from collections.abc import Callable

from lab import iperf, samba, smb, topology

SMALL = 64
"""Bytes of payload in a small packet."""

UDP = ("-u", "-l", "1300", "-b", "2G")
SMALL_UDP = ("-u", "-l", SMALL, "-b", "0")
PING_EVERY = 0.01
FLOOD_PORT = 5301
IDLE = 20
"""Seconds in which idle peers are watched, from their handshakes on."""


class Bench:
    """The machines with the servers on them, for all loads of a run."""

    def __init__(self, seconds, copy_megabytes):
        self.seconds = seconds
        self.lab = topology.Lab()
        self.scratch = self.lab.scratch
        self.samba = samba.Samba(self.lab.server, topology.SERVER)
        self._copy_bytes = copy_megabytes * 10**6
        self._original = None

    def original(self):
        """A file of random bytes for copies, and its digest. The file server has it too."""
        if not self._original:
            path = self.scratch / "original"
            with open(path, "wb") as file:
                for at in range(0, self._copy_bytes, 10**6):
                    file.write(os.urandom(min(10**6, self._copy_bytes - at)))
            shutil.copyfile(path, self.samba.data / "original")
            self._original = path, digest(path)
        return self._original

    def iperf_servers(self, count=1):
        """Fresh ones for each measurement: one whose client vanished stays busy."""
        return iperf.Servers(self.lab.server, topology.SERVER, self.scratch, count)

    def iperf_result(self, client, *options):
        with self.iperf_servers() as servers:
            return iperf.measure(client, servers, *options, seconds=self.seconds)


class Cpu:
    """The CPU seconds of a gateway within a `with`."""

    def __init__(self, gateway):
        self._gateway = gateway

    def __enter__(self):
        self._before = self._gateway.cpu_seconds()
        return self

    def __exit__(self, *_):
        self.seconds = self._gateway.cpu_seconds() - self._before

    def microseconds_per(self, count):
        return 1e6 * self.seconds / count


def bulk(*options):
    """One client's iperf3."""
    def load(bench, gateway, clients):
        with Cpu(gateway) as cpu:
            result = bench.iperf_result(clients[0], *options)
        figures = {"mbit": result.megabits, "us_per_mb": cpu.microseconds_per(result.bytes / 1e6)}
        return figures | lost(result)
    return load


def packets(*options):
    """One client's iperf3 with packets so small that their number is what costs."""
    def load(bench, gateway, clients):
        with Cpu(gateway) as cpu:
            result = bench.iperf_result(clients[0], *SMALL_UDP, *options)
        count = result.bytes / SMALL
        rate = result.megabits * 1e6 / 8 / SMALL
        return {"kpps": rate / 1e3, "us_per_packet": cpu.microseconds_per(count)} | lost(result)
    return load


def crowd(*options):
    """An iperf3 of each client, all at once."""
    def load(bench, gateway, clients):
        with bench.iperf_servers(len(clients)) as servers, Cpu(gateway) as cpu:
            results = iperf.measure_all(
                clients, servers, bench.scratch, *options, seconds=bench.seconds)
        total = sum(result.bytes for result in results)
        return {"mbit": sum(result.megabits for result in results),
                "us_per_mb": cpu.microseconds_per(total / 1e6)}
    return load


def ping(beside=None):
    """Echo requests to the server, beside an iperf3 with these options if they are given."""
    def load(bench, gateway, clients):
        command = ["ping", "-n", "-i", PING_EVERY, "-w", bench.seconds, topology.SERVER]
        with bench.iperf_servers() as servers:
            if beside is not None:
                busy = clients[0].machine.start(
                    *iperf.command(servers, *beside, seconds=bench.seconds + 1),
                    output=bench.scratch / "beside.json")
                time.sleep(0.5)  # until TCP has found its speed
            output = clients[0].machine.run(*command, check=False).stdout
            if beside is not None:
                busy.wait(bench.seconds + 30)
        times = [float(each) for each in re.findall(r"time=([\d.]+) ms", output)]
        (loss,) = re.findall(r"([\d.]+)% packet loss", output)
        return {"ping": statistics.median(times), "ping_p99": statistics.quantiles(times, n=100)[-1],
                "lost": float(loss)}
    return load


def copy(dialect, up):
    """A file to or from the file server, with Samba's client. What arrives is what was sent."""
    def load(bench, gateway, clients):
        client = clients[0]
        original, expected = bench.original()
        arrived = bench.samba.data / "copy" if up else bench.scratch / "copy"
        command = f"put {original} copy" if up else f"get original {arrived}"
        with Cpu(gateway) as cpu:
            began = time.monotonic()
            client.machine.run(
                "smbclient", f"//{topology.SERVER}/{smb.SHARE}", "-U",
                f"{client.name}%{samba.PASSWORD}", "-s", "/dev/null", "-m", dialect,
                "--option=client min protocol=NT1", "-c", command, timeout=900)
            took = time.monotonic() - began
        size = arrived.stat().st_size
        if digest(arrived) != expected:
            raise ValueError(f"the copy ({dialect}, {'up' if up else 'down'}) differs")
        arrived.unlink()
        return {"mbit": size * 8 / took / 1e6, "us_per_mb": cpu.microseconds_per(size / 1e6)}
    return load


def beside_a_flood(load):
    """A load of the first client, alone and while the second one sends UDP as fast as it can."""
    def measure(bench, gateway, clients):
        alone = load(bench, gateway, clients)
        with iperf.Servers(bench.lab.server, topology.SERVER, bench.scratch, first=FLOOD_PORT) as servers:
            flood = clients[1].machine.start(
                *iperf.command(servers, *UDP, port=FLOOD_PORT, seconds=900),
                output=bench.scratch / "flood.json")
            try:
                time.sleep(0.5)  # until the queues are as full as they get
                beside = load(bench, gateway, clients)
            finally:
                flood.stop()
        return {"mbit": beside["mbit"], "kept": 100 * beside["mbit"] / alone["mbit"]}
    return measure


def idle(bench, gateway, clients):
    """Many peers that are connected and have nothing to say."""
    generator = clients[0]
    before = gateway.process.resident_kilobytes()
    generator.connect_all(gateway)
    with Cpu(gateway) as cpu:
        time.sleep(IDLE)
    resident = gateway.process.resident_kilobytes() - before
    return {"core": 100 * cpu.seconds / IDLE, "kb_each": resident / len(generator.peers)}


def handshakes(bench, gateway, clients):
    """Handshakes of many peers (handshakes.rs)."""
    with Cpu(gateway) as cpu:
        done = clients[0].run(gateway, bench.seconds)
    return {"per_second": done / bench.seconds, "us_each": cpu.microseconds_per(done)}


def lost(result):
    return {} if result.lost_percent is None else {"lost": result.lost_percent}


def digest(path):
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


@dataclasses.dataclass(frozen=True)
class Load:
    """A load: what it does, how many clients of which kinds it wants, and whether the SMB hook
    has something to do in it."""

    measure: Callable
    count: int = 1
    clients: tuple = ("wireguard-go", "offloading")
    hooked: bool = False


LOADS = {
    "tcp up": Load(bulk()),
    "tcp down": Load(bulk("-R")),
    "4 streams up": Load(bulk("-P4")),
    "4 streams down": Load(bulk("-P4", "-R")),
    "udp up": Load(bulk(*UDP)),
    "udp down": Load(bulk(*UDP, "-R")),
    "small packets up": Load(packets()),
    "small packets down": Load(packets("-R")),
    "4 clients up": Load(crowd(), count=4),
    "4 clients down": Load(crowd("-R"), count=4),
    "ping": Load(ping()),
    "ping beside tcp up": Load(ping(beside=())),
    "ping beside tcp down": Load(ping(beside=("-R",))),
    "smb1 copy up": Load(copy("NT1", up=True), hooked=True),
    "smb1 copy down": Load(copy("NT1", up=False), hooked=True),
    "smb3 copy up": Load(copy("SMB3", up=True), hooked=True),
    "smb3 copy down": Load(copy("SMB3", up=False), hooked=True),
    "tcp up beside a flood": Load(beside_a_flood(bulk()), count=2),
    "smb3 copy down beside a flood": Load(beside_a_flood(copy("SMB3", up=False)), count=2),
    # With the 20 handshakes a second that WireGuard lets each source begin under load, no gateway
    # is held up for want of peers.
    "handshakes": Load(handshakes, count=512, clients=("generator",)),
    "10,000 idle peers": Load(idle, count=10_000, clients=("generator",)),
}

QUICK = ("tcp up", "tcp down", "ping", "smb3 copy down", "handshakes")
