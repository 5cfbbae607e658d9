"""A bad cable: by a seed, it loses and reorders frames in both directions. And it has a grudge: the
first copy of every SMB1 session setup is always lost.

`with cable(...)` puts it between a machine and its switch. As a program it is the cable itself:
`lossy.py INTERFACE INTERFACE PERCENT SEED`.
"""

import array
import collections
import contextlib
import fcntl
import heapq
import itertools
import random
import re
import select
import socket
import struct
import sys
import time

ETH_P_ALL = 3
SOL_PACKET, PACKET_IGNORE_OUTGOING = 263, 23
SIOCETHTOOL, ETHTOOL_STXCSUM = 0x8946, 0x17
LARGEST_FRAME = 1 << 16
REORDERED = 0.1
"""Of all frames. They come later, so that some that were sent after them come first."""
LATER = 0.005
SESSION_SETUP = b"\xffSMB\x73"
FLAGS, REPLY, VC_NUMBER = 9, 0x80, 41


@contextlib.contextmanager
def cable(machine, interface, switch, percent, seed, output):
    """Between `machine`'s `interface` and the switch; gives the cable's process."""
    port, plug, peer = machine.name, f"{machine.name}x", f"{machine.name}y"
    switch.ip("link", "set", port, "nomaster", "arp", "off")
    switch.ip("link", "add", plug, "arp", "off", "type", "veth", "peer", "name", peer)
    switch.ip("link", "set", plug, "up")
    switch.ip("link", "set", peer, "master", "br0", "up")
    # A cable carries whole frames with valid checksums.
    offload(machine, interface, False)
    offload(switch, peer, False)
    process = switch.start("/usr/bin/python3", "-B", __file__, port, plug, percent, seed, output=output)
    process.wait_for_line("ready")
    try:
        yield process
    finally:
        process.stop()
        offload(machine, interface, True)
        switch.ip("link", "delete", plug)
        switch.ip("link", "set", port, "arp", "on", "master", "br0")


def offload(machine, interface, on):
    """As `ethtool -K INTERFACE tx on|off`; without checksums there are no super-packets either."""
    value = array.array("I", [ETHTOOL_STXCSUM, on])
    request = struct.pack("16sP", interface.encode(), value.buffer_info()[0])
    with machine.entered(), socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as any_socket:
        fcntl.ioctl(any_socket, SIOCETHTOOL, request)


def vc_numbers(process):
    """The session setups that a cable has carried: by position in the connection, the VcNumbers of
    all copies."""
    seen = collections.defaultdict(list)
    for place, number in re.findall(r"session setup (\S+) (\d+)", process.text()):
        seen[place].append(int(number))
    return seen


class Direction:
    """One way through the cable."""

    def __init__(self, source, target, loss, seed):
        self._source = source
        self._target = target
        self._loss = loss
        self._random = random.Random(seed)
        self._under_way = []
        self._number = itertools.count()
        self._seen = set()

    def take(self):
        """Takes what waits at this end."""
        while True:
            try:
                frame = self._source.recv(LARGEST_FRAME)
            except BlockingIOError:
                return
            chance, late = self._random.random(), self._random.random()
            if chance < self._loss or self._is_hated(frame):
                continue
            due = time.monotonic() + (LATER if late < REORDERED else 0)
            heapq.heappush(self._under_way, (due, next(self._number), frame))

    def give(self):
        """Gives what is due to the other end; seconds until more is."""
        while self._under_way:
            wait = self._under_way[0][0] - time.monotonic()
            if wait > 0:
                return wait
            self._target.send(heapq.heappop(self._under_way)[2])
        return None

    def _is_hated(self, frame):
        at = frame.find(SESSION_SETUP)
        if at < 0 or frame[at + FLAGS] & REPLY:
            return False
        # IPv4 without options: ports and sequence number.
        place = frame[34:42].hex()
        print("session setup", place, int.from_bytes(frame[at + VC_NUMBER:at + VC_NUMBER + 2], "little"),
              flush=True)
        first = place not in self._seen
        self._seen.add(place)
        return first


def open_end(interface):
    end = socket.socket(socket.AF_PACKET, socket.SOCK_RAW, socket.htons(ETH_P_ALL))
    end.setsockopt(SOL_PACKET, PACKET_IGNORE_OUTGOING, 1)
    end.bind((interface, ETH_P_ALL))
    end.setblocking(False)
    return end


def main(interface, other, percent, seed):
    ends = open_end(interface), open_end(other)
    loss = float(percent) / 100
    ways = [Direction(*ends, loss, f"{seed} there"), Direction(*reversed(ends), loss, f"{seed} back")]
    print("ready", flush=True)
    while True:
        waits = [way.give() for way in ways]
        select.select(ends, [], [], min((w for w in waits if w is not None), default=None))
        for way in ways:
            way.take()


if __name__ == "__main__":
    main(*sys.argv[1:])
