"""A user has a file open exclusively when his connection cannot continue: how soon is it free?

By itself a server finds after many minutes that nobody has the connection any more."""

import pathlib
import signal
import time

import pytest
from impacket.smb import FILE_OPEN_IF, SessionError

from . import smb
from .net import remove_kept_flows, wait_for

FILE = "ledger.mdb"
READ_AND_WRITE = 0x0012019F
NO_SHARING = 0
FREE_WITHIN = 10
"""Far less than the server needs by itself; the seconds that it takes are printed."""


def open_exclusively(connection):
    """impacket asks for a batch oplock by itself."""
    tree = connection.connectTree(smb.SHARE)
    connection.getSMBServer().nt_create_andx(
        tree, FILE, shareAccessMode=NO_SHARING, disposition=FILE_OPEN_IF, accessMask=READ_AND_WRITE)


class Desk:
    """A user who has the file open, and another one who wants it."""

    def __init__(self, lab, gateway, samba):
        self.gateway, self.samba = gateway, samba
        self.holder, self.waiter = lab.clients(2)
        self.holder.connect(gateway)
        self.held = smb.logon(self.holder, samba.address)
        open_exclusively(self.held)

    def recorded(self):
        """Waits until the connection is on the disk with all of its numbers."""
        (file,) = wait_for("the record", lambda: list(
            pathlib.Path("/var/lib/vcgate").glob(f"{self.gateway.name}.*.connections")))
        wait_for("the numbers", lambda: file.exists() and '"server_expects":null' not in file.read_text())

    def wait_until_free(self, what, began):
        """Tries again and again to open the file, over one connection."""
        self.waiter.connect(self.gateway)
        connection = smb.logon(self.waiter, self.samba.address)

        def free():
            try:
                open_exclusively(connection)
            except SessionError as error:
                assert "STATUS_SHARING_VIOLATION" in str(error)
                return False
            return True

        wait_for("the file", free, FREE_WITHIN)
        print(f"{what}: free after {time.monotonic() - began:.2f} s")
        connection.close()


@pytest.fixture
def desk(lab, samba, start_gateway):
    return Desk(lab, start_gateway(lab.clients(2), "vcgate", connect=False), samba)


def is_reset(connection):
    try:
        return not connection.getSMBServer().get_socket().recv(1)
    except ConnectionResetError:
        return True


def test_of_a_removed_peer(desk):
    began = time.monotonic()
    desk.gateway.vcgate("peer", "remove", desk.holder.name, "--yes")
    desk.wait_until_free("removed", began)
    assert is_reset(desk.held)


def test_of_an_address_that_became_another_peer_s(lab, desk):
    began = time.monotonic()
    desk.gateway.machine.run("wg", "set", desk.gateway.name, "peer", desk.waiter.keys.public,
                             "allowed-ips", f"{desk.waiter.inner}/32,{desk.holder.inner}/32")
    desk.wait_until_free("moved", began)
    assert is_reset(desk.held)


def of_another_format(gateway):
    gateway.stop()
    for file in pathlib.Path("/run/vcgate").glob(f"{gateway.name}.*.flows"):
        file.write_text('{"format":0}')


def reboot(gateway):
    """What a reboot leaves: nothing of /run."""
    gateway.stop(signal.SIGKILL)
    remove_kept_flows()


def change_the_address(gateway):
    gateway.stop()
    gateway.address = "192.168.77.3"
    gateway.write(gateway.clients)


@pytest.mark.parametrize("end", [of_another_format, reboot, change_the_address])
def test_of_flows_that_a_start_cannot_continue(lab, desk, end):
    desk.recorded()
    desk.gateway.clients = lab.clients(2)
    end(desk.gateway)
    began = time.monotonic()
    desk.gateway.up()
    desk.wait_until_free(end.__name__, began)


def test_of_a_connection_that_moved_on_since_it_was_recorded(desk):
    desk.recorded()
    smb.put(desk.held, "large.bin", bytes(300_000))
    reboot(desk.gateway)
    began = time.monotonic()
    desk.gateway.up()
    desk.wait_until_free("moved on", began)


def test_of_a_connection_that_nobody_has_recorded(desk):
    """The server asks the holder to give up the file, and is told that there is none."""
    desk.recorded()
    reboot(desk.gateway)
    for file in pathlib.Path("/var/lib/vcgate").glob(f"{desk.gateway.name}.*.connections"):
        file.unlink()
    began = time.monotonic()
    desk.gateway.up()
    desk.wait_until_free("not recorded", began)


def test_connections_that_a_restart_continues_are_not_reset(desk):
    desk.recorded()
    desk.gateway.stop()
    desk.gateway.up()
    smb.put(desk.held, "mine.bin", b"still here")
    assert smb.get(desk.held, "mine.bin") == b"still here"
    assert "resetting" not in desk.gateway.process.text()
