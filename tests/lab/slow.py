"""Slow observations: started when the machines are ready, evaluated after the other tests."""

import time
import types

from scapy.layers.inet import TCP

from .wire import Flow, connect

SILENCE = 6
STRANGER, EARLY_BIRD = 4001, 4002


def begin(world):
    """Slow observations: unsolicited SYNs, and a connection that is reset."""
    world.aside = lambda packet: answer_to_a_syn(world.family, packet) is not None
    expected, unexpected, reset = (connect(world) for _ in range(3))
    began = time.time()
    second = {"src": world.family.second, "flags": "S", "seq": 1}
    world.from_server(unexpected.back(port=STRANGER, **second), expected.back(port=EARLY_BIRD, **second))
    meeting = Flow(world, "tcp", server=world.family.second, port=expected.port, server_port=EARLY_BIRD)
    world.from_client(meeting.out(flags="S", seq=1))
    world.from_server(reset.back(flags="R", seq=2001))
    return types.SimpleNamespace(began=began, reset=reset)


def answer_to_a_syn(family, packet):
    """Source of the refused SYN, and the kind of refusal."""
    if packet.version != family.number:
        return None
    error = family.read_error(packet)
    how, port = ("icmp", error[2][TCP].sport) if error and TCP in error[2] else (None, None)
    if TCP in packet and "R" in packet[TCP].flags:
        how, port = "reset", packet[TCP].dport
    return (port, how) if port in (STRANGER, EARLY_BIRD) else None
