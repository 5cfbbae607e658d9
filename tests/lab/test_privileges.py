"""The rights of the running process: few, and it keeps working with them."""

import json
import os
import pathlib
import re
import shutil
import sys
import tempfile

import pytest

from . import topology
from .net import wait_for

# An ordinary user of this machine, as the service has one.
USER = 65534
CAPABILITIES = "+net_admin,+net_raw,+net_bind_service"
# The folders and the device that systemd makes for the service, in a mount namespace of its own.
SERVICE = ("unshare", "--mount", "sh", "-ec",
           "for dir in /run/vcgate /run/wireguard /var/lib/vcgate; do mkdir -p $dir; "
           f"mount -t tmpfs -o mode=0700,uid={USER} tmpfs $dir; done; "
           "mknod -m 666 /run/vcgate/tun c 10 200; mount --bind /run/vcgate/tun /dev/net/tun; exec \"$@\"", "sh",
           "setpriv", f"--reuid={USER}", f"--regid={USER}", "--clear-groups", "--bounding-set", f"-all,{CAPABILITIES}",
           "--inh-caps", CAPABILITIES, "--ambient-caps", CAPABILITIES)
# Runs a program for which the kernel has no landlock: landlock_create_ruleset fails with ENOSYS.
WITHOUT_LANDLOCK = """
import ctypes, os, struct, sys
code = [(0x20, 0, 0, 0), (0x15, 0, 1, 444), (0x06, 0, 0, 0x00050000 | 38), (0x06, 0, 0, 0x7fff0000)]
program = ctypes.create_string_buffer(b"".join(struct.pack("HBBI", *line) for line in code))
filter = ctypes.create_string_buffer(struct.pack("HxxxxxxP", len(code), ctypes.addressof(program)))
libc = ctypes.CDLL(None, use_errno=True)
zero = ctypes.c_ulong(0)
assert libc.prctl(38, ctypes.c_ulong(1), zero, zero, zero) == 0
assert libc.prctl(22, ctypes.c_ulong(2), filter) == 0, ctypes.get_errno()
os.execv(sys.argv[1], sys.argv[1:])
"""


def threads(pid):
    """The kernel's state of each thread: its name, or "control" for the first one, and its status."""
    found = []
    for task in pathlib.Path(f"/proc/{pid}/task").iterdir():
        status = dict(re.findall(r"^(\w+):\t(.*)$", (task / "status").read_text(), re.M))
        found.append(("control" if task.name == str(pid) else status["Name"], status))
    return found


def doctor(gateway, *wrapper):
    """The checks of the running process, by name."""
    done = gateway.machine.run(*wrapper, *gateway.program, "doctor", "--json", "--config", gateway.config, check=False)
    return of_process(done.stdout)


def of_process(report):
    checks = {check["name"]: check for check in json.loads(report)}
    return {name: check["verdict"] for name, check in checks.items() if name.startswith("process-")}


ALL_IN_FORCE = {f"process-{name}": "ok" for name in ("user", "capabilities", "calls", "files")}


def assert_confined(process, capabilities):
    """Each thread has a list of calls and no way to privileges, and only one has capabilities."""
    named = threads(process.pid)
    assert {name for name, _ in named} >= {"shard", "log", "control"}, named
    for name, status in named:
        assert (status["Seccomp"], status["NoNewPrivs"]) == ("2", "1"), (name, status)
        expected = capabilities if name == "control" else 0
        assert int(status["CapPrm"], 16) == int(status["CapEff"], 16) == expected, (name, status)


def test_root_keeps_few_rights_and_reads_only_its_folders(lab, start_gateway, tmp_path):
    first, second = clients = lab.clients(2)
    gateway = start_gateway([first], "vcgate")
    # CAP_NET_BIND_SERVICE, CAP_NET_ADMIN, CAP_NET_RAW
    assert_confined(gateway.process, 1 << 10 | 1 << 12 | 1 << 13)
    assert doctor(gateway) == ALL_IN_FORCE
    assert gateway.json("status")["confinement"]["user"] == os.geteuid()
    # A reload reads the configuration and keys.
    gateway.write(clients)
    assert f"peer {second.name}: added" in gateway.vcgate("reload").stdout
    second.connect(gateway)
    # It does not read a file elsewhere, and everything stays as it is.
    with tempfile.TemporaryDirectory() as elsewhere:
        key = pathlib.Path(elsewhere) / "psk.key"
        key.touch(0o600)
        key.write_text(gateway.keys.private)
        text = gateway.config.read_text()
        gateway.config.write_text(text + f'preshared_key_file = "{key}"\n')
        refused = gateway.vcgate("reload", check=False)
        assert refused.returncode == 1
        assert re.search(f"{key}.*reads only the folders.*restart the endpoint", refused.stderr), refused.stderr
        gateway.config.write_text(text)
    assert "has no changes" in gateway.vcgate("reload").stdout
    first.machine.reaches(topology.SERVER)


def test_a_user_of_its_own_does_all_that_the_service_needs(lab, make_gateway):
    first, second = clients = lab.clients(2)
    gateway = make_gateway("vcgate", address="auto")
    # The folders of pytest are for root only.
    with tempfile.TemporaryDirectory() as directory:
        gateway.dir = pathlib.Path(directory)
        gateway.config = gateway.dir / "vcgate.toml"
        gateway.write([first])
        (gateway.dir / "vcgate.log").touch()
        for path in [gateway.dir, *gateway.dir.rglob("*")]:
            shutil.chown(path, USER, USER)
        gateway.launch(*SERVICE)
        gateway.process.wait_for_line("ready.*peers=")
        inside = ("nsenter", "--mount", f"--target={gateway.process.pid}")
        wait_for("a process that is confined",
                 lambda: all(status["Seccomp"] == "2" for _, status in threads(gateway.process.pid)))
        # CAP_NET_BIND_SERVICE and CAP_NET_ADMIN: the machine's own address needs no packet sockets.
        assert_confined(gateway.process, 1 << 10 | 1 << 12)
        assert {status["Uid"].split()[0] for _, status in threads(gateway.process.pid)} == {str(USER)}
        first.connect(gateway)
        first.machine.reaches(topology.SERVER)
        assert doctor(gateway, *inside) == ALL_IN_FORCE

        def vcgate(*argv):
            done = gateway.machine.run(*inside, *gateway.program, *argv, "--config", gateway.config, check=False)
            assert done.returncode == 0, done.stderr
            return done.stdout

        # Root adds a peer: the endpoint reads the new files at the next reload.
        vcgate("peer", "add", "anna")
        assert "has no changes" in vcgate("reload")
        assert (gateway.dir / "keys/anna.psk").stat().st_uid == USER
        vcgate("forward", "add", "8443", f"{first.inner}:443")
        # Parts that others remove come back: nftables by the helper, /proc/sys by the process.
        gateway.machine.run("nft", "flush", "ruleset")
        gateway.process.wait_for_line("restored .* the nftables table ip vcgate_vclg0")
        gateway.machine.sysctl("net.ipv4.conf.lan.forwarding", 0)
        gateway.process.wait_for_line("restored .*net.ipv4.conf.lan.forwarding=1")
        first.machine.reaches(topology.SERVER)
        assert gateway.stop() == 0, gateway.process.text()
        assert "vcgate" not in gateway.machine.run("nft", "list", "ruleset").stdout
        assert gateway.machine.sysctl("net.ipv4.conf.lan.forwarding") == "0"
        assert not re.search("ERROR|cannot", gateway.process.text()), gateway.process.text()


def test_the_helper_ends_with_a_killed_endpoint(lab, start_gateway):
    gateway = start_gateway(lab.clients(1), "vcgate", address="auto")
    children = pathlib.Path(f"/proc/{gateway.process.pid}/task/{gateway.process.pid}/children")
    (helper,) = children.read_text().split()
    status = dict(re.findall(r"^(\w+):\t(.*)$", pathlib.Path(f"/proc/{helper}/status").read_text(), re.M))
    # CAP_NET_ADMIN and CAP_NET_RAW
    assert (int(status["CapEff"], 16), status["NoNewPrivs"]) == (1 << 12 | 1 << 13, "1")
    gateway.process.stop(9)
    wait_for("the helper to end", lambda: not pathlib.Path(f"/proc/{helper}").exists())


@pytest.mark.skipif(os.uname().machine != "x86_64", reason="the filter is for x86-64")
def test_without_landlock_it_says_so_once_and_runs(lab, make_gateway):
    (client,) = clients = lab.clients(1)
    gateway = make_gateway("vcgate")
    gateway.write(clients)
    gateway.up(sys.executable, "-c", WITHOUT_LANDLOCK)
    client.connect(gateway)
    client.machine.reaches(topology.SERVER)
    text = gateway.process.text()
    assert text.count("this kernel has no landlock") == 1, text
    assert "cannot restrict the files that the process may use" in text
    assert gateway.json("status")["confinement"]["landlock"] is None
    assert doctor(gateway) == {**ALL_IN_FORCE, "process-files": "warn"}
