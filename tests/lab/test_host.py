"""`vcgate up` undoes its changes of the host however it ends, and reports at once what is impossible."""

import contextlib
import re
import signal
import socket

import pytest

from . import gateway as gateways
from . import hoststate, topology
from .net import wait_for

OWN = "192.168.77.2"


@pytest.fixture
def vcgate(make_gateway):
    """A function that makes a vcgate with its configuration, not up yet."""
    def make(clients=(), **options):
        gateway = make_gateway("vcgate", **options)
        gateway.write(clients)
        return gateway

    return make


@pytest.mark.parametrize("sig", [signal.SIGTERM, signal.SIGINT], ids=lambda sig: sig.name)
@pytest.mark.parametrize("address", [OWN, "auto"])
def test_all_is_undone_at_the_end(lab, vcgate, address, sig):
    before = hoststate.of(lab.gateway)
    (client,) = clients = lab.clients(1)
    gateway = vcgate(clients, address=address)
    gateway.up()
    client.connect(gateway)
    client.machine.reaches(topology.SERVER)
    assert hoststate.difference(before, hoststate.of(lab.gateway)), "up changed nothing"
    assert gateway.stop(sig) == 0, gateway.process.text()
    assert hoststate.difference(before, hoststate.of(lab.gateway)) == []


@pytest.mark.parametrize("address", [OWN, "auto"])
def test_a_run_after_a_kill_starts_clean(lab, vcgate, address):
    before = hoststate.of(lab.gateway)
    (client,) = clients = lab.clients(1)
    gateway = vcgate(clients, address=address)
    gateway.up()
    gateway.stop(signal.SIGKILL)
    gateway.up()
    client.connect(gateway)
    client.machine.reaches(topology.SERVER)
    assert gateway.stop() == 0, gateway.process.text()
    assert hoststate.difference(before, hoststate.of(lab.gateway)) == []


def test_it_answers_arp_for_its_address_alone(lab, vcgate):
    def answers(address):
        return lab.probe.run("arping", "-I", "br0", "-c1", "-w2", address, check=False).returncode == 0

    gateway = vcgate(lab.clients(1))
    assert not answers(OWN)
    gateway.up()
    wait_for("an answer", lambda: answers(OWN))
    assert not answers("192.168.77.3")
    gateway.stop()
    assert not answers(OWN)


@contextlib.contextmanager
def lan_address_taken(lab):
    lab.probe.ip("address", "add", f"{OWN}/24", "dev", "br0")
    try:
        yield
    finally:
        lab.probe.ip("address", "delete", f"{OWN}/24", "dev", "br0")


@contextlib.contextmanager
def port_taken(lab):
    with lab.gateway.entered():
        taken = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
    with taken:
        taken.bind(("0.0.0.0", gateways.PORT))
        yield


@contextlib.contextmanager
def name_taken(lab):
    name = gateways.Vcgate.name
    lab.gateway.ip("link", "add", name, "type", "bridge")
    try:
        yield
    finally:
        lab.gateway.ip("link", "delete", name)


@contextlib.contextmanager
def nothing(_lab):
    yield


NO_NET_ADMIN = ("setpriv", "--bounding-set", "-net_admin", "--inh-caps", "-net_admin")
NO_TUN = ("sh", "-c", 'mount -t tmpfs none /dev/net && exec "$@"', "sh")

REFUSALS = {
    # what is wrong: (how to bring it about, command in front, what the message names, its remedy)
    "the LAN address is taken": (lan_address_taken, (), OWN, "another|free|auto"),
    "the port is taken": (port_taken, (), str(gateways.PORT), "another|stop|listen_port"),
    "the name is taken": (name_taken, (), gateways.Vcgate.name, "another|remove|interface.name"),
    "no CAP_NET_ADMIN": (nothing, NO_NET_ADMIN, "CAP_NET_ADMIN", "sudo|root|setcap"),
    "no /dev/net/tun": (nothing, NO_TUN, "/dev/net/tun", "modprobe|mknod|--device"),
}


@pytest.mark.parametrize("wrong", REFUSALS)
def test_what_is_wrong_is_said_and_nothing_is_half_set_up(lab, vcgate, wrong):
    circumstances, wrapper, named, remedy = REFUSALS[wrong]
    gateway = vcgate(lab.clients(1))
    with circumstances(lab):
        before = hoststate.of(lab.gateway)
        gateway.launch(*wrapper)
        returncode = gateway.process.wait(20)
        after = hoststate.of(lab.gateway)
    assert_refused(returncode, gateway.process.text(), named, remedy)
    assert hoststate.difference(before, after) == []


def test_a_lan_without_addresses_is_not_passed_over_in_silence(lab, vcgate):
    gateway = vcgate(lab.clients(1))
    gateway.config.write_text(re.sub("networks = .+\n", "", gateway.config.read_text()))
    lab.gateway.ip("address", "flush", "dev", "lan")
    gateway.up()
    assert "clients can reach nothing: the LAN interface has no address" in gateway.process.text()


def test_a_peer_that_takes_the_lan_is_named(lab, vcgate):
    (client,) = lab.clients(1)
    gateway = vcgate([client], address="auto")
    text = re.sub("networks = .+\n", "", gateway.config.read_text())
    own = f'"{client.inner}/32"'
    gateway.config.write_text(text.replace(own, f'{own}, "0.0.0.0/0"'))
    gateway.up()
    taken = 'peer "user1": allowed_ips: {} covers 192.168.77.0/24 of the LAN'
    assert taken.format("0.0.0.0/0") in gateway.process.text()
    gateway.machine.run("wg", "set", gateway.name, "peer", client.keys.public,
                        "allowed-ips", f"{client.inner}/32,192.168.0.0/16")
    assert taken.format("192.168.0.0/16") in gateway.process.text()


def test_doctor_sees_what_up_refuses(lab, vcgate):
    gateway = vcgate(lab.clients(1), address=topology.GATEWAY_LAN)
    found = gateway.vcgate("doctor", check=False)
    assert found.returncode == 1
    assert re.search(rf"FAIL +lan-address +.*{topology.GATEWAY_LAN} is assigned to this machine", found.stdout)
    assert "TUN device ready" not in found.stderr
    unready = ("sh", "-c", 'mount -t tmpfs -o ro none /run/vcgate; exec "$@"', "sh")
    lab.gateway.run("mkdir", "-p", "/run/vcgate")
    found = lab.gateway.run(*unready, gateways.VCGATE, "doctor", "--config", gateway.config, check=False)
    assert re.search("FAIL +control-socket +.*/run/vcgate", found.stdout), found.stdout
    assert "RuntimeDirectory=vcgate wireguard" in found.stdout


def test_an_unknown_lan_interface(lab, vcgate):
    gateway = vcgate(lab.clients(1))
    gateway.config.write_text(gateway.config.read_text().replace('"lan"', '"nowhere0"'))
    before = hoststate.of(lab.gateway)
    gateway.launch()
    assert_refused(gateway.process.wait(20), gateway.process.text(), "nowhere0",
                   r"\[lan\] interface|lan\.interface")
    assert hoststate.difference(before, hoststate.of(lab.gateway)) == []


def test_a_key_file_that_others_can_read(lab, vcgate):
    gateway = vcgate(lab.clients(1))
    (gateway.dir / "keys/server.key").chmod(0o640)
    gateway.launch()
    assert_refused(gateway.process.wait(20), gateway.process.text(), "server.key", "chmod")


def assert_refused(returncode, message, named, remedy):
    """Exit code 1, and a message for a person: the place, and what to do about it."""
    print(message)
    assert returncode == 1
    assert named in message
    assert re.search(remedy, message), "no remedy"
    assert "panicked" not in message
