"""A flood of handshake initiations, as an attacker who knows the server's public key can send them.

Run as a program in a namespace of its own: `flood.py PUBLIC_KEY ADDRESS PORT RATE SOURCE...`. Each
message has a right MAC1 and nothing else right. Says several times a second how many it sent and how
many cookies it got; ends on SIGTERM.
"""

import base64
import hashlib
import itertools
import os
import socket
import struct
import sys
import time

INITIATION, COOKIE = 1, 3
MESSAGES = 500
BURSTS_A_SECOND = 50
REPORT_EVERY = 1000


def initiation(public_key):
    """WireGuard's first message (148 bytes) with random contents and a right MAC1."""
    body = struct.pack("<I", INITIATION) + os.urandom(112)
    key = hashlib.blake2s(b"mac1----" + public_key).digest()
    mac1 = hashlib.blake2s(body, key=key, digest_size=16).digest()
    return body + mac1 + bytes(16)


def open_socket(source):
    sender = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
    sender.bind((source, 0))
    sender.setblocking(False)
    return sender


def cookies(sockets):
    """How many cookie replies wait to be read."""
    count = 0
    for receiver in sockets:
        try:
            while True:
                count += receiver.recv(2048)[0] == COOKIE
        except BlockingIOError:
            pass
    return count


def main(public_key, address, port, rate, *sources):
    public_key = base64.b64decode(public_key)
    messages = itertools.cycle([initiation(public_key) for _ in range(MESSAGES)])
    sockets = [open_socket(source) for source in sources]
    senders = itertools.cycle(sockets)
    sent = got = 0
    due = time.monotonic()
    while True:
        for _ in range(int(rate) // BURSTS_A_SECOND):
            next(senders).sendto(next(messages), (address, int(port)))
            sent += 1
        got += cookies(sockets)
        due += 1 / BURSTS_A_SECOND
        time.sleep(max(0, due - time.monotonic()))
        if sent % REPORT_EVERY == 0:
            print(f"sent {sent} cookies {got}", flush=True)


if __name__ == "__main__":
    main(*sys.argv[1:])
