"""Compares gateways: vcgate, boringtun-cli, gotatun-cli and wireguard-go, each in front of plain
clients (wireguard-go) and of clients with offloads (client.rs).

The gateways take turns, each on a fresh machine, so that other load affects all of them alike; a figure
is the median of the rounds. What holds from run to run are the ratios of CPU; throughput and ping
differ by a third. The CPU is that of the gateway's process, user and system, all threads. The kernel's
work in softirq is charged to whoever it interrupts or wakes it: a part of the neighbours' is in the
figure, a part of the gateway's is not.
"""

import argparse
import os
import pathlib
import signal
import sys
import time
import traceback

from lab import net
from lab.gateway import ROOT

from . import kinds, plot
from .loads import LOADS, QUICK, Bench
from .report import Report


def main():
    arguments = parse()
    # A run that is terminated cleans up as well.
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    versions = {gateway: kinds.version(gateway) for gateway in arguments.gateway}
    report = Report(versions, vars(arguments))
    report.say_missing()
    began = time.monotonic()
    with net.alone():
        bench = Bench(arguments.seconds, arguments.copy_megabytes)
        for name in arguments.load:
            compare(bench, name, arguments, report)
            report.show(name)
            report.write(arguments.output / "compare.json")
            plot.write(report, arguments.output / "compare.svg")
            for file in arguments.output.glob("compare.*"):
                give_to_user(file)
    print(f"{(time.monotonic() - began) / 60:.1f} minutes; written to {arguments.output}")
    return 1 if report.failures else 0


def compare(bench, name, arguments, report):
    """All rounds of one load."""
    load = LOADS[name]
    gateways = [gateway for gateway in report.present
                if load.hooked or gateway != kinds.HOOK_OFF]
    for turn in range(arguments.rounds):
        for clients in load.clients:
            if clients in arguments.clients or clients == "generator":
                # No gateway always comes first.
                first = turn % max(len(gateways), 1)
                for gateway in gateways[first:] + gateways[:first]:
                    attempt(bench, report, name, clients, gateway)


def attempt(bench, report, name, clients, gateway):
    """One measurement. A failure is a result too: it is reported, and the others continue."""
    try:
        report.add(name, clients, gateway, measure(bench, LOADS[name], clients, gateway))
    except Exception as error:
        report.fail(name, clients, gateway, error)
        traceback.print_exc()


def measure(bench, load, clients, gateway):
    """The figures of one load on a fresh gateway."""
    clients, peers = kinds.CLIENTS[clients](bench.lab, load.count)
    bench.lab.new_gateway()
    gateway = kinds.GATEWAYS[gateway](bench.lab, bench.scratch)
    try:
        gateway.start(peers)
        for client in clients:
            client.connect(gateway)
        return load.measure(bench, gateway, clients)
    finally:
        for client in clients:
            client.disconnect()
        if gateway.process:
            gateway.stop()


def parse():
    parser = argparse.ArgumentParser(
        prog="benches/compare", description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true",
                        help="one short round of the most telling loads: two minutes")
    parser.add_argument("--rounds", type=int, help="default: 3")
    parser.add_argument("--seconds", type=int, help="of each measurement; default: 5")
    parser.add_argument("--copy-megabytes", type=int, metavar="N",
                        help="the size of the file in copies; default: 200")
    parser.add_argument("--load", choices=LOADS, action="append", help="default: all")
    parser.add_argument("--gateway", choices=kinds.GATEWAYS, action="append", help="default: all")
    parser.add_argument("--clients", choices=("wireguard-go", "offloading"), action="append",
                        help="default: both")
    parser.add_argument("--output", type=pathlib.Path, default=ROOT / "target/compare",
                        help="where compare.json and compare.svg are written")
    arguments = parser.parse_args()
    defaults = {
        "rounds": 1 if arguments.quick else 3,
        "seconds": 2 if arguments.quick else 5,
        "copy_megabytes": 50 if arguments.quick else 200,
        "load": list(QUICK if arguments.quick else LOADS),
        "gateway": list(kinds.GATEWAYS),
        "clients": ["wireguard-go", "offloading"],
    }
    for name, value in defaults.items():
        if getattr(arguments, name) is None:
            setattr(arguments, name, value)
    if not arguments.output.exists():
        arguments.output.mkdir(parents=True)
        give_to_user(arguments.output)
    return arguments


def give_to_user(path):
    """Gives a file to the user who called sudo, if one did: what this user builds stays this user's."""
    if "SUDO_UID" in os.environ:
        os.chown(path, int(os.environ["SUDO_UID"]), int(os.environ["SUDO_GID"]))


if __name__ == "__main__":
    sys.exit(main())
