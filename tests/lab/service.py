"""vcgate as a service of a systemd that is really booted: this machine's own system in a container,
with changes in memory, in the network of the lab's gateway. It needs no download and boots in seconds."""

import pathlib
import signal

from .gateway import VCGATE, Vcgate
from .net import Process, run, wait_for

PACKAGING = pathlib.Path(__file__).resolve().parents[2] / "packaging"
FILES = {VCGATE: "/usr/local/bin/vcgate", PACKAGING / "vcgate.service": "/etc/systemd/system/vcgate.service",
         PACKAGING / "vcgate.sysusers": "/etc/sysusers.d/vcgate.conf"}
NAME = "vclboot"
# In a mount namespace of its own, so that nothing is left of it. As on any machine with udev, all users
# may open the TUN driver's file.
BOOT = """
mount --make-rprivate /
mkdir -p /run/systemd/nspawn
mount -t tmpfs tmpfs /run/systemd/nspawn
mount -t tmpfs tmpfs "$1"
mkdir "$1"/changes "$1"/work "$1"/root
mount -t overlay overlay -o lowerdir=/,upperdir="$1"/changes,workdir="$1"/work "$1"/root
rm -f "$1"/root/etc/machine-id
mknod -m 666 "$1"/tun c 10 200
cd "$1"
shift
exec systemd-nspawn "$@"
"""


class Booted:
    """A booted system."""

    def __init__(self, machine, directory, binds):
        self.root = pathlib.Path(directory) / "boot"
        self.root.mkdir()
        binds = [f"--bind={source}:{target}" for source, target in binds.items()]
        self.process = Process(
            ["unshare", "--mount", "sh", "-euc", BOOT, "sh", self.root, "--quiet", "--boot", "--directory=root",
             f"--machine={NAME}", "--register=no", "--keep-unit", f"--network-namespace-path=/run/netns/{machine.name}",
             "--capability=CAP_NET_ADMIN,CAP_NET_RAW,CAP_SYS_ADMIN", f"--bind={self.root}/tun:/dev/net/tun", *binds,
             # nspawn 252 does not know these calls.
             "--system-call-filter=landlock_create_ruleset landlock_add_rule landlock_restrict_self",
             # The network is there; nothing else of this machine is to start.
             "systemd.unit=basic.target", *(f"systemd.mask={unit}-wait-online.service" for unit in
                                            ("systemd-networkd", "NetworkManager"))],
            output=self.root.with_suffix(".log"))
        self.process.wait_for_line(r"Reached target.*basic\.target", 60)
        # unshare and sh have become systemd-nspawn.
        children = pathlib.Path(f"/proc/{self.process.pid}/task/{self.process.pid}/children")
        (self.init,) = children.read_text().split()

    def run(self, *argv, **options):
        return run("nsenter", "--all", f"--target={self.init}", *argv, **options)

    def stop(self):
        self.process.stop(signal.SIGTERM, 30)


class Service(Vcgate):
    """The endpoint as the unit runs it."""

    files = FILES
    """Those of this machine that the container has elsewhere."""

    def __init__(self, lab, directory, **options):
        super().__init__(lab, directory, **options)
        self.booted = None

    def install(self):
        """Installs the program and the unit as `make install` does."""
        self.booted.run("systemd-sysusers")

    def boot(self):
        """Boots the system and installs the service, with the configuration that was written."""
        self.booted = Booted(self.machine, self.dir.parent, {self.dir: "/etc/vcgate", **self.files})
        self.process = self.booted.process
        self.install()
        self.booted.run("chown", "-R", "vcgate:", "/etc/vcgate")

    def systemctl(self, *argv, **options):
        return self.booted.run("systemctl", *argv, "vcgate", **options)

    def show(self, name):
        return self.systemctl("show", "--value", f"--property={name}").stdout.strip()

    def up(self, *_wrapper):
        """Started when `systemctl start` returns: clients can connect."""
        if not self.booted:
            self.boot()
        started = self.systemctl("start", check=False)
        if started.returncode != 0:
            raise RuntimeError(f"{started.stderr}{self.log()}")

    def log(self):
        return self.booted.run("journalctl", "--no-pager", "--output=cat", "--unit=vcgate").stdout

    def vcgate(self, *argv, **options):
        return self.booted.run("vcgate", *argv, "--config", "/etc/vcgate/vcgate.toml", **options)

    def is_back(self, pid):
        """Waits for another main process that serves clients."""
        wait_for("the service to be back",
                 lambda: self.show("MainPID") not in ("0", pid) and self.show("SubState") == "running", 30)

    def stop(self, sig=signal.SIGTERM):
        if self.booted:
            self.booted.stop()
        return 0
