"""The Debian package in a booted system: installed, upgraded in mid-copy, removed and purged.

VCGATE_DEB=PATH, from packaging/deb/build, is tested; without it nothing is.
"""

import os
import pathlib

import pytest

from . import topology
from .net import run
from .service import Service
from .test_restart import Copy

DEB = os.environ.get("VCGATE_DEB", "")
pytestmark = pytest.mark.skipif(not DEB, reason="VCGATE_DEB does not name a package")
FOLDER = "/srv/package"
PORT = 7020


def with_version(version, folder):
    """The package with another version."""
    run("dpkg-deb", "--raw-extract", DEB, folder / "files")
    control = folder / "files/DEBIAN/control"
    lines = control.read_text().splitlines()
    control.write_text("".join(f"Version: {version}\n" if line.startswith("Version:") else f"{line}\n"
                               for line in lines))
    run("dpkg-deb", "--root-owner-group", "--build", folder / "files", folder / f"{version}.deb")


class Packaged(Service):
    """The endpoint as the package installs it."""

    def install(self):
        self.dpkg("--install", f"{FOLDER}/0.0.1-1.deb")

    def dpkg(self, *argv):
        return self.booted.run("env", "DEBIAN_FRONTEND=noninteractive", "dpkg", *argv)


@pytest.fixture
def service(lab, tmp_path):
    lab.new_gateway()
    folder = tmp_path / "package"
    folder.mkdir()
    for version in "0.0.1-1", "0.0.2-1":
        with_version(version, folder)
        run("rm", "-r", folder / "files")
    directory = tmp_path / "vcgate"
    directory.mkdir(mode=0o700)
    service = Packaged(lab, directory)
    service.files = {pathlib.Path(folder): FOLDER}
    service.start(lab.clients(1))
    yield service
    lab.disconnect()
    service.stop()


def test_the_package(lab, service):
    (client,) = lab.clients(1)
    client.connect(service)
    client.machine.reaches(topology.SERVER)
    run_in = service.booted.run
    assert run_in("man", "--where", "vcgate-peer-add").stdout.strip().endswith("vcgate-peer-add.1.gz")
    assert run_in("systemctl", "is-enabled", "vcgate", check=False).stdout.strip() == "disabled"
    service.systemctl("enable")

    # An upgrade restarts the service; a copy continues.
    pid = service.show("MainPID")
    copy = Copy(lab, client, PORT)
    try:
        service.dpkg("--install", f"{FOLDER}/0.0.2-1.deb")
        service.is_back(pid)
        for way in copy.ways:
            way.go_on()
        for way in copy.ways:
            way.finish()
    finally:
        copy.close()

    # With a mistake in the file, the old program continues, and the upgrade says so.
    pid = service.show("MainPID")
    text = service.config.read_text()
    service.config.write_text(text.replace("[lan]", "[lna]"))
    said = service.dpkg("--install", f"{FOLDER}/0.0.1-1.deb").stderr
    assert "still runs" in said
    assert service.show("MainPID") == pid
    service.config.write_text(text)

    said = service.dpkg("--remove", "vcgate")
    assert run_in("systemctl", "is-active", "vcgate", check=False).stdout.strip() != "active"
    assert service.name not in service.machine.ip("-o", "link").stdout
    run_in("test", "!", "-e", "/usr/bin/vcgate")
    run_in("test", "-e", "/var/lib/vcgate")
    service.dpkg("--purge", "vcgate")
    run_in("test", "!", "-e", "/var/lib/vcgate")
    run_in("test", "-e", "/etc/vcgate/vcgate.toml")
