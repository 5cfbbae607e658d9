"""vcgate as a service of systemd: the unit, and when it says that it is ready."""

import pathlib
import re
import shutil
import socket

import pytest

from .gateway import VCGATE
from .net import run

UNIT = pathlib.Path(__file__).parents[2] / "packaging/vcgate.service"


def test_ready(lab, make_gateway, tmp_path):
    (client,) = clients = lab.clients(1)
    gateway = make_gateway("vcgate")
    gateway.write(clients)
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as manager:
        path = tmp_path / "notify"
        manager.bind(str(path))
        manager.settimeout(15)
        gateway.up("env", f"NOTIFY_SOCKET={path}")
        assert manager.recv(1024).strip() == b"READY=1"
        # It is: commands are answered, and clients connect.
        assert gateway.json("status")["interface"] == gateway.name
        client.connect(gateway)
        gateway.stop()
        assert manager.recv(1024).strip() == b"STOPPING=1"


@pytest.mark.skipif(not shutil.which("systemd-analyze"), reason="systemd is not installed")
def test_systemd_takes_the_unit(tmp_path):
    unit = UNIT.read_text()
    for needed in ["Type=notify", "ExecStartPre=.* check", "StartLimitBurst=", "CAP_NET_BIND_SERVICE"]:
        assert re.search(needed, unit), needed
    here = tmp_path / "vcgate-lab.service"
    here.write_text(unit.replace("/usr/local/bin/vcgate", str(VCGATE)))
    verified = run("systemd-analyze", "verify", here, check=False)
    assert (verified.returncode, verified.stdout + verified.stderr) == (0, "")
