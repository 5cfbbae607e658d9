"""`vcgate metrics`, read by Prometheus' own parser of OpenMetrics."""

from prometheus_client.openmetrics.parser import text_string_to_metric_families

from . import smb


def test_metrics_say_what_the_status_says(lab, samba, start_gateway):
    users = lab.clients(2)
    gateway = start_gateway(users)
    kept = [smb.logon(user, samba.address) for user in users]
    text, status = gateway.vcgate("metrics").stdout, gateway.json("status")
    families = {family.name: family for family in text_string_to_metric_families(text)}

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
