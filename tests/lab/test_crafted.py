"""Session setups with VcNumber 0 that no honest client sends: they disconnect no other user."""

import struct

import pytest

from . import smb
from .net import wait_for

SESSION_SETUP = 0x73
TREE_CONNECT = 0x75
HEADER = 32


def session_setup(words=12):
    """The block of a session setup without a password; with more words than a standard one has."""
    fields = struct.pack("<BBBHHHHI", words, 0xFF, 0, 0, 4356, 10, 0, 0)
    fields = fields.ljust(1 + 2 * words, b"\0")
    return fields + struct.pack("<H", 4) + bytes(4)


def message(command, body, uid=0):
    flags = struct.pack("<BH", 0x18, 0x4807)
    header = b"\xffSMB" + bytes([command]) + bytes(4) + flags
    return header.ljust(28, b"\0") + struct.pack("<HH", uid, 1) + body


def framed(content, kind=0, bits=0):
    return bytes([kind, bits]) + struct.pack(">H", len(content)) + content


def after_tree_connects(blocks, uid):
    """A chain of TREE_CONNECT_ANDX blocks that succeed, with a session setup at its end."""
    data = b"\0" + rb"\\FILESERVER\IPC$" + b"\0?????\0"
    body = b""
    for number in range(1, blocks + 1):
        command = SESSION_SETUP if number == blocks else TREE_CONNECT
        following = HEADER + len(body) + 11 + len(data)
        body += struct.pack("<BBBHHHH", 4, command, 0, following, 0, 1, len(data)) + data
    return message(TREE_CONNECT, body + session_setup(), uid)


PLAIN = message(SESSION_SETUP, session_setup())
CRAFTED = {
    "11 words": lambda uid: framed(message(SESSION_SETUP, session_setup(11))),
    "14 words": lambda uid: framed(message(SESSION_SETUP, session_setup(14))),
    "20 words": lambda uid: framed(message(SESSION_SETUP, session_setup(20))),
    "16 blocks before it": lambda uid: framed(after_tree_connects(16, uid)),
    "a message of unknown type before it": lambda uid: framed(bytes(4), kind=0x86) + framed(PLAIN),
    "reserved bits in its length": lambda uid: framed(PLAIN, bits=0x80),
}
"""Each as the bytes that a user with this UID sends."""


def in_place_of_raw_data(uid):
    """A WRITE_RAW that the server refuses, and at once a logon where its data would be."""
    return framed(message(0x1D, bytes([14]) + bytes(30), uid)) + framed(PLAIN)


def in_the_data_of_a_long_write(uid):
    """A WRITE_ANDX whose fields confirm 24 bits of its length, of which Samba reads 17 by default."""
    end = 64 + 20
    length = (2 << 16 | end) - 64
    words = struct.pack("<BBHHIIHHHHHI", 0xFF, 0, 0, 0, 0, 0, 0, 0, length >> 16, length & 0xFFFF, 64, 0)
    content = message(0x2F, bytes([14]) + words, uid).ljust(end, b"\0")
    return framed(content, bits=2) + framed(PLAIN)


AMBIGUOUS = {
    "in place of raw data": in_place_of_raw_data,
    "in the data of a long write": in_the_data_of_a_long_write,
}
"""Bytes that a server may read as a logon and the hook does not."""


def send(connection, name):
    """Sends a crafted logon on a user's connection, and waits for the server's reaction."""
    server = connection.getSMBServer()
    end = server.get_socket()
    end.settimeout(10)
    end.sendall((CRAFTED | AMBIGUOUS)[name](server._uid))
    try:
        end.recv(4096)
    except OSError:
        pass
    end.close()


@pytest.mark.parametrize("port", [445, 139])
def test_crafted_logons_disconnect_no_other_user(lab, start_gateway, open_office, samba, port):
    clients = lab.clients(3)
    gateway = start_gateway(clients, "vcgate", hook="assign")
    office = open_office(port)
    for name in CRAFTED:
        connection = smb.logon(clients[1], samba.address, port, vc=1)
        before = gateway.json("smb")["rewritten"]
        send(connection, name)
        wait_for(name, lambda: gateway.json("smb")["rewritten"] > before, 10)
        office.first_reads(2)
        assert office.reader.alive(), f"{name}: user 1 was cut off: {office.reader.cut_off}"
        assert office.log.zero_logons() == 0, name
    assert office.log.kills() == []
    assert office.reader.wrong == 0


def test_a_connection_with_an_ambiguous_logon_is_reset(lab, start_gateway, open_office, samba):
    clients = lab.clients(3)
    gateway = start_gateway(clients, "vcgate", hook="assign")
    office = open_office(445)
    for name in AMBIGUOUS:
        connection = smb.logon(clients[1], samba.address, 445, vc=1)
        before = gateway.json("smb")["unreadable_reset"]
        send(connection, name)
        wait_for(name, lambda: gateway.json("smb")["unreadable_reset"] > before, 10)
        office.first_reads(2)
        assert office.reader.alive(), f"{name}: user 1 was cut off: {office.reader.cut_off}"
        assert office.log.zero_logons() == 0, name
    assert office.log.kills() == []


@pytest.mark.parametrize("name", CRAFTED | AMBIGUOUS)
def test_the_server_acts_on_crafted_logons(lab, start_gateway, open_office, samba, name):
    """Without the hook each of them disconnects the first user, so the test above can fail."""
    clients = lab.clients(3)
    start_gateway(clients, "vcgate", hook="off")
    office = open_office(445)
    send(smb.logon(clients[1], samba.address, vc=1), name)
    wait_for("user 1 to be cut off", lambda: not office.reader.alive(), 20)
    assert office.log.zero_logons() >= 1
