"""Chromium on a machine of the lab, driven by Playwright. The page under test is at a loopback address."""

import os
import pathlib
import sys
from contextlib import contextmanager

PACKAGES = pathlib.Path(__file__).parents[2] / "target/lab-python"
"""Python packages that Debian does not have; install-missing puts them there."""
sys.path.append(str(PACKAGES))

FLAGS = ["--headless", "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run",
         "--disable-background-networking", "--disable-component-update", "--disable-sync"]


@contextmanager
def opened(machine, profile, **options):
    """A page in a browser on this machine, with an empty profile. An error of a script, a refused file
    or a breach of the content security policy fails the test."""
    from playwright.sync_api import sync_playwright  # pylint: disable=import-outside-toplevel

    problems = []
    with machine.entered(), sync_playwright() as playwright:
        context = playwright.chromium.launch_persistent_context(
            profile, executable_path="/usr/bin/chromium", args=FLAGS, headless=True, **options)
        page = context.pages[0]
        page.set_default_timeout(10_000)
        page.on("pageerror", lambda error: problems.append(str(error)))
        page.on("console", lambda line: problems.append(line.text)
                if "Content Security Policy" in line.text else None)
        yield page
        context.close()
    assert not problems, problems


def picture(page, name):
    """Writes a picture of the page for docs/ into the folder that VCGATE_PICTURES names, if it does."""
    if folder := os.environ.get("VCGATE_PICTURES"):
        page.screenshot(path=pathlib.Path(folder) / f"{name}.png")


def violations(page):
    """What axe-core finds in the page: the rules with the elements."""
    from axe_playwright_python.sync_playwright import Axe  # pylint: disable=import-outside-toplevel

    # The page's policy forbids foreign scripts, so the rules run as the browser's own.
    found = Axe().run(page).response["violations"]
    return [(rule["id"], [node["html"] for node in rule["nodes"]]) for rule in found]
