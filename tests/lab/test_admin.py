"""The page and API for administrators, in Chromium, and the listener for monitoring systems."""

import base64
import json
import re
import subprocess

import pytest

from . import browser, topology
from .net import run, wait_for

PASSWORD = "correct horse battery"
URL = "http://127.0.0.1:8480"
METRICS = "http://127.0.0.1:9586/metrics"


def hash_of(gateway):
    return gateway.vcgate("admin", "password", input=PASSWORD + "\n").stdout.strip()


@pytest.fixture
def start_admin(make_gateway):
    """A function that starts a gateway with the page."""
    def start(clients, more=""):
        gateway = make_gateway()
        gateway.write(clients)
        text = gateway.config.read_text()
        gateway.config.write_text(
            f'{text}[admin]\nlisten = "127.0.0.1:8480"\npassword_hash = "{hash_of(gateway)}"\n{more}'
            '[metrics]\nlisten = "127.0.0.1:9586"\n')
        gateway.up()
        return gateway

    return start


def curl(gateway, url, *argv):
    return gateway.machine.run("curl", "-sS", "--max-time", "10", *argv, url).stdout


def log_in(page, password=PASSWORD):
    page.get_by_label("Password").fill(password)
    page.keyboard.press("Enter")


def code_in(picture):
    found = run("zbarimg", "--quiet", "--raw", "-Sdisable", "-Sqrcode.enable", picture)
    return found.stdout.rstrip("\n") + "\n"


def test_a_client_is_added_connected_watched_and_cut_off(lab, start_admin, tmp_path):
    (client,) = lab.clients(1)
    gateway = start_admin([])
    with browser.opened(gateway.machine, tmp_path / "profile", viewport={"width": 1000, "height": 560}) as page:
        page.goto(URL)
        log_in(page)
        page.get_by_label("New peer").fill("anna")
        page.get_by_role("button", name="Add").click()
        image = page.get_by_alt_text("QR code of the configuration of anna")
        image.wait_for()
        picture = tmp_path / "code.png"
        image.screenshot(path=picture)
        client.connect_quick(code_in(picture))
        client.machine.reaches(topology.SERVER)
        page.get_by_role("button", name="Close").click()

        row = page.locator("tbody tr", has_text="anna")
        row.get_by_text("connected", exact=True).wait_for()
        client.machine.run("ping", "-q", "-c", "20", "-i", "0.01", "-s", "1000", topology.SERVER)
        received = row.locator("td").nth(4)
        wait_for("the traffic to show", lambda: re.search(r"\((\d\d\.\d|\d{3,}\.\d) KiB\)", received.text_content()))

        browser.picture(page, "admin-peers")
        row.get_by_role("button", name="anna").click()
        page.get_by_role("button", name="Disable").click()
        row.get_by_text("disabled", exact=True).wait_for()
        assert client.machine.run("ping", "-c", "1", "-W", "1", topology.SERVER, check=False).returncode != 0
        page.get_by_role("link", name="Changes").click()
        page.get_by_role("cell", name="peer anna: changed disabled").wait_for()
        page.get_by_role("cell", name="admin user=admin source=127.0.0.1").first.wait_for()
    client.disconnect()
    # The file is that of the command.
    (peer,) = json.loads(gateway.vcgate("peer", "list", "--json").stdout)
    assert (peer["name"], peer["state"]) == ("anna", "disabled")


def test_wrong_passwords_are_limited_and_the_right_one_waits_too(lab, start_admin, tmp_path):
    lab.clients(1)
    gateway = start_admin([])
    with browser.opened(gateway.machine, tmp_path / "profile") as page:
        page.goto(URL)
        for _ in range(5):
            log_in(page, "wrong password")
            page.get_by_text("the password is wrong").wait_for()
        log_in(page)
        page.get_by_text("too many logins have failed; wait").wait_for()
    gateway.process.wait_for_line("a login with a wrong password was refused")


def test_the_page_is_usable_by_keyboard_on_a_phone_and_by_all(lab, start_admin, tmp_path):
    clients = lab.clients(2)
    gateway = start_admin(clients)
    phone = {"width": 360, "height": 640}
    with browser.opened(gateway.machine, tmp_path / "profile", viewport=phone) as page:
        page.goto(URL)
        page.get_by_label("Password").wait_for()
        assert browser.violations(page) == []
        # The field has the focus.
        page.keyboard.type(PASSWORD)
        page.keyboard.press("Enter")
        page.get_by_role("button", name=clients[0].name).wait_for()
        for scheme in ("light", "dark"):
            page.emulate_media(color_scheme=scheme)
            for section in ("NAT", "SMB", "Doctor", "Changes", "Peers")[0 if scheme == "light" else 3:]:
                page.get_by_role("link", name=section).focus()
                page.keyboard.press("Enter")
                page.get_by_role("heading", name=section).wait_for()
                if section == "Doctor":
                    page.get_by_text("kernel").wait_for()
                assert browser.violations(page) == [], (scheme, section)
                width = page.evaluate("document.documentElement.scrollWidth")
                assert width <= phone["width"], (section, width)
        page.get_by_role("button", name=clients[0].name).focus()
        page.keyboard.press("Enter")
        page.get_by_role("dialog").wait_for()
        browser.picture(page, "admin-phone")
        assert browser.violations(page) == []
        page.get_by_label("Note").focus()
        page.keyboard.type("2nd floor")
        page.keyboard.press("Enter")
        page.get_by_text(f"Changed {clients[0].name}.").wait_for()
        page.get_by_role("button", name=clients[1].name).focus()
        page.keyboard.press("Enter")
        page.keyboard.press("Escape")
        page.get_by_role("dialog").wait_for(state="detached")
        # The focus returns to where it was.
        assert page.evaluate("document.activeElement.textContent") == clients[1].name
    assert "2nd floor" in gateway.config.read_text()


def test_a_thousand_peers_are_listed_by_pages_and_searched(lab, start_admin, tmp_path):
    (client,) = clients = lab.clients(1)
    gateway = start_admin(clients, "".join(
        f'[[peer]]\nname = "peer{n}"\npublic_key = "{base64.b64encode(n.to_bytes(32, "big")).decode()}"\n'
        f'allowed_ips = ["10.9.{n >> 8}.{n & 255}/32"]\n' for n in range(2, 1002)))
    with browser.opened(gateway.machine, tmp_path / "profile") as page:
        page.goto(URL)
        log_in(page)
        page.get_by_text("1001 of 1001 peers").wait_for()
        assert page.locator("tbody tr").count() == 50
        page.get_by_role("button", name="Next").click()
        page.get_by_role("button", name="peer100", exact=True).wait_for()
        page.get_by_label("Search").fill("peer987")
        page.get_by_text("1 of 1001 peers").wait_for()
        page.reload()
        page.get_by_role("button", name=client.name).wait_for()
        paint = page.evaluate("performance.getEntriesByName('first-contentful-paint')[0].startTime")
        print(f"first paint after {paint:.0f} ms")


def test_the_threads_of_the_page_are_confined_and_metrics_answer(lab, start_admin):
    clients = lab.clients(1)
    gateway = start_admin(clients)
    threads = {thread["name"]: thread for thread in gateway.json("status")["confinement"]["threads"]}
    for name in ("admin-http", "admin-work"):
        assert threads[name]["seccomp"] and threads[name]["no_new_privs"]
        assert threads[name]["capabilities"] == [], name
    plain = curl(gateway, METRICS)
    assert "# TYPE vcgate_peer_flows gauge" in plain
    checked = subprocess.run(["promtool", "check", "metrics"], input=plain, capture_output=True, text=True, check=False)
    assert (checked.returncode, checked.stdout + checked.stderr) == (0, "")
    assert curl(gateway, METRICS, "-H", "Accept: application/openmetrics-text").endswith("# EOF\n")
    assert curl(gateway, METRICS.replace("/metrics", "/api/v1/status"), "-w", "%{http_code}") == "404"


def test_scripts_use_a_token_over_tls_and_links_work_once(lab, make_gateway):
    lab.clients(1)
    gateway = make_gateway()
    gateway.write([])
    folder = gateway.dir
    run("openssl", "req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256", "-nodes", "-days", "2",
        "-subj", "/CN=vpn.example.com", "-addext", "subjectAltName=DNS:vpn.example.com",
        "-keyout", folder / "admin.key", "-out", folder / "admin.pem")
    (folder / "admin.key").chmod(0o600)
    token = folder / "admin.token"
    token.touch(0o600)
    token.write_text("0123456789abcdefghijklmnop\n")
    gateway.config.write_text(
        gateway.config.read_text() + '[admin]\nlisten = "0.0.0.0:8480"\nurl = "https://vpn.example.com:8480"\n'
        'cert = "admin.pem"\nkey = "admin.key"\ntoken_file = "admin.token"\n')
    gateway.up()
    tls = ["--cacert", folder / "admin.pem", "--resolve", "vpn.example.com:8480:127.0.0.1"]
    api = "https://vpn.example.com:8480/api/v1"
    bearer = ["-H", f"Authorization: Bearer {token.read_text().strip()}", "-H", "Content-Type: application/json"]
    added = json.loads(curl(gateway, f"{api}/peers", *tls, *bearer, "-d", '{"name":"anna"}'))
    assert added["interface"] == gateway.name
    assert [peer["name"] for peer in json.loads(curl(gateway, f"{api}/peers", *tls, *bearer))] == ["anna"]
    assert "not logged in" in curl(gateway, f"{api}/peers", *tls)
    link = json.loads(gateway.vcgate("peer", "link", "anna", "--json").stdout)["url"]
    assert link.startswith("https://vpn.example.com:8480/c/")
    assert "PrivateKey" not in curl(gateway, link, *tls)
    assert "PrivateKey = " in curl(gateway, link, *tls, "-X", "POST")
    assert curl(gateway, link, *tls, "-X", "POST", "-o", "/dev/null", "-w", "%{http_code}") == "410"
