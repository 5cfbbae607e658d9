"""The gateway's machine stops for a while, as for a snapshot of a virtual machine, and continues."""

import re
import signal
import time

import pytest

from . import topology
from .net import wait_for

CLIENTS = 6
# 148 bytes of UDP payload: an initiation (WireGuard paper, section 5.4.2).
INITIATIONS = "udp port 51820 and udp[4:2] = 156"


@pytest.mark.parametrize("pause", [65])
def test_clients_are_back_before_they_try_again(lab, start_gateway, tmp_path, pause):
    clients = lab.clients(CLIENTS)
    gateway = start_gateway(clients, connect=False)
    for client in clients:
        client.connect(gateway, keepalive=25)
    pings = [client.machine.start("ping", "-n", "-D", "-i", "0.2", topology.SERVER,
                                  output=tmp_path / f"{client.name}.ping") for client in clients]
    for ping in pings:
        ping.wait_for_line("icmp_seq=5 ")
    capture = gateway.machine.capture("wan", INITIATIONS, tmp_path / "capture")
    gateway.process.send(signal.SIGSTOP)
    try:
        # Long enough for the clients' own timers; nothing is waited for here.
        time.sleep(pause)
    finally:
        began = time.time()
        gateway.process.send(signal.SIGCONT)
    # Echo requests that waited in the socket are answered too; later ones need a session.
    sent_later = {ping: len(ping.text()) for ping in pings}

    def back(ping):
        answers = re.findall(r"\[([\d.]+)\].*time=([\d.]+) ms", ping.text()[sent_later[ping]:])
        return next((float(at) for at, took in answers if float(took) < 1000), None)

    times = [wait_for("a client to be back", lambda ping=ping: back(ping), 30) - began for ping in pings]
    print("back after", [f"{seconds:.2f} s" for seconds in sorted(times)])
    capture.stop()
    for ping in pings:
        ping.stop()
    assert gateway_initiations(capture) <= CLIENTS
    # Each client's last try was under way, or it begins one with its next packet.
    for client in clients:
        outside = lab.wan_addresses(client.number)[0].split("/")[0]
        tries = [at for at in initiations(capture, outside) if at > began]
        assert len(tries) <= 1, f"{client.name} tried again: {tries}"


def initiations(capture, source):
    """When a machine sent its handshake initiations."""
    lines = [line for line in capture.text().splitlines() if f" IP {source}." in line]
    return [_seconds(line.split()[0]) for line in lines]


def gateway_initiations(capture):
    return len(initiations(capture, topology.GATEWAY_WAN))


def _seconds(clock):
    """tcpdump's time of day as seconds since the epoch, in this run's day."""
    hours, minutes, seconds = clock.split(":")
    of_day = int(hours) * 3600 + int(minutes) * 60 + float(seconds)
    now = time.time()
    here = time.localtime(now)
    today = now - (here.tm_hour * 3600 + here.tm_min * 60 + here.tm_sec + now % 1)
    return today + of_day
