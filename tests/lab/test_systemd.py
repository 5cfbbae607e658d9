"""The service in a booted systemd: its own user, a restart in mid-copy, a kill, and mistakes in the file."""

import re
import shutil

import pytest

from . import topology
from .service import Service
from .test_privileges import ALL_IN_FORCE, of_process
from .test_restart import Copy

pytestmark = pytest.mark.skipif(not shutil.which("systemd-nspawn"), reason="systemd-container is not installed")
PORT = 7010


@pytest.fixture
def service(lab, tmp_path):
    lab.new_gateway()
    directory = tmp_path / "vcgate"
    directory.mkdir(mode=0o700)
    service = Service(lab, directory)
    service.start(lab.clients(1))
    yield service
    lab.disconnect()
    service.stop()


def test_the_service(lab, service):
    (client,) = lab.clients(1)
    client.connect(service)
    client.machine.reaches(topology.SERVER)
    assert of_process(service.vcgate("doctor", "--json", check=False).stdout) == ALL_IN_FORCE
    assert service.booted.run("stat", "--format=%U", "/run/vcgate", "/run/wireguard").stdout == "vcgate\nvcgate\n"
    assert not re.search(r"WARN|ERROR|cannot", service.log()), service.log()

    # A copy survives a restart, and a kill after which the service is back by itself.
    for number, end in enumerate([("restart",), ("kill", "--kill-who=main", "--signal=KILL")]):
        pid = service.show("MainPID")
        copy = Copy(lab, client, PORT + number)
        try:
            service.systemctl(*end)
            service.is_back(pid)
            for way in copy.ways:
                way.go_on()
            for way in copy.ways:
                way.finish()
        finally:
            copy.close()

    # A reload with a mistake fails, and the endpoint continues; the check before a restart says it, too.
    text = service.config.read_text()
    service.config.write_text(text.replace("[lan]", "[lna]"))
    assert service.systemctl("reload", check=False).returncode != 0
    assert service.vcgate("check", check=False).returncode == 1
    client.machine.reaches(topology.SERVER)
    service.config.write_text(text)
    service.systemctl("reload")

    # Stopped: nothing is left.
    service.systemctl("stop")
    assert service.show("Result") == "success"
    links = service.machine.ip("-o", "link").stdout
    assert service.name not in links, links
