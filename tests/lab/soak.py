"""The crowd of SMB1 clients for a long time, at an office's pace, while the gateway is killed again and
again and started at once. No user loses a connection, and the gateway's memory does not grow.

    tests/run proof --minutes 60 --kill-every 60 [--clients 100]

It needs little of the machine, and runs beside other runs of the lab.
"""

import dataclasses
import pathlib
import re
import signal
import statistics
import tempfile
import time

from . import crowd, net, topology
from .gateway import Vcgate
from .samba import Samba
from .tunnels import Tunnels

PACE = crowd.Pace(session=240, pause=90, answer=60)
SETTLED = 300
"""Seconds after which the memory must have the size that it keeps."""
GROWTH = 1.05
SLOW = 30
"""Seconds. The server alone would take 35 for a file of a dead connection, and then refuse."""
EXPECTED = "an earlier run was killed"


@dataclasses.dataclass
class Sample:
    """One life of the gateway, immediately before its end."""

    at: float
    resident: int
    flows: int
    journal: int
    cpu: float
    logons: int
    unread: int
    """Logons in flows that the hook no longer reads."""
    restart: float = None
    """Seconds from the kill until the next process answers on its control socket."""

    def cells(self):
        restart = "-" if self.restart is None else f"{self.restart:.2f}"
        return (f"{self.at / 60:.1f}", self.resident, self.flows, self.journal, f"{self.cpu:.1f}", self.logons,
                self.unread, restart)


HEAD = ("minute", "RSS kB", "flows", "journal B", "CPU s", "logons", "unread", "restart s")


class Soak:
    """The lives of one gateway."""

    def __init__(self, gateway):
        self._gateway = gateway
        self._began = time.monotonic()
        self.samples = []
        self.warnings = []

    def watch(self, seconds, every, kill):
        """Takes a sample `every` seconds for `seconds`, and kills the gateway after it if `kill`."""
        print(*HEAD, sep="\t", flush=True)
        while (left := self._began + seconds - time.monotonic()) > 0:
            time.sleep(min(every, left))
            sample = self._sample()
            if kill and left > every:
                sample.restart = self._restart()
            self.samples.append(sample)
            print(*sample.cells(), sep="\t", flush=True)
        self._note_warnings()

    def _sample(self):
        process, smb = self._gateway.process, self._gateway.json("smb")
        journals = pathlib.Path("/run/vcgate").glob(f"{self._gateway.name}*.flows")
        return Sample(
            at=time.monotonic() - self._began, resident=process.resident_kilobytes(),
            flows=len(self._gateway.json("flows")), journal=sum(file.stat().st_size for file in journals),
            cpu=process.cpu_seconds(), logons=smb["session_setups"],
            unread=smb["unread_setups"])

    def _restart(self):
        killed = time.monotonic()
        self._gateway.stop(signal.SIGKILL)
        self._note_warnings()
        self._gateway.up()
        return time.monotonic() - killed

    def _note_warnings(self):
        lines = re.findall(r".*(?:WARN|ERROR).*", self._gateway.process.text())
        self.warnings += [line for line in lines if EXPECTED not in line]


def problems(soak, figures, log):
    """Violations of the expectations."""
    found = list(figures.lost)
    if zeros := log.zero_logons():
        found.append(f"{zeros} session setups with VcNumber 0 reached the server")
    if kills := set(log.kills()):
        found.append(f"the server cut off {len(kills)} connections")
    late = [seconds for seconds in figures.recovered + figures.recovered_stealth if seconds > SLOW]
    if late:
        found.append(f"{len(late)} clients waited for their files after a crash: {late}")
    settled = [sample.resident for sample in soak.samples if sample.at >= SETTLED]
    if settled and max(settled) > settled[0] * GROWTH:
        found.append(f"the memory grew from {settled[0]} to {max(settled)} kB")
    return found + [f"warning: {line}" for line in soak.warnings]


def summary(soak, figures):
    restarts = [sample.restart for sample in soak.samples if sample.restart is not None]
    opened = figures.opened + figures.recovered + figures.recovered_stealth
    return "\n".join((
        f"kills: {len(restarts)}, restart {_times(restarts)}",
        f"sessions: {figures.sessions}, logons: {figures.logons}, crashes: {figures.crashes}",
        f"copies, digests equal: {figures.copies}, {figures.bytes / 1e6:.0f} MB",
        f"exclusive open: {_times(opened)}",
        f"connections lost: {len(figures.lost)}"))


def _times(seconds):
    return f"median {statistics.median(seconds):.2f} s, max {max(seconds):.2f} s" if seconds else "-"


def main(clients, minutes, kill_every):
    """Runs it, and returns whether there were problems."""
    seconds = minutes * 60
    with net.alone():
        lab = topology.Lab()
        tunnels = Tunnels(lab, clients)
        lab.new_gateway()
        samba = Samba(lab.server, topology.SERVER)
        gateway = Vcgate(lab, tempfile.mkdtemp(dir=lab.scratch))
        try:
            gateway.start(tunnels.clients)
            tunnels.connect(gateway)
            log = samba.mark()
            finish = crowd.begin(tunnels.clients, samba.address, seconds, PACE)
            soak = Soak(gateway)
            soak.watch(seconds, kill_every or 60, kill=bool(kill_every))
            figures = sum(finish(), crowd.Figures())
            print(summary(soak, figures))
            found = problems(soak, figures, log)
        finally:
            tunnels.disconnect()
            if gateway.process:
                gateway.stop()
            samba.stop()
    print(*found or ["passed"], sep="\n")
    return bool(found)
