"""`address = "auto"`: clients appear as the host's own LAN address. The basic tests once more."""

import contextlib
import os
import signal
import socket
import time

import pytest

from . import iperf, smb, topology
from .test_kill import PORT, Copy, User, all_move, connected


@pytest.fixture
def gateway(lab, start_gateway):
    return start_gateway(lab.clients(3), "vcgate", address="auto")


@pytest.mark.parametrize("port", [445, 139])
def test_assign_cuts_nobody_off(gateway, open_office, port):
    office = open_office(port)
    office.assert_nobody_is_cut_off()
    assert office.log.sources() == {topology.GATEWAY_LAN}


def test_ping(lab, gateway):
    assert lab.client(1).machine.ping(topology.TUNNEL).returncode == 0
    assert lab.client(1).machine.ping(topology.SERVER).returncode == 0
    assert lab.client(1).machine.ping(topology.GATEWAY_LAN).returncode == 0


def test_reports_say_what_the_lan_sees(lab, gateway):
    lab.client(1).machine.reaches(topology.SERVER)
    assert gateway.json("status")["lan"]["address"] == topology.GATEWAY_LAN
    assert {flow["lan"].split(":")[0] for flow in gateway.json("flows")} == {topology.GATEWAY_LAN}


def test_a_port_of_the_machine_itself_is_not_forwarded(lab, gateway):
    with lab.gateway.entered():
        ssh = socket.create_server((topology.GATEWAY_LAN, 22))
    before = gateway.config.read_text()
    with ssh:
        refused = gateway.vcgate("forward", "add", "22", f"{lab.client(1).inner}:22", check=False)
        assert refused.returncode == 1
        assert "cannot forward tcp/22: a program on this machine listens on it" in refused.stderr, refused.stderr
        assert gateway.config.read_text() == before
        with lab.server.entered(), socket.create_connection((topology.GATEWAY_LAN, 22), 5):
            pass
    gateway.vcgate("forward", "add", "22", f"{lab.client(1).inner}:22")


def test_a_forward_is_removed_whose_port_the_kernel_has_lost(lab, gateway):
    gateway.vcgate("forward", "add", "8443", f"{lab.client(1).inner}:443")
    gateway.machine.run("nft", "delete", "element", "ip", f"vcgate_{gateway.name}", "tcp_ports", "{ 8443 }")
    gateway.vcgate("forward", "remove", "8443")
    assert "cannot remove the DNAT rule of a closed forward" in gateway.process.text()
    assert "has no changes" in gateway.vcgate("reload").stdout


@pytest.mark.parametrize("options", [[], ["-R"], ["-u", "-b", "50M", "-l", "1300"]],
                         ids=["up", "down", "udp"])
def test_iperf(lab, gateway, iperf_servers, options):
    result = iperf.measure(lab.client(1), iperf_servers(), *options)
    print(result)
    assert result.bytes > 0


@pytest.mark.parametrize("end", [signal.SIGKILL])
def test_the_kernel_resets_no_connection_while_nothing_runs(lab, gateway, samba, end):
    """VCGATE_LAB_GAPS is the number of restarts."""
    first, second, third = lab.clients(3)
    with contextlib.ExitStack() as stack:
        def made(kind, *arguments):
            return stack.enter_context(contextlib.closing(kind(*arguments)))

        up = connected(lab.server, first, socket.AF_INET, topology.SERVER, PORT)
        down = connected(lab.server, second, socket.AF_INET, topology.SERVER, PORT + 1)
        copies = {"up": made(Copy, *up), "down": made(Copy, *reversed(down)),
                  "smb1": made(User, smb.logon(third, samba.address, timeout=60), "gap.bin")}
        all_move(copies)
        for _ in range(int(os.environ.get("VCGATE_LAB_GAPS", "1"))):
            assert gateway.stop(end) == (0 if end == signal.SIGTERM else -end)
            time.sleep(0.7)  # the gap is the test: a service manager waits for half a second
            gateway.launch()
            all_move(copies)
        for copy in copies.values():
            copy.finish()
