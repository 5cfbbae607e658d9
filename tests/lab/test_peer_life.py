"""The life of a peer in a running endpoint: switched off and on, at the end of its time, with another
name, with new keys."""

import datetime

from . import topology
from .net import wait_for


def inactive(gateway):
    return {peer["name"]: peer["state"] for peer in gateway.json("status")["inactive"]}


def reaches(client):
    return client.machine.run("ping", "-c", "1", "-W", "1", topology.SERVER, check=False).returncode == 0


def assert_cut_off(gateway, client):
    assert client.name not in [peer["name"] for peer in gateway.json("status")["peers"]]
    assert [flow for flow in gateway.json("flows") if flow["peer"] == client.name] == []
    assert not reaches(client)


def test_a_disabled_peer_is_cut_off_until_it_is_enabled(lab, start_gateway):
    clients = other, client = lab.clients(2)
    gateway = start_gateway(clients)
    assert reaches(client) and reaches(other)
    gateway.vcgate("peer", "disable", client.name)
    assert inactive(gateway) == {client.name: "disabled"}
    assert_cut_off(gateway, client)
    assert reaches(other)
    why = gateway.vcgate("peer", "why", client.name, check=False)
    assert f"vcgate peer enable {client.name}" in why.stderr
    # Not after a reload or a new start either.
    gateway.vcgate("reload")
    assert_cut_off(gateway, client)
    gateway.stop()
    gateway.up()
    assert inactive(gateway) == {client.name: "disabled"}
    # Nor by a command of `wg`, which does not know of it.
    file = gateway.dir / "wg.conf"
    both = ((client.keys.public, client.inner), (other.keys.public, other.inner))
    file.write_text("".join(f"[Peer]\nPublicKey = {key}\nAllowedIPs = {address}/32\n" for key, address in both))
    for arguments in (("set", gateway.name, "peer", client.keys.public, "allowed-ips", client.inner),
                      ("addconf", gateway.name, file)):
        gateway.machine.run("wg", *arguments)
        assert inactive(gateway) == {client.name: "disabled"}
        assert_cut_off(gateway, client)
        assert reaches(other)
    assert "cannot add the peer: the configuration has disabled it" in gateway.process.text()
    gateway.process.wait_for_line(f"its peer is disabled; `vcgate peer enable {client.name}`")
    assert "no peer has its public key" not in gateway.process.text()
    gateway.vcgate("peer", "enable", client.name)
    client.connect(gateway)
    assert reaches(client)
    assert f"peer {client.name}: changed disabled" in gateway.process.text()


def test_a_peer_is_cut_off_when_it_expires(lab, start_gateway):
    (client,) = clients = lab.clients(1)
    gateway = start_gateway(clients)
    assert reaches(client)
    gateway.vcgate("peer", "set", client.name, "expires=2s")
    gateway.process.wait_for_line(f"peer {client.name}: expired")
    assert inactive(gateway) == {client.name: "expired"}
    assert_cut_off(gateway, client)
    # The time that is in the file has passed: not more than a second ago.
    (expires,) = (peer["expires"] for peer in gateway.json("status")["inactive"])
    assert datetime.datetime.fromisoformat(expires.replace("Z", "+00:00")) < datetime.datetime.now(
        datetime.timezone.utc)
    gateway.vcgate("peer", "set", client.name, "expires=never")
    client.connect(gateway)
    assert reaches(client)


def test_a_renamed_peer_keeps_its_session(lab, start_gateway):
    (client,) = clients = lab.clients(1)
    gateway = start_gateway(clients)
    (before,) = gateway.json("status")["peers"]
    gateway.vcgate("peer", "rename", client.name, "laptop")
    (after,) = gateway.json("status")["peers"]
    assert after["name"] == "laptop"
    assert after["last_handshake"] == before["last_handshake"]
    assert reaches(client)


def test_the_old_configuration_of_a_peer_with_new_keys_does_not_connect(lab, make_gateway):
    client = lab.client(1)
    gateway = make_gateway("vcgate")
    gateway.write([])
    gateway.up()
    gateway.vcgate("peer", "add", client.name)
    client.connect_quick(gateway.vcgate("peer", "show", client.name).stdout)
    wait_for("the client to reach the server", lambda: reaches(client))
    gateway.vcgate("peer", "rekey", client.name)
    assert not reaches(client)
    client.connect_quick(gateway.vcgate("peer", "show", client.name).stdout)
    wait_for("the client to reach the server", lambda: reaches(client))
    assert "uid=0" in gateway.process.text().split(f"peer {client.name}: removed")[-2].splitlines()[-1]
