"""Fixtures: the machines once a run; servers, gateways and tunnels once a test."""

import signal

import pytest

from . import iperf, net, topology
from .gateway import KINDS, VCGATE
from .office import Office
from .samba import Samba


def pytest_addoption(parser):
    parser.addoption("--gateway", default="vcgate", choices=KINDS,
                     help="the kind of gateway for tests that do not name one")
    parser.addoption("--crowd-seconds", type=float, default=60, help="how long the crowd logs on")


def pytest_configure(config):
    if config.getoption("--gateway") == "vcgate" and not VCGATE.exists():
        raise pytest.UsageError(f"no {VCGATE}: build it with `cargo build --release`, or set VCGATE")


@pytest.fixture(scope="session")
def lab():
    # A run that is terminated cleans up as well.
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    with net.alone():
        yield topology.Lab()


@pytest.fixture
def samba(lab):
    """A server of its own for each test: no connection of an earlier one is left to be cut off."""
    server = Samba(lab.server, topology.SERVER)
    yield server
    server.stop()


@pytest.fixture
def strict_samba(lab):
    """A server that requires signing."""
    server = Samba(lab.server, topology.SERVER, signing="mandatory")
    yield server
    server.stop()


@pytest.fixture
def make_gateway(lab, tmp_path, request):
    """A function that makes a gateway, not started yet, on a machine of its own."""
    made = []
    lab.new_gateway()

    def make(kind=None, **options):
        made.append(KINDS[kind or request.config.getoption("--gateway")](lab, tmp_path, **options))
        return made[-1]

    yield make
    lab.disconnect()
    for gateway in made:
        if gateway.process:
            gateway.stop()


@pytest.fixture
def start_gateway(make_gateway):
    """A function that starts a gateway for these clients and connects them."""
    def start(clients, kind=None, connect=True, **options):
        gateway = make_gateway(kind, **options)
        gateway.start(clients)
        if connect:
            for client in clients:
                client.connect(gateway)
        return gateway

    return start


@pytest.fixture
def open_office(lab, samba):
    """A function that puts three users to work with the server's port."""
    opened = []

    def open_one(port):
        opened.append(Office(lab.clients(3), samba, port))
        return opened[-1]

    yield open_one
    for office in opened:
        office.close()


@pytest.fixture
def iperf_servers(lab, tmp_path):
    """A function that starts iperf3 servers."""
    made = []

    def start(count=1):
        made.append(iperf.Servers(lab.server, topology.SERVER, tmp_path, count))
        return made[-1]

    yield start
    for servers in made:
        servers.stop()
