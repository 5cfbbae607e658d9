"""`vcgate metrics`, read by Prometheus' own programs and parser; the alerts and the dashboard."""

import json
import pathlib
import re
import subprocess
import urllib.request

from prometheus_client.openmetrics import parser as openmetrics
from prometheus_client import parser as prometheus

from . import smb

NODE_EXPORTER_PORT = 9100
ROOT = pathlib.Path(__file__).parents[2]
RULES = ROOT / "packaging/prometheus/vcgate.rules.yml"


def promtool(*arguments, folder):
    """Runs promtool; the output of a failure is the error."""
    done = subprocess.run(["promtool", *arguments], cwd=folder, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr


def dashboard_expressions():
    """The expressions of the dashboard, with a value for each of its variables."""
    dashboard = json.loads((ROOT / "packaging/grafana/vcgate.json").read_text())
    targets = [target for panel in dashboard["panels"] for target in panel["targets"]]
    return [target["expr"].replace("$interface", "vcg0").replace("$__rate_interval", "5m") for target in targets]


def test_alerts_fire_for_their_problems_only():
    promtool("check", "rules", RULES.name, folder=RULES.parent)
    promtool("test", "rules", "vcgate.rules.test.yml", folder=RULES.parent)
    alerts = re.findall(r"- alert: (\w+)", RULES.read_text())
    tested = re.findall(r"alertname: (\w+)", (RULES.parent / "vcgate.rules.test.yml").read_text())
    assert alerts and set(alerts) == set(tested)


def test_prometheus_takes_the_expressions_of_the_dashboard(tmp_path):
    rules = [{"record": f"panel:{number}", "expr": expression}
             for number, expression in enumerate(dashboard_expressions())]
    # JSON is YAML too.
    (tmp_path / "rules.yml").write_text(json.dumps({"groups": [{"name": "dashboard", "rules": rules}]}))
    promtool("check", "rules", "--lint=none", "rules.yml", folder=tmp_path)


def test_metrics_say_what_the_status_says(lab, samba, start_gateway):
    users = lab.clients(2)
    gateway = start_gateway(users)
    kept = [smb.logon(user, samba.address) for user in users]
    text, status = gateway.vcgate("metrics", "--openmetrics").stdout, gateway.json("status")
    families = {family.name: family for family in openmetrics.text_string_to_metric_families(text)}

    def samples(family, label):
        return {sample.labels[label]: sample.value for sample in families[family].samples}

    assert samples("vcgate_endpoint", "version") == {status["version"]: 1}
    assert samples("vcgate_smb_zero_seen", "interface") == {gateway.name: status["smb"]["zero_seen"]}
    assert status["smb"]["zero_seen"] == 2 * len(kept), "both legs of each logon"
    flows = {peer["name"]: peer["flows"] for peer in status["peers"]}
    assert samples("vcgate_peer_flows", "peer") == flows == {user.name: 1 for user in users}
    # The status is the later one.
    received = samples("vcgate_peer_received_bytes", "peer")
    assert all(0 < received.pop(peer["name"]) <= peer["rx_bytes"] for peer in status["peers"])
    assert not received


def test_prometheus_takes_the_metrics_as_documented(lab, start_gateway, tmp_path):
    clients = lab.clients(1)
    gateway = start_gateway(clients)
    text = gateway.vcgate("metrics").stdout
    # It has nothing to say about names, types and help texts.
    checked = gateway.machine.run("promtool", "check", "metrics", input=text, check=False)
    assert (checked.returncode, checked.stdout + checked.stderr) == (0, "")

    # docs/operations.md: written beside, and renamed.
    folder = tmp_path / "textfile"
    folder.mkdir()
    (folder / "vcgate.prom").write_text(text)
    exporter = gateway.machine.start(
        "prometheus-node-exporter", "--collector.disable-defaults", "--collector.textfile",
        f"--collector.textfile.directory={folder}",
        f"--web.listen-address=127.0.0.1:{NODE_EXPORTER_PORT}", output=tmp_path / "exporter.log")
    try:
        gateway.machine.listening(NODE_EXPORTER_PORT)
        with gateway.machine.entered():
            url = f"http://127.0.0.1:{NODE_EXPORTER_PORT}/metrics"
            with urllib.request.urlopen(url, timeout=10) as answer:
                scraped = answer.read().decode()
    finally:
        exporter.stop()

    def samples(text):
        families = prometheus.text_string_to_metric_families(text)
        return {(s.name, *sorted(s.labels.items())): s.value for f in families for s in f.samples}

    # Series of reasons and times appear later.
    later = {"vcgate_dropped_packets_total", "vcgate_smb_bypassed_flows_total"}
    known = later | {family.name for family in prometheus.text_string_to_metric_families(text)}
    known |= {f"{name}_total" for name in known}
    used = re.findall(r"\bvcgate_\w+", RULES.read_text() + " ".join(dashboard_expressions()))
    assert used and set(used) <= known

    seen, written = samples(scraped), samples(text)
    assert seen[("node_textfile_scrape_error",)] == 0, exporter.text()
    assert written and written.items() <= seen.items()
    interface = ("interface", gateway.name)
    peer = ("peer", clients[0].name)
    assert seen[("vcgate_peer_received_bytes_total", interface, peer)] > 0
