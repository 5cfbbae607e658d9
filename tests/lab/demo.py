"""The failure and its cure in front of one's eyes: two users, one LAN address, and a file server that drops
a user's connections when another one logs on with VcNumber 0. First without the hook, then with it.

    tests/run demo                 needs nothing but this machine: all of it is in network namespaces

It changes nothing outside of those and removes them at the end, at Ctrl-C too.
"""

import os
import signal
import sys
import tempfile

from . import net, smb, topology
from .gateway import Vcgate
from .net import wait_for
from .samba import Samba

SIZE = 2_000_000
COPIES = 5
"""Copies that the first user makes after the second one has logged on."""


def say(text=""):
    print(text, flush=True)


def show(lab, hook):
    """One round on a fresh gateway and a fresh server; whether the first user was cut off."""
    lab.new_gateway()
    users = lab.clients(2)
    samba = Samba(lab.server, topology.SERVER)
    gateway = Vcgate(lab, tempfile.mkdtemp(dir=lab.scratch), hook=hook)
    reader = None
    try:
        gateway.start(users)
        for user in users:
            user.connect(gateway)
        log = samba.mark()
        content = os.urandom(SIZE)
        first = smb.logon(users[0], samba.address)
        smb.put(first, "report", content)
        reader = smb.Reader(first, "report", content)
        copies(reader, 2)
        say(f"  user 1 has logged on and copies a file of {SIZE // 1_000_000} MB again and again: "
            f"{reader.reads} copies so far")
        smb.logon(users[1], samba.address)
        say("  user 2 logs on, as every Windows client does, with VcNumber 0")
        copies(reader, COPIES)
        if reader.alive():
            say(f"  user 1 is still connected: {reader.reads} copies, {reader.wrong} of them damaged")
        else:
            say(f"  USER 1 WAS CUT OFF: {reader.cut_off}")
        for line in sorted(set(log.kills())):
            say(f"    the server's log: {line}")
        if hook != "off":
            counted = gateway.json("smb")
            say(f"    `vcgate smb`: {counted['session_setups']} logon messages, {counted['zero_seen']} with "
                f"VcNumber 0, {counted['rewritten']} rewritten")
        return not reader.alive()
    finally:
        if reader:
            reader.stop()
        lab.disconnect()
        if gateway.process:
            gateway.stop()
        samba.stop()


def copies(reader, more):
    """Waits until the user has made so many more copies, or is cut off."""
    goal = reader.reads + more
    wait_for("the first user's copies", lambda: reader.reads >= goal or not reader.alive(), 30)


def interrupt(*_):
    """Ends the demonstration once: a second Ctrl-C does not disturb the removal."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    raise KeyboardInterrupt


def main():
    for sig in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        signal.signal(sig, interrupt)
    try:
        with net.alone():
            say("A demonstration LAN in network namespaces of this machine:\n\n"
                "  user 1 ─┐ WireGuard\n"
                "          ├──────────── vcgate ── LAN ── file server (Samba, `reset on zero vc`)\n"
                "  user 2 ─┘              one LAN address for both users\n")
            lab = topology.Lab()
            say('1. Without the hook ([smb] hook = "off"): what any NAT does')
            cut_off = show(lab, "off")
            say('\n2. With the hook ([smb] hook = "assign"): each logon gets a number of its own')
            still_cut_off = show(lab, "assign")
    except KeyboardInterrupt:
        say("\nstopped; everything that it had made is removed")
        return 130
    except RuntimeError as error:
        print(f"error: cannot run the demonstration: {str(error).strip()}; it needs root that can make network namespaces and "
              "write in /proc/sys: a machine, or a container with --privileged", file=sys.stderr)
        return 1
    expected = cut_off and not still_cut_off
    say("\nWithout the hook user 1 was cut off by user 2, with it no user was. All of it is removed again."
        if expected else "\nThis is not what was to be shown: please report it, with the lines above.")
    return 0 if expected else 1


if __name__ == "__main__":
    sys.exit(main())
