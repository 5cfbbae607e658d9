"""`vcgate capture`: both sides of the translation in one file, read by Wireshark's tools."""

import json
import os
import re
import signal
import struct

import pytest

from . import iperf, smb
from .gateway import VCGATE
from .net import run

LOGONS = "smb.cmd==0x73 && smb.flags.response==0"
STATISTICS, DROPPED = 5, 5


class Capture:
    """`vcgate capture`, from its first word on stderr to Ctrl-C."""

    def __init__(self, gateway, path, *options):
        self.path = path
        self.process = gateway.machine.start(
            VCGATE, "capture", "-w", path, "--config", gateway.config, *options,
            output=f"{path}.log")
        self.process.wait_for_line("capturing; Ctrl-C ends it")

    def stop(self):
        """Ends it; the packets and the dropped ones that it speaks of, by side and in sum."""
        assert self.process.stop(signal.SIGINT) == 0, self.process.text()
        print(self.process.text())
        found = re.search(r"(\d+) packets? captured \((\d+) in the tunnel, (\d+) on the LAN\), "
                          r"(none|\d+)", self.process.text())
        return [0 if n == "none" else int(n) for n in found.groups()]

    def frames(self, *fields, only=""):
        """Fields of each frame, read by tshark."""
        options = [word for field in fields for word in ("-e", field)]
        rows = run("tshark", "-r", self.path, "-Y", only, "-T", "fields", *options).stdout
        return [line.split("\t") for line in rows.splitlines()]

    def dropped(self):
        """Statistics in the file itself, by interface."""
        data, at, dropped = self.path.read_bytes(), 0, {}
        while at < len(data):
            kind, length = struct.unpack_from("<II", data, at)
            if kind == STATISTICS:
                (interface,) = struct.unpack_from("<I", data, at + 8)
                option = at + 20
                while (head := struct.unpack_from("<HH", data, option))[0] != 0:
                    if head[0] == DROPPED:
                        (dropped[interface],) = struct.unpack_from("<Q", data, option + 4)
                    option += 4 + (head[1] + 3) // 4 * 4
            at += length
        return dropped


def test_both_sides_of_a_logon(lab, samba, start_gateway, tmp_path):
    users = lab.clients(2)
    gateway = start_gateway(users)
    kept = [smb.logon(users[0], samba.address)]
    capture = Capture(gateway, tmp_path / "both.pcapng")
    kept.append(smb.logon(users[1], samba.address))
    count, tunnel, lan, dropped = capture.stop()
    assert (count, dropped) == (tunnel + lan, 0) and tunnel == lan

    rows = capture.frames("frame.interface_name", "smb.vc", "ip.src", "tcp.srcport",
                          "frame.comment", only=LOGONS)
    assert [row[:2] for row in rows] == [["tunnel", "0"], ["lan", "2"]] * 2
    inner, outer = [":".join(row[2:4]) for row in rows[:2]]
    assert inner.startswith(f"{users[1].inner}:") and outer.startswith(f"{gateway.external_address}:")
    told_of = f"user2 {inner} → {samba.address}:445 as {outer}; VcNumber 0 → 2"
    assert {row[4] for row in rows} == {told_of}
    # Every packet has a comment, and whatever else passes is not changed by the hook.
    comments = capture.frames("frame.comment")
    assert len(comments) == count and sum("VcNumber" in comment for (comment,) in comments) == 4

    infos = run("capinfos", capture.path).stdout
    print(infos)
    assert re.search(rf"Number of packets:\s+{count}\b", infos)
    assert re.search(r"Capture application:\s+vcgate", infos)
    assert re.search(r"Number of interfaces in file:\s+2\b", infos)
    assert capture.dropped() == {0: 0, 1: 0}

    report = json.loads(run(VCGATE, "diagnose", capture.path, "--json").stdout)
    assert report["capture"]["frames"] == count and report["capture"]["end"]["how"] == "whole"
    # The server's side decides the verdict; the tunnel's side only identifies the client.
    assert (report["counts"]["session_setups"], report["counts"]["zeros"]) == (2, 0)
    # But the hook's work is seen.
    assert report["counts"]["rewritten_zeros"] == 2
    assert report["verdict"]["kind"] == "rewritten"
    assert f"{users[1].inner}:{rows[0][3]}" in [match["inner"] for match in report["matched"]]


def test_one_peer_one_side(lab, samba, start_gateway, tmp_path):
    users = lab.clients(2)
    gateway = start_gateway(users)
    capture = Capture(gateway, tmp_path / "lan.pcapng", "--peer", "user1", "--side", "lan")
    kept = [smb.logon(user, samba.address) for user in users]
    assert users[0].machine.ping(samba.address).returncode == 0

    # Only one capture runs at a time; one that does not start touches no file.
    for options, said in [([], "a capture is running already: stop it with Ctrl-C where it was started"),
                          (["--peer", "nobody"], "a capture is running already")]:
        other = gateway.vcgate("capture", "-w", "other.pcapng", *options, check=False)
        assert other.returncode == 1 and said in other.stderr
    count, tunnel, lan, _ = capture.stop()
    assert tunnel == 0 and count == lan
    nobody = gateway.vcgate("capture", "-w", "other.pcapng", "--peer", "nobody", check=False)
    assert nobody.returncode == 1
    assert 'there is no peer "nobody": see `vcgate peer list`' in nobody.stderr
    assert not (gateway.dir / "other.pcapng").exists()

    rows = capture.frames("frame.interface_name", "frame.comment", "ip.src", "ip.dst")
    assert all(row[0] == "lan" and row[1].startswith(f"user1 {users[0].inner}") for row in rows)
    assert all(gateway.external_address in row[2:] for row in rows)
    assert [row[0] for row in capture.frames("smb.vc", only=LOGONS)] == ["1", "1"]
    assert len(capture.frames("icmp.type", only="icmp")) == 2
    report = json.loads(run(VCGATE, "diagnose", capture.path, "--json").stdout)
    assert report["verdict"]["kind"] == "no_zero"


def test_into_a_pipe(lab, start_gateway, tmp_path):
    (client,) = clients = lab.clients(1)
    gateway = start_gateway(clients)
    pipe = f"{VCGATE} capture -w - --config {gateway.config} | tshark -l -r - -c 4 -T fields " \
           "-e frame.interface_name -e icmp.type -Y icmp"
    shell = gateway.machine.start("bash", "-c", f"set -o pipefail; {pipe}", output=tmp_path / "pipe.log")
    shell.wait_for_line("capturing; Ctrl-C ends it")
    assert client.machine.ping("192.168.77.10").returncode == 0
    shell.wait_for_line(r"tunnel\t8\nlan\t8\nlan\t0\ntunnel\t0\n")
    # tshark has enough; so has vcgate, at the next packet, and says nothing of it.
    wait_over(client, shell)
    assert shell.returncode() == 0 and "error" not in shell.text(), shell.text()
    Capture(gateway, tmp_path / "next.pcapng").stop()


def wait_over(client, shell):
    for _ in range(20):
        if shell.returncode() is not None:
            return
        client.machine.ping("192.168.77.10")
    raise TimeoutError("the pipe does not end")


def test_an_endpoint_that_stops_leaves_a_readable_file(lab, start_gateway, tmp_path):
    (client,) = clients = lab.clients(1)
    gateway = start_gateway(clients)
    capture = Capture(gateway, tmp_path / "cut.pcapng", "--side", "tunnel")
    assert client.machine.ping("192.168.77.10").returncode == 0
    gateway.stop()
    assert capture.process.wait() == 1
    assert "the endpoint has stopped" in capture.process.text()
    run("capinfos", capture.path)
    assert {row[0] for row in capture.frames("frame.interface_name")} <= {"tunnel"}


@pytest.mark.parametrize("direction", [[], ["-R"]], ids=["up", "down"])
def test_a_stopped_reader_holds_up_nobody(lab, start_gateway, iperf_servers, tmp_path, direction):
    (client,) = clients = lab.clients(1)
    gateway = start_gateway(clients)
    servers = iperf_servers()
    measure = lambda: iperf.measure(client, servers, *direction, "-n", "100M", seconds=None)
    without = measure()
    capture = Capture(gateway, tmp_path / "flood.pcapng")
    capture.process.send(signal.SIGSTOP)
    result = measure()
    print(f"without a capture: {without}; with a stopped reader: {result}")
    # Both run on a machine that may be busy with something else at the time.
    assert result.megabits > without.megabits / 4
    assert gateway.json("status")["peers"]
    capture.process.send(signal.SIGCONT)
    count, _, _, dropped = capture.stop()
    assert dropped > 0 and sum(capture.dropped().values()) == dropped
    assert len(capture.frames("frame.number")) == count
    assert max(int(row[0]) for row in capture.frames("frame.len")) > 10_000


def test_a_pipe_that_nobody_reads_gives_the_capture_back(lab, start_gateway, iperf_servers, tmp_path):
    """The pipe and the socket fill, traffic continues, and after a while others can capture."""
    (client,) = clients = lab.clients(1)
    gateway = start_gateway(clients)
    pipe = tmp_path / "pipe"
    os.mkfifo(pipe)
    end = os.open(pipe, os.O_RDWR)
    stalled = gateway.machine.start(
        "sh", "-c", f"exec {VCGATE} capture -w - --config {gateway.config} > {pipe}",
        output=tmp_path / "stalled.log")
    try:
        stalled.wait_for_line("capturing; Ctrl-C ends it")
        assert iperf.measure(client, iperf_servers(), "-n", "50M", seconds=None).megabits > 0
        second = gateway.vcgate("capture", "-w", "second.pcapng", check=False)
        assert second.returncode == 1 and "a capture is running already" in second.stderr
        gateway.process.wait_for_line("ended the capture: its client read nothing for 30 s", 90)
        Capture(gateway, tmp_path / "next.pcapng").stop()
        assert client.machine.ping("192.168.77.10").returncode == 0
    finally:
        stalled.stop(signal.SIGKILL)
        os.close(end)
