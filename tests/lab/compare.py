"""Throughput of the gateways side by side, in the same namespaces: `python3 -m lab.compare` in tests/.

The kinds take turns, so that what else goes on hits all alike; a figure is the median of the rounds.
"CPU" is the time of the gateway's process for each megabyte that arrived: the kernel's part in
interrupts is not in it, for any kind.
"""

import argparse
import pathlib
import shutil
import statistics
import tempfile

from . import iperf, net, topology
from .gateway import Boringtun, Vcgate, WireguardGo

KINDS = {"vcgate": Vcgate, "wireguard-go+nft": WireguardGo, "boringtun-cli+nft": Boringtun}
SHAPES = {
    "tcp up": [],
    "tcp down": ["-R"],
    "4 tcp up": ["-P4"],
    "4 tcp down": ["-P4", "-R"],
    "udp 1300 up": ["-u", "-b", "0", "-l", "1300"],
    "udp 1300 down": ["-u", "-b", "0", "-l", "1300", "-R"],
}


def measure(lab, kind, shape, seconds, servers, directory):
    """One figure: (Mbit/s, CPU milliseconds a megabyte)."""
    clients = lab.clients(1)
    lab.new_gateway()
    gateway = KINDS[kind](lab, directory)
    gateway.start(clients)
    try:
        clients[0].connect(gateway)
        before = gateway.cpu_seconds()
        result = iperf.measure(clients[0], servers, *SHAPES[shape], seconds=seconds)
        cpu = gateway.cpu_seconds() - before
    finally:
        clients[0].disconnect()
        gateway.stop()
    return result.megabits, 1000 * cpu / (result.bytes / 1e6)


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--seconds", type=int, default=3, help="of each measurement")
    parser.add_argument("--shape", choices=SHAPES, action="append", help="default: all")
    arguments = parser.parse_args()
    kinds = [kind for kind, made in KINDS.items() if shutil.which(made.program[0])]
    for kind in KINDS.keys() - kinds:
        print(f"{kind} is not here: build or install it, or name its program with $VCGATE or $BORINGTUN")
    with net.alone():
        lab = topology.Lab()
        directory = pathlib.Path(tempfile.mkdtemp(prefix=f"{net.PREFIX}-"))
        servers = iperf.Servers(lab.server, topology.SERVER, directory)
        for shape in arguments.shape or SHAPES:
            figures = {kind: [] for kind in kinds}
            for _ in range(arguments.rounds):
                for kind in kinds:
                    figures[kind].append(
                        measure(lab, kind, shape, arguments.seconds, servers, directory))
            show(shape, figures)


def show(shape, figures):
    """A line for each kind, with the first kind's ratio to it."""
    medians = {kind: [statistics.median(column) for column in zip(*rounds)]
               for kind, rounds in figures.items()}
    first = next(iter(medians))
    print(shape)
    for kind, (megabits, cpu) in medians.items():
        ratio = medians[first][0] / megabits
        print(f"  {kind:18} {megabits:7.0f} Mbit/s  {cpu:6.2f} ms CPU/MB"
              + (f"   {first} is {ratio:.2f} times as fast, with"
                 f" {medians[first][1] / cpu:.2f} times the CPU" if kind != first else ""), flush=True)


if __name__ == "__main__":
    main()
