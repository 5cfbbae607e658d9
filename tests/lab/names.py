"""Name servers of the LAN, and clients that ask for names."""

import contextlib
import os
import pathlib
import re
import shutil
import socket
import struct

from .callers import serving
from .net import PREFIX, wait_for

NETNS = pathlib.Path("/etc/netns")


def dig(machine, server, name, *options, rtype="A"):
    """The answers of one question, as `dig +short` prints them, or the status if there are none."""
    done = machine.run("dig", f"@{server}", name, rtype, "+tries=1", "+time=9", *options, check=False)
    status = re.search(r"status: (\w+)", done.stdout)
    answers = re.findall(rf"^\S+\s+\d+\s+IN\s+{rtype}\s+(.*)$", done.stdout, re.MULTILINE)
    return answers or (status[1] if status else done.stdout)


class Dnsmasq:
    """The LAN's DNS server. Hosts are given as `name,address`."""

    def __init__(self, machine, address, directory, *hosts, options=()):
        self._process = machine.start(
            "dnsmasq", "--keep-in-foreground", "--conf-file=/dev/null", "--no-resolv", "--no-hosts",
            "--bind-interfaces", f"--listen-address={address}", "--local=/lan.example/",
            "--local=/77.168.192.in-addr.arpa/", "--log-queries", "--log-facility=-", "--pid-file=",
            "--user=root", "--local-ttl=300", *(f"--host-record={host}" for host in hosts), *options,
            output=directory / f"dnsmasq-{address}")
        machine.listening(53, udp=True)

    def asked_for(self, name):
        """How often a name was asked for."""
        return len(re.findall(rf"query\[\w+\] {re.escape(name)} from", self._process.text(), re.IGNORECASE))

    def stop(self):
        self._process.stop()


@contextlib.contextmanager
def dnsmasq(*arguments, **options):
    server = Dnsmasq(*arguments, **options)
    try:
        yield server
    finally:
        server.stop()


@contextlib.contextmanager
def resolv_conf(machine, text):
    """Commands that start in this machine have a resolv.conf of their own (ip-netns(8))."""
    directory = NETNS / machine.name
    directory.mkdir(parents=True, exist_ok=True)
    (directory / "resolv.conf").write_text(text)
    try:
        yield
    finally:
        remove_resolv_conf(machine.name)


def remove_resolv_conf(name):
    shutil.rmtree(NETNS / name, ignore_errors=True)
    with contextlib.suppress(OSError):
        os.rmdir(NETNS)


def has_openresolv():
    """Whether wg-quick's `resolvconf` writes the resolv.conf of its own namespace."""
    found = shutil.which("resolvconf")
    return bool(found) and b"openresolv" in pathlib.Path(found).read_bytes()


def question(name, identifier=1):
    """A question for the address of a name."""
    labels = b"".join(bytes([len(label)]) + label.encode() for label in name.split("."))
    return struct.pack(">6H", identifier, 0x100, 1, 0, 0, 0) + labels + b"\0\0\1\0\1"


def answer(query, address, identifier=None):
    """The answer to a question, with another identifier if one is given."""
    (own,) = struct.unpack(">H", query[:2])
    end = query.index(b"\0", 12) + 5
    head = struct.pack(">6H", own if identifier is None else identifier, 0x8180, 1, 1, 0, 0)
    return head + query[12:end] + struct.pack(">HHHIH", 0xC00C, 1, 1, 60, 4) + socket.inet_aton(address)


def datagram(source, destination, payload):
    """An IPv4 packet of a UDP datagram, whose checksum the kernel and the protocol leave out."""
    udp = struct.pack(">4H", source[1], destination[1], 8 + len(payload), 0) + payload
    head = struct.pack(">BBHHHBBH", 0x45, 0, 20 + len(udp), 0, 0, 64, socket.IPPROTO_UDP, 0)
    return head + socket.inet_aton(source[0]) + socket.inet_aton(destination[0]) + udp


def fake(machine, address, answers):
    """A DNS server that sends what `answers(query)` returns, a list of datagrams."""
    def serve(server):
        while True:
            query, caller = server.recvfrom(5000)
            if not caller:
                return  # shut down
            for datagram in answers(query):
                server.sendto(datagram, caller)

    return serving(machine, (address, 53), socket.SOCK_DGRAM, serve)


OWN_CACHE = ("unshare", "--mount", "sh", "-c",
             'mkdir -p /run/samba && mount -t tmpfs none /run/samba && exec "$@"', "sh")
"""A prefix for Samba's programs, which remember names in /run/samba for eleven minutes, for all networks of
this machine."""


@contextlib.contextmanager
def nmbd(machine, samba, neighbour, broadcast, wins=None):
    """Samba's NetBIOS name service, with the name of a file server that runs, until its neighbour
    finds it. With `wins`, a dictionary of addresses by name, it is a WINS server that knows them too."""
    options = []
    if wins is not None:
        options = ["--option=wins support=yes"]
        entries = (f'"{name}#{suffix}" 0 {address} 66R\n' for name, address in wins.items() for suffix in ("00", "20"))
        (samba.dir / "state/wins.dat").write_text("VERSION 1 0\n" + "".join(entries))
    process = machine.start(*OWN_CACHE, "nmbd", "-F", "--no-process-group", "-s", samba.dir / "smb.conf", *options,
                            output=samba.dir / "nmbd")
    try:
        # Names are registered by broadcasts, and used when no host has objected.
        wait_for("nmbd to have its name", lambda: neighbour.run(
            *OWN_CACHE, "nmblookup", "-s", "/dev/null", "-B", broadcast, "FILESERVER#20",
            check=False).returncode == 0, 30)
        yield
    finally:
        process.stop()
