"""systemd-resolved as the resolver of a client: wg-quick gives it the `DNS` line of the client's file."""

import os
import shutil
import subprocess

import pytest

from . import topology
from .net import PREFIX, run
from .service import Booted
from .wireguard import ENVIRONMENT, WIREGUARD_GO

pytestmark = pytest.mark.skipif(not shutil.which("systemd-nspawn"), reason="systemd-container is not installed")
PACKAGE = "systemd-resolved"
DEVICE = f"{PREFIX}w1"


@pytest.fixture
def package(tmp_path):
    """The Debian package, which is not installed: it would replace the resolver of this machine."""
    # apt drops its rights, and its user cannot write into the folder of a test.
    tmp_path.chmod(0o755)
    done = subprocess.run(["apt-get", "download", "-o", "APT::Sandbox::User=root", PACKAGE], cwd=tmp_path,
                          capture_output=True, timeout=60, check=False)
    found = list(tmp_path.glob(f"{PACKAGE}_*.deb"))
    if done.returncode != 0 or not found:
        pytest.skip(f"cannot download {PACKAGE}")
    return found[0]


@pytest.fixture
def booted(lab, package, tmp_path):
    """The client's machine, booted with systemd-resolved."""
    (tmp_path / "wireguard").mkdir()
    binds = {package: "/resolved.deb", tmp_path / "wireguard": "/etc/wireguard"}
    booted = Booted(lab.client(1).machine, tmp_path, binds)
    try:
        # dpkg -x would replace the links of a merged /usr. The link below is one of the package's script.
        booted.run("sh", "-c", "dpkg-deb --fsys-tarfile /resolved.deb | tar -x --keep-directory-symlink -C /")
        booted.run("systemd-sysusers")
        booted.run("systemctl", "daemon-reload")
        booted.run("systemctl", "start", "dbus", "systemd-resolved")
        booted.run("ln", "-sf", "/run/systemd/resolve/stub-resolv.conf", "/etc/resolv.conf")
        yield booted
    finally:
        booted.stop()


def test_wg_quick_gives_the_dns_line_to_resolved(lab, make_gateway, booted, tmp_path):
    (client,) = clients = lab.clients(1)
    gateway = make_gateway("vcgate")
    gateway.write(clients)
    gateway.config.write_text(gateway.config.read_text() + f"""
        [dns]
        search = ["lan.example"]
        records = {{ filesrv = "{topology.SERVER}" }}
        """)
    gateway.up()
    shown = gateway.vcgate("peer", "show", client.name).stdout
    file = tmp_path / "wireguard" / f"{DEVICE}.conf"
    file.touch(0o600)
    file.write_text(shown.replace(f"# PrivateKey = (the one of {client.keys.public})",
                                  f"PrivateKey = {client.keys.private}"))
    environment = {**os.environ, **ENVIRONMENT, "WG_QUICK_USERSPACE_IMPLEMENTATION": WIREGUARD_GO[0]}
    booted.run("wg-quick", "up", DEVICE, env=environment)
    assert topology.TUNNEL in booted.run("resolvectl", "dns", DEVICE).stdout
    assert "lan.example" in booted.run("resolvectl", "domain", DEVICE).stdout
    # By D-Bus, and by the C library through the stub resolver.
    assert topology.SERVER in booted.run("resolvectl", "query", "filesrv").stdout
    found = booted.run("getent", "ahostsv4", "filesrv").stdout
    assert topology.SERVER in found
    assert "filesrv.lan.example" in booted.run("resolvectl", "query", topology.SERVER).stdout
    booted.run("wg-quick", "down", DEVICE)
    assert topology.SERVER not in booted.run("getent", "ahostsv4", "filesrv", check=False).stdout
