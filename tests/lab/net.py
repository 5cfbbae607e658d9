"""Network namespaces, the links between them, and the processes in them.

Everything made here carries PREFIX in a name that is unique over the machine, so that what a killed
run left over is recognised and removed. This module does not know the purpose of the machines.
"""

import contextlib
import ctypes
import fcntl
import glob
import json
import os
import re
import shutil
import signal
import subprocess
import time

RUN = os.environ.get("VCGATE_LAB", "lab")
"""Runs of different kinds do not meet: each has names and a lock of its own."""
PREFIX = {"lab": "vcl", "soak": "vcs"}[RUN]
LOCK = f"/run/lock/vcgate-{RUN}"
CLONE_NEWNET = 0x40000000
_libc = ctypes.CDLL(None, use_errno=True)


def wait_for(what, condition, seconds=15, every=0.02):
    """Polls until `condition()` is true and returns what it returned; fails after `seconds`."""
    deadline = time.monotonic() + seconds
    while True:
        value = condition()
        if value:
            return value
        if time.monotonic() > deadline:
            raise TimeoutError(f"waited {seconds} s for {what}")
        time.sleep(every)


def run(*argv, check=True, **options):
    """Runs a command to its end; a failure shows what it printed."""
    options = {"text": True, "capture_output": True, "timeout": 120, **options}
    done = subprocess.run([str(word) for word in argv], **options)
    if check and done.returncode != 0:
        shown = " ".join(map(str, argv))
        raise RuntimeError(f"`{shown}` ended with {done.returncode}:\n{done.stdout}{done.stderr}")
    return done


class Process:
    """A long-running command whose output goes to a file. It leads a process group of its own:
    smbd signals its whole group when it ends."""

    def __init__(self, argv, output, **options):
        self.output = str(output)
        with open(self.output, "wb") as file:
            self._child = subprocess.Popen(
                [str(word) for word in argv],
                stdin=subprocess.DEVNULL, stdout=file, stderr=subprocess.STDOUT,
                start_new_session=True, **options)
        self.pid = self._child.pid

    def returncode(self):
        """The exit code, or None while it runs."""
        return self._child.poll()

    def text(self):
        with open(self.output, errors="replace") as file:
            return file.read()

    def wait_for_line(self, pattern, seconds=15):
        """Waits for a line of output; fails at once if the process ends without it."""
        def seen():
            found = re.search(pattern, self.text())
            if not found and self.returncode() is not None:
                raise RuntimeError(f"ended with {self.returncode()} before {pattern!r}:\n{self.text()}")
            return found
        return wait_for(f"{pattern!r} in {self.output}", seen, seconds)

    def wait(self, seconds=15):
        return self._child.wait(seconds)

    def send(self, sig):
        self._child.send_signal(sig)

    def stop(self, sig=signal.SIGTERM, seconds=10):
        """Sends `sig`, waits for the end and returns the exit code (SIGKILL after `seconds`)."""
        if self.returncode() is None:
            self._child.send_signal(sig)
        try:
            return self._child.wait(seconds)
        except subprocess.TimeoutExpired:
            self._child.kill()
            return self._child.wait()

    def cpu_seconds(self):
        """User and system time of all its threads so far."""
        with open(f"/proc/{self.pid}/stat") as file:
            fields = file.read().rsplit(")", 1)[1].split()
        return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")

    def resident_kilobytes(self):
        """Memory that it really has."""
        with open(f"/proc/{self.pid}/status") as file:
            return int(re.search(r"VmRSS:\s+(\d+) kB", file.read()).group(1))


class Namespace:
    """One machine of the lab."""

    def __init__(self, name):
        self.name = PREFIX + name
        run("ip", "netns", "add", self.name)
        # No duplicate address detection: an address works at once.
        for key, value in {"net.ipv6.conf.all.accept_dad": 0, "net.ipv6.conf.default.accept_dad": 0,
                           "net.ipv6.conf.default.accept_ra": 0}.items():
            self.sysctl(key, value)
        self.ip("link", "set", "lo", "up")

    def command(self, *argv):
        return ["ip", "netns", "exec", self.name, *argv]

    def run(self, *argv, **options):
        return run(*self.command(*argv), **options)

    def start(self, *argv, output, **options):
        return Process(self.command(*argv), output, **options)

    def ip(self, *argv, **options):
        return run("ip", "-n", self.name, *argv, **options)

    def ip_json(self, *argv):
        return json.loads(self.ip("-j", *argv).stdout or "[]")

    def sysctl(self, key, value=None):
        """Reads a sysctl of this namespace, or sets it."""
        if value is not None:
            self.run("sysctl", "-qw", f"{key}={value}")
        return self.run("sysctl", "-n", key).stdout.strip()

    def capture(self, interface, expression, output):
        """Starts tcpdump; what it sees is in the `text()` of the process, a line a packet."""
        tcpdump = self.start("tcpdump", "-n", "-l", "-Z", "root", "--immediate-mode", "-i", interface,
                             expression, output=output)
        tcpdump.wait_for_line("listening on")
        return tcpdump

    def ping(self, target, *options, seconds=1):
        """One echo request; the finished `ping`, to look at its output and exit code."""
        return self.run("ping", "-n", "-c1", f"-W{seconds}", *options, target, check=False)

    def reaches(self, target, seconds=10):
        """Waits until `target` answers a ping."""
        wait_for(f"{target} to answer {self.name}",
                 lambda: self.ping(target).returncode == 0, seconds)

    def listening(self, port, seconds=15, udp=False):
        """Waits for a listener on `port`."""
        flags = "-Hlun" if udp else "-Hltn"
        wait_for(f"port {port} of {self.name}",
                 lambda: self.run("ss", flags, f"sport = :{port}").stdout.strip(), seconds)

    @contextlib.contextmanager
    def entered(self):
        """Sockets that this thread makes inside the `with` belong to this namespace, for good."""
        with open("/proc/thread-self/ns/net") as home, open(f"/run/netns/{self.name}") as here:
            _setns(here)
            try:
                yield
            finally:
                _setns(home)

    def remove(self):
        _remove_namespace(self.name)


def _setns(file):
    if _libc.setns(file.fileno(), CLONE_NEWNET) != 0:
        raise OSError(ctypes.get_errno(), "setns")


def link(machine, name, bridge, *addresses, hardware=None):
    """A veth pair: interface `name` of `machine`, plugged into the switch `bridge`."""
    port = machine.name
    # A namespace that was deleted goes a little later, and its interfaces with it.
    wait_for(f"the last {port} to be gone",
             lambda: bridge.ip("link", "show", port, check=False).returncode != 0)
    machine.ip("link", "add", name, *(["address", hardware] if hardware else []), "type", "veth",
               "peer", "name", port, "netns", bridge.name)
    bridge.ip("link", "set", port, "master", "br0", "up")
    machine.ip("link", "set", name, "up")
    for address in addresses:
        machine.ip("address", "add", address, "dev", name)


def bridge(name, *addresses):
    """A namespace that is a switch. Its own interface `br0` sees what any host sees; each port
    is named after the machine at its other end."""
    switch = Namespace(name)
    switch.ip("link", "add", "br0", "type", "bridge")
    switch.ip("link", "set", "br0", "up")
    for address in addresses:
        switch.ip("address", "add", address, "dev", "br0")
    return switch


@contextlib.contextmanager
def alone():
    """Holds the machine's lab: one run at a time, and no leftovers of a killed one."""
    # Only systemd makes the folder: a container may lack it.
    os.makedirs(os.path.dirname(LOCK), exist_ok=True)
    with open(LOCK, "w") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            print("another run of the lab is going on; waiting for its end", flush=True)
            fcntl.flock(lock, fcntl.LOCK_EX)
        remove_everything()
        try:
            yield
        finally:
            remove_everything()


def remove_everything():
    """Ends the processes in our namespaces, by pid, and removes the namespaces and their files."""
    for line in run("ip", "netns", "list").stdout.splitlines():
        name = line.split()[0]
        if name.startswith(PREFIX):
            _remove_namespace(name)
    for path in glob.glob(f"/run/wireguard/{PREFIX}*.sock"):
        os.unlink(path)
    remove_kept_flows()
    remove_kept_connections()
    for path in glob.glob(f"/tmp/{PREFIX}-*") + glob.glob(f"/etc/netns/{PREFIX}*"):
        shutil.rmtree(path, ignore_errors=True)


def remove_kept_flows():
    """Files in /run that a vcgate has left for its next run."""
    for kind in ("flows", "peers", "claim"):
        for path in glob.glob(f"/run/vcgate/{PREFIX}*.{kind}"):
            os.unlink(path)


def remove_kept_connections():
    """The same of files that survive a reboot."""
    for path in glob.glob(f"/var/lib/vcgate/{PREFIX}*.connections*"):
        os.unlink(path)


def _remove_namespace(name):
    def pids():
        return [int(pid) for pid in run("ip", "netns", "pids", name).stdout.split()]

    for sig in (signal.SIGTERM, signal.SIGKILL):
        for pid in pids():
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, sig)
        with contextlib.suppress(TimeoutError):
            wait_for(f"the processes of {name} to end", lambda: not pids(), 5)
            break
    # An open socket keeps the namespace alive after this; at least its links are gone.
    for interface in json.loads(run("ip", "-n", name, "-j", "link", "show", "type", "veth").stdout or "[]"):
        if interface:
            run("ip", "-n", name, "link", "delete", interface["ifname"])
    run("ip", "netns", "delete", name)
