"""The audit log: changes with their authors and values, and connections."""

import json
import os
import signal

import pytest

from .net import wait_for


@pytest.fixture
def audit(tmp_path):
    """Reads the events of a kind."""
    file = tmp_path / "log/audit.jsonl"

    def events(kind):
        records = map(json.loads, file.read_text().splitlines())
        return [record for record in records if record["event"] == kind]

    events.file = file
    return events


def test_changes_have_an_author_and_values_and_clients_connect(lab, make_gateway, audit):
    (client,) = lab.clients(1)
    gateway = make_gateway("vcgate")
    gateway.write([client])
    gateway.config.write_text(f'[audit]\nlog_file = "{audit.file}"\n' + gateway.config.read_text())
    gateway.up()
    assert audit.file.stat().st_mode & 0o777 == 0o600
    client.connect(gateway)
    wait_for("the client in the log", lambda: audit("connected"))
    (connected,) = audit("connected")
    assert connected["peer"] == client.name and connected["source"]

    def last():
        return audit("change")[-1]

    gateway.vcgate("peer", "set", client.name, "note=a laptop")
    wait_for("the command in the log", lambda: audit("change"))
    command = last()
    assert (command["by"], command["uid"], command["peer"]) == ("command", os.getuid(), client.name)
    assert command["values"] == [{"key": "note", "old": None, "new": "a laptop"}]

    gateway.machine.run("wg", "set", gateway.name, "peer", client.keys.public, "persistent-keepalive", "7")
    wait_for("the change by wg in the log", lambda: last()["by"] == "wg")
    assert last()["values"] == [{"key": "persistent_keepalive", "old": None, "new": 7}]

    # The file is another one after a signal, as logrotate sends it.
    audit.file.rename(audit.file.with_suffix(".old"))
    text = gateway.config.read_text()
    gateway.config.write_text(text.replace('note = "a laptop"', 'note = "a desktop"'))
    gateway.process.send(signal.SIGHUP)
    wait_for("the new file", audit.file.exists)

    def notes():
        return [change for change in audit("change") if "note" in change.get("keys", ())]

    wait_for("the reload in the new file", notes)
    (change,) = notes()
    assert change["by"] == "SIGHUP"
    assert {"key": "note", "old": "a laptop", "new": "a desktop"} in change["values"]

    gateway.vcgate("peer", "disable", client.name)
    wait_for("the end of the session in the log", lambda: audit("disconnected"))
    assert audit("disconnected")[0]["rx_bytes"] > 0
    gateway.stop()
    assert audit("stopped")
