"""The proof at scale: a crowd of SMB1 clients, each with its own tunnel, against one server,
with the hook and, shorter, without it.

    tests/run proof [--clients 100] [--seconds 300] [--seconds-off 60]
    tests/run proof --minutes 60 [--kill-every 60] [--clients 100]    (soak.py)

Clients log on with VcNumber 0 and extended security, copy both ways, log off, or crash: their
machine is gone without FIN or RST, comes back and needs the file that its old connection still
has open, exclusively.
"""

import argparse
import dataclasses
import pathlib
import signal
import statistics
import sys
import tempfile

from . import crowd, net, soak, topology
from .gateway import Vcgate
from .samba import Samba
from .tunnels import Tunnels

AT_ONCE = 10
"""Seconds. The server alone would take 35 for a file of a dead connection, and then refuse."""


@dataclasses.dataclass
class Run:
    """One crowd at work: what the users, the server and the gateway say of it."""

    hook: str
    seconds: float
    users: list
    zeros: int
    kills: list
    counted: dict
    shards: int
    cpu: float

    @property
    def total(self):
        return sum(self.users, crowd.Figures())

    def rows(self):
        total = self.total
        bypassed = {k: n for k, n in self.counted["bypassed"].items() if n}
        return {
            "clients": len(self.users),
            "seconds": round(self.seconds),
            "sessions ended well": total.sessions,
            "logons": total.logons,
            "copies, digests equal": total.copies,
            "megabytes": round(total.bytes / 1e6),
            "crashes": total.crashes,
            "connections lost": len(total.lost),
            "cut off by the server, as it says": len(self.kills),
            "VcNumber 0 at the server": self.zeros,
            "exclusive open, ordinary": _times(total.opened),
            "after a crash, RST": _times(total.recovered),
            "after a crash, silence": _times(total.recovered_stealth),
            "gateway: session setups": self.counted["session_setups"],
            "gateway: zeros seen": self.counted["zero_seen"],
            "gateway: rewritten": self.counted["rewritten"],
            "gateway: stale probed": self.counted["stale_probed"],
            "gateway: stale alive": self.counted["stale_alive"],
            "gateway: stale reset": self.counted["stale_reset"],
            "gateway: bypassed": bypassed or 0,
            "gateway: shards": self.shards,
            "gateway: CPU seconds": round(self.cpu, 1),
        }


def _times(seconds):
    if not seconds:
        return "-"
    return f"{len(seconds)}: median {statistics.median(seconds):.2f} s, max {max(seconds):.2f} s"


def run(lab, tunnels, hook, seconds):
    """One crowd at work, on a fresh gateway and a fresh server."""
    lab.new_gateway()
    directory = pathlib.Path(tempfile.mkdtemp(dir=lab.scratch))
    samba = Samba(lab.server, topology.SERVER)
    gateway = Vcgate(lab, directory, hook=hook)
    try:
        gateway.start(tunnels.clients)
        tunnels.connect(gateway)
        log = samba.mark()
        users = crowd.work(tunnels.clients, samba.address, seconds)
        return Run(hook, seconds, users, log.zero_logons(), sorted(set(log.kills())),
                   gateway.json("smb"), gateway.json("status")["shards"], gateway.cpu_seconds())
    finally:
        tunnels.disconnect()
        if gateway.process:
            gateway.stop()
        samba.stop()


def problems(assign, off):
    """Violations of the expectations, with the hook and without it."""
    total = assign.total
    found = list(total.lost)
    if assign.zeros:
        found.append(f"{assign.zeros} session setups with VcNumber 0 reached the server")
    if assign.kills:
        found.append(f"the server cut off {len(assign.kills)} connections")
    late = [s for s in total.recovered + total.recovered_stealth if s > AT_ONCE]
    if late:
        found.append(f"{len(late)} clients waited for their files after a crash: {late}")
    if not (total.recovered and total.recovered_stealth):
        found.append("no user came back after a crash")
    # Some may crash before their first session ends.
    idle = sum(user.logons == 0 for user in assign.users)
    if idle:
        found.append(f"{idle} clients never logged on")
    if not off.total.lost:
        found.append("no connection was lost without the hook: this proves nothing")
    return found


def table(runs):
    """A column for each run."""
    columns = [run.rows() for run in runs]
    lines = [("", *(f"hook {run.hook}" for run in runs))]
    lines += [(name, *(str(column[name]) for column in columns)) for name in columns[0]]
    widths = [max(map(len, column)) for column in zip(*lines)]
    return "\n".join("  ".join(cell.ljust(width) for cell, width in zip(line, widths)).rstrip()
                     for line in lines)


def main():
    parser = argparse.ArgumentParser(prog="tests/run proof", description=__doc__.split("\n\n")[0])
    parser.add_argument("--clients", type=int, default=100)
    parser.add_argument("--seconds", type=float, default=300, help="with the hook")
    parser.add_argument("--seconds-off", type=float, default=60, help="without it")
    parser.add_argument("--minutes", type=float, help="a soak instead: slower users, for so long")
    parser.add_argument("--kill-every", type=float, metavar="SECONDS", help="kill the gateway of the soak")
    arguments = parser.parse_args()
    # A run that is terminated cleans up as well.
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    if arguments.minutes:
        return soak.main(arguments.clients, arguments.minutes, arguments.kill_every)
    with net.alone():
        lab = topology.Lab()
        tunnels = Tunnels(lab, arguments.clients)
        assign = run(lab, tunnels, "assign", arguments.seconds)
        off = run(lab, tunnels, "off", arguments.seconds_off)
    print(table([assign, off]))
    found = problems(assign, off)
    print(*found or ["proven"], sep="\n")
    return bool(found)


if __name__ == "__main__":
    sys.exit(main())
