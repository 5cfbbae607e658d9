"""Copies with equal digests, with signing and encryption, as the standard clients make them."""

import os

import pytest

from . import smb, topology
from .samba import PASSWORD, Samba

SIZE = 5_000_000


@pytest.fixture
def strict_samba(lab):
    """A server that requires signing."""
    server = Samba(lab.server, topology.SERVER, signing="mandatory")
    yield server
    server.stop()


def smbclient(client, dialect, port, protection, commands):
    """Samba's own client; it sends 1 as its VcNumber."""
    return client.machine.run(
        "smbclient", f"//{topology.SERVER}/{smb.SHARE}", "-U", f"{client.name}%{PASSWORD}",
        "-s", "/dev/null", "-m", dialect, "--option=client min protocol=NT1", "-p", port,
        f"--client-protection={protection}", "-c", commands)


@pytest.mark.parametrize("port", [445, 139])
@pytest.mark.parametrize("dialect, protection", [
    ("NT1", "sign"), ("SMB2_10", "sign"), ("SMB3", "sign"), ("SMB3", "encrypt")])
def test_smbclient(lab, start_gateway, strict_samba, tmp_path, dialect, protection, port):
    (client,) = clients = lab.clients(1)
    start_gateway(clients)
    sent = os.urandom(SIZE)
    (tmp_path / "sent").write_bytes(sent)
    smbclient(client, dialect, port, protection,
              f"put {tmp_path}/sent copy; get copy {tmp_path}/received")
    assert (strict_samba.data / "copy").read_bytes() == sent
    assert (tmp_path / "received").read_bytes() == sent


@pytest.mark.parametrize("port", [445, 139])
def test_a_client_that_signs_and_sends_zero(lab, start_gateway, strict_samba, port):
    """The number is changed in the logon, which no signature covers yet; all that follows is signed."""
    (client,) = clients = lab.clients(1)
    gateway = start_gateway(clients)
    log = strict_samba.mark()
    sent = os.urandom(SIZE // 5)
    connection = smb.logon(client, strict_samba.address, port)
    assert connection.isSigningRequired()
    smb.put(connection, "copy", sent)
    assert smb.digest((strict_samba.data / "copy").read_bytes()) == smb.digest(sent)
    assert smb.digest(smb.get(connection, "copy")) == smb.digest(sent)
    assert "BAD SIG" not in log.text()
    if gateway.hook == "assign":
        assert log.zero_logons() == 0


def test_a_second_logon_that_is_signed_is_left_as_it_is(lab, start_gateway, strict_samba, tmp_path):
    """User 1 holds number 1, so user 2's logons would be given another; but his second one, on the
    same connection, is signed and must not be changed: he would be cut off for a bad signature."""
    users = lab.clients(2)
    gateway = start_gateway(users)
    first = smb.logon(users[0], strict_samba.address)
    log = strict_samba.mark()
    (tmp_path / "sent").write_bytes(os.urandom(SIZE // 5))
    smbclient(users[1], "NT1", 445, "sign",
              f"logon user3 {PASSWORD}; put {tmp_path}/sent copy; get copy {tmp_path}/received")
    assert (tmp_path / "received").read_bytes() == (tmp_path / "sent").read_bytes()
    smb.put(first, "mine", b"still here")
    assert "BAD SIG" not in log.text()
    assert log.text().count("authentication for user [user3] -> [user3] -> [user3] succeeded") == 1
    if gateway.hook == "assign":
        assert gateway.json("smb")["signed_untouched"] >= 1
