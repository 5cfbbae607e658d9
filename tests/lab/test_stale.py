"""A client with an exclusive open crashes and comes back: how soon does it get its file again?"""

import contextlib
import socket
import time

import pytest
from impacket.smb import FILE_OPEN_IF, SessionError

from . import smb
from .net import wait_for

FILE = "ledger.mdb"
READ_AND_WRITE = 0x0012019F
NO_SHARING = 0
PATIENCE = 60
"""Longer than Samba waits for the answer to an oplock break (30 s, and some)."""
AT_ONCE = 15
"""Far less than that, and far more than the hook and a logon need on a busy machine."""
SAMBA_WAITS = 25
"""A bit less than that."""

# A crashed client: its packets go no further, and those for it meet either a new
# stack, which refuses them, or a firewall, which says nothing.
DEAD = """
table ip vcl {{
    chain in {{
        type filter hook input priority filter
        tcp dport {port} {verdict}
    }}
    chain out {{
        type filter hook output priority filter
        tcp sport {port} tcp flags & rst == 0 drop
    }}
}}
"""
NEW_STACK = "reject with tcp reset"
FIREWALL = "drop"
NEW_MACHINE = "new machine"


class Crash:
    """A user who has a file open, exclusively and with a batch oplock, when his machine dies."""

    def __init__(self, lab, gateway, client, samba):
        self.lab = lab
        self.gateway = gateway
        self.client = client
        self.samba = samba
        # Kept to the end: the connection must not be collected, which would close it.
        self.old = self.log_on()
        self.open(self.old)

    def log_on(self):
        return smb.logon(self.client, self.samba.address, timeout=PATIENCE)

    @staticmethod
    def open(connection):
        # impacket asks for a batch oplock by itself.
        tree = connection.connectTree(smb.SHARE)
        connection.getSMBServer().nt_create_andx(
            tree, FILE, shareAccessMode=NO_SHARING, disposition=FILE_OPEN_IF,
            accessMask=READ_AND_WRITE)

    @contextlib.contextmanager
    def dead(self, verdict):
        """The old connection is dead inside the `with`."""
        if verdict == NEW_MACHINE:
            self.change_machine()
            yield
            return
        port = self.old.getSMBServer().get_socket().getsockname()[1]
        self.client.machine.run("nft", "-f", "-", input=DEAD.format(port=port, verdict=verdict))
        try:
            yield
        finally:
            self.client.machine.run("nft", "delete", "table", "ip", "vcl")

    def change_machine(self):
        # An acknowledgement that is still due would make the server send again, and the new machine
        # would refuse that: the connection would be gone before the logon. A ping follows it.
        end = self.old.getSMBServer().get_socket()
        end.setsockopt(socket.IPPROTO_TCP, socket.TCP_QUICKACK, 1)
        self.client.machine.reaches(self.gateway.inner)
        self.client.die()
        smb.vanish(self.old)
        self.lab.new_machine(self.client)
        self.client.connect(self.gateway)

    def come_back(self):
        """Logs on and opens the file: seconds until the answer, and the answer if it was no."""
        began = time.monotonic()
        refusal = None
        new = self.log_on()
        try:
            self.open(new)
        except SessionError as error:
            refusal = error
        return time.monotonic() - began, refusal


@pytest.fixture
def crash(lab, samba, start_gateway):
    """A function that lets user 1 crash and come back while user 2 works: what the gateway
    counted, seconds until the file was open, and the refusal if it was not."""
    def run(stale, verdict):
        users = lab.clients(2)
        gateway = start_gateway(users, "vcgate", stale=stale)
        bystander = smb.logon(users[1], samba.address)
        smb.put(bystander, "others.bin", b"nothing lost")
        reader = smb.Reader(bystander, "others.bin", b"nothing lost")
        user = Crash(lab, gateway, users[0], samba)
        with user.dead(verdict):
            seconds, refusal = user.come_back()
        print(f"stale = {stale}, {verdict}: {seconds:.3f} s until {refusal or 'the file is open'}")
        reads = reader.reads
        wait_for("the other user's reads", lambda: reader.reads > reads + 1)
        reader.stop()
        assert reader.alive() and reader.wrong == 0
        counted = gateway.json("smb")
        gateway.stop()
        return counted, seconds, refusal

    return run


@pytest.mark.parametrize("verdict", [NEW_STACK, FIREWALL, NEW_MACHINE])
@pytest.mark.parametrize("stale", ["probe", "reset"])
def test_a_client_that_comes_back_gets_its_file(crash, stale, verdict):
    counted, seconds, refusal = crash(stale, verdict)
    assert refusal is None
    assert seconds < AT_ONCE
    assert counted["stale_reset"] == 1


def test_kept_connections_make_it_wait_and_get_nothing(crash, samba):
    """The server waits for the dead client to give its oplock back, and refuses in the end."""
    counted, waited, refusal = crash("keep", FIREWALL)
    assert "STATUS_SHARING_VIOLATION" in str(refusal)
    assert waited > SAMBA_WAITS
    assert counted["stale_reset"] == 0
    # The dead one still has that file.
    (samba.data / FILE).unlink()
    _, seconds, refusal = crash("probe", FIREWALL)
    assert refusal is None
    assert seconds < AT_ONCE


def test_a_live_connection_of_the_same_client_is_kept(lab, samba, start_gateway):
    (user,) = lab.clients(1)
    gateway = start_gateway([user], "vcgate", stale="probe")
    first = smb.logon(user, samba.address)
    smb.put(first, "mine.bin", b"still here")
    second = smb.logon(user, samba.address)
    wait_for("the answer to the probe", lambda: gateway.json("smb")["stale_alive"] == 1)
    assert smb.get(first, "mine.bin") == smb.get(second, "mine.bin") == b"still here"
    assert gateway.json("smb")["stale_reset"] == 0


def test_only_the_dead_connection_of_a_client_is_reset(lab, samba, start_gateway):
    (client,) = lab.clients(1)
    gateway = start_gateway([client], "vcgate", stale="probe")
    user = Crash(lab, gateway, client, samba)
    alive = smb.logon(client, samba.address)
    smb.put(alive, "mine.bin", b"still here")
    with user.dead(NEW_STACK):
        _, refusal = user.come_back()
    assert refusal is None
    assert smb.get(alive, "mine.bin") == b"still here"
    counted = gateway.json("smb")
    assert (counted["stale_alive"], counted["stale_reset"]) == (2, 1)
