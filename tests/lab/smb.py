"""SMB users: impacket speaking SMB1 as a Windows client does, with VcNumber 0 in every logon.

impacket does not answer oplock breaks, so each user keeps to files of his own.
"""

import contextvars
import functools
import hashlib
import io
import socket
import threading
import time

from impacket import smb
from impacket.nmb import NetBIOSError, NetBIOSTCPSession
from impacket.smbconnection import SMBConnection

from .samba import PASSWORD

SHARE = "data"
NOBODY_THERE = (NetBIOSError, OSError)
"""Exceptions of impacket when the connection is gone."""

TCP_REPAIR = 19

_vc = contextvars.ContextVar("VcNumber", default=0)
_source = contextvars.ContextVar("source", default=None)


def _send_zero():
    """impacket puts 1 into the field; the Windows redirector always sends 0."""
    fields = smb.SMBSessionSetupAndX_Extended_Parameters
    original = fields.getData

    @functools.wraps(original)
    def with_zero(self):
        self["VcNumber"] = _vc.get()
        return original(self)

    fields.getData = with_zero


_send_zero()


def _connect_from_source():
    """impacket leaves it to the kernel which address a connection comes from."""
    original = NetBIOSTCPSession._setup_connection

    @functools.wraps(original)
    def from_source(self, peer, timeout=None):
        if not _source.get():
            return original(self, peer, timeout)
        connection = socket.create_connection(peer, timeout, (_source.get(), 0))
        connection.settimeout(None)
        return connection

    NetBIOSTCPSession._setup_connection = from_source


_connect_from_source()


def digest(data):
    return hashlib.sha256(data).hexdigest()


def logon(client, server, port=445, timeout=20, vc=0):
    """Connects from the client's namespace and logs on; the file server is `server`."""
    connection = connect(client, server, port, timeout)
    authenticate(connection, client, vc)
    return connection


def connect(client, server, port=445, timeout=20):
    """As far as SMB1 with extended security is agreed upon."""
    token = _source.set(client.source)
    try:
        with client.machine.entered():
            return SMBConnection("FILESERVER", server, myName=client.name.upper(), sess_port=port,
                                 timeout=timeout, preferredDialect=smb.SMB_DIALECT)
    finally:
        _source.reset(token)


def authenticate(connection, client, vc=0):
    token = _vc.set(vc)
    try:
        connection.login(client.name, PASSWORD)
    finally:
        _vc.reset(token)


def vanish(connection):
    """This end of the connection is gone, as after a crash, without FIN or RST."""
    end = connection.getSMBServer().get_socket()
    end.setsockopt(socket.IPPROTO_TCP, TCP_REPAIR, 1)
    end.close()


def put(connection, path, data):
    connection.putFile(SHARE, path, io.BytesIO(data).read)


def get(connection, path):
    parts = []
    connection.getFile(SHARE, path, parts.append)
    return b"".join(parts)


class Reader:
    """A user who reads a file of his over and over, in a thread, until `stop` or until cut off."""

    def __init__(self, connection, path, expected):
        self._connection = connection
        self._path = path
        self._expected = digest(expected)
        self._end = threading.Event()
        self.reads = 0
        self.wrong = 0
        self.cut_off = None
        self.cut_off_at = None
        self._thread = threading.Thread(target=self._read, daemon=True)
        self._thread.start()

    def _read(self):
        while not self._end.is_set():
            try:
                data = get(self._connection, self._path)
            except NOBODY_THERE as error:
                self.cut_off_at = time.monotonic()
                self.cut_off = error
                return
            self.wrong += digest(data) != self._expected
            self.reads += 1

    def alive(self):
        return self.cut_off is None

    def stop(self):
        self._end.set()
        self._thread.join(30)
        assert not self._thread.is_alive(), "the reader hangs"
