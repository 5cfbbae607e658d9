"""Signing required on both sides: the first logon is rewritten, a later one must not be."""

from impacket import smb as smb1

from . import smb, topology
from .net import wait_for
from .samba import PASSWORD

WARNING = "this client signs its SMB messages"


class Signing(smb1.SMB):
    """The key and the numbering of the first logon hold for the connection (MS-CIFS section
    3.2.4.1.3). impacket restarts both with each logon, and the server would disconnect it."""

    _SigningSessionKey = property(lambda self: self.key, lambda self, key: None)
    _SignSequenceNumber = property(lambda self: self.number, lambda self, n: self.count_on(n))

    def count_on(self, number):
        self.number = max(self.number, number)


def log_on_again(connection, name):
    """Another user on the same connection, signed with the key of the first one."""
    server = connection.getSMBServer()
    if not isinstance(server, Signing):
        server.key = server.__dict__.pop("_SigningSessionKey")
        server.number = server.__dict__.pop("_SignSequenceNumber")
        server.__class__ = Signing
    server._uid = 0
    server.login(name, PASSWORD, ntlm_fallback=False)


def counted(gateway):
    return gateway.json("smb")


def warnings(gateway):
    return [line for line in gateway.process.text().splitlines() if WARNING in line]


def test_impacket(lab, start_gateway, strict_samba):
    """It sends 0 each time: the signed one reaches the server, which does what it always did."""
    users = lab.clients(2)
    gateway = start_gateway(users)
    log = strict_samba.mark()
    first = smb.logon(users[0], strict_samba.address)
    assert first.isSigningRequired()
    smb.put(first, "mine", b"still here")
    before = counted(gateway)
    assert (before["rewritten"], before["signed_untouched"]) == (2, 0)
    assert log.zero_logons() == 0
    assert warnings(gateway) == []

    log_on_again(first, "user3")
    assert smb.get(first, "mine") == b"still here"
    after = counted(gateway)
    legs = after["signed_untouched"]
    assert (after["rewritten"], legs, log.zero_logons()) == (2, 2, legs)
    assert "BAD SIG" not in log.text()
    # Reported once for each flow, whatever follows.
    log_on_again(first, "user4")
    wait_for("the count", lambda: counted(gateway)["signed_untouched"] == 2 * legs)
    assert len(warnings(gateway)) == 1
    second = smb.logon(users[1], strict_samba.address)
    log_on_again(second, "user3")
    wait_for("the second warning", lambda: len(warnings(gateway)) == 2)
    print(*warnings(gateway), sep="\n")
    assert [name in line for name, line in zip(("user1", "user2"), warnings(gateway))] == [True] * 2


def test_smbclient(lab, start_gateway, strict_samba, tmp_path):
    """It sends 1, which user 1 has already: the first logon is rewritten, the signed one is not."""
    users = lab.clients(2)
    gateway = start_gateway(users)
    first = smb.logon(users[0], strict_samba.address)
    (tmp_path / "sent").write_bytes(b"still here")
    log = strict_samba.mark()
    before = counted(gateway)
    users[1].machine.run(
        "smbclient", f"//{topology.SERVER}/{smb.SHARE}", "-U", f"user2%{PASSWORD}", "-s", "/dev/null",
        "-m", "NT1", "--option=client min protocol=NT1", "--client-protection=sign",
        "-c", f"logon user3 {PASSWORD}; put {tmp_path}/sent copy")
    after = counted(gateway)
    assert after["rewritten"] > before["rewritten"]
    assert after["signed_untouched"] > 0
    assert (strict_samba.data / "copy").read_bytes() == b"still here"
    assert "BAD SIG" not in log.text()
    assert len(warnings(gateway)) == 1
    assert "user2" in warnings(gateway)[0]
    smb.put(first, "mine", b"and so is user 1")
