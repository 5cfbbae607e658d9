"""The port log on a disk that is full for a while."""

from . import topology
from .gateway import VCGATE
from .net import run, wait_for

PAGE = 4096
ALMOST_FULL = f"""
    mount -t tmpfs -o size={PAGE} none "$0" && printf '%{PAGE - 100}s\\n' > "$0/ports.jsonl" && exec "$@"
"""
"""Its own file system, in which only the line of the start fits."""


def test_what_a_full_disk_did_not_take_is_made_up_for(lab, make_gateway):
    (client,) = clients = lab.clients(1)
    gateway = make_gateway("vcgate", nat={"log_file": "log/ports.jsonl"})
    folder = gateway.dir / "log"
    folder.mkdir()
    gateway.write(clients)
    gateway.up("sh", "-c", ALMOST_FULL, folder)
    client.connect(gateway)
    client.machine.reaches(topology.SERVER)
    gateway.process.wait_for_line("cannot write the port log")
    port = gateway.json("flows")[0]["lan"].rsplit(":", 1)[1]

    def there(*argv, **options):
        return run("nsenter", "-t", gateway.process.pid, "-m", "-n", *argv, **options)

    def who():
        return there(VCGATE, "who", port, "--config", gateway.config, check=False)

    assert who().returncode == 1
    there("mount", "-o", "remount,size=1m", folder)
    wait_for("the log to be complete", lambda: who().returncode == 0, 30)
    assert client.name in who().stdout
