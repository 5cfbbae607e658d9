"""The figures: kept, their medians, the table, the JSON."""

import json
import os
import pathlib
import platform
import statistics

UNITS = {
    "mbit": ("{:.0f}", "Mbit/s"),
    "us_per_mb": ("{:.0f}", "us CPU/MB"),
    "kpps": ("{:.1f}", "kpps"),
    "us_per_packet": ("{:.2f}", "us CPU/packet"),
    "lost": ("{:.2f}", "% lost"),
    "ping": ("{:.3f}", "ms median"),
    "ping_p99": ("{:.3f}", "ms p99"),
    "per_second": ("{:.0f}", "a second"),
    "us_each": ("{:.0f}", "us CPU each"),
    "kept": ("{:.0f}", "% kept"),
    "core": ("{:.2f}", "% of a core"),
    "kb_each": ("{:.1f}", "KB each"),
}
REFERENCE = "boringtun-cli"
"""Ratios are to this gateway, or to the first where it is not there."""


class Report:
    """Results so far: figures by load, kind of clients, gateway, name and round."""

    def __init__(self, versions, settings):
        self.versions = versions
        self.settings = {key: str(value) if isinstance(value, pathlib.Path) else value
                         for key, value in settings.items()}
        self.figures = {}
        self.failures = []

    @property
    def present(self):
        return [gateway for gateway, version in self.versions.items() if version]

    def say_missing(self):
        for gateway, version in self.versions.items():
            print(f"{gateway}: {version or 'missing, so it is not compared'}")

    def add(self, load, clients, gateway, figures):
        by_name = (self.figures.setdefault(load, {}).setdefault(clients, {})
                   .setdefault(gateway, {}))
        for name, value in figures.items():
            by_name.setdefault(name, []).append(value)

    def fail(self, load, clients, gateway, error):
        self.failures.append(
            {"load": load, "clients": clients, "gateway": gateway, "error": repr(error)[:500]})

    def medians(self, load, clients):
        """The medians of each gateway, in the gateways' order."""
        measured = self.figures.get(load, {}).get(clients, {})
        return {gateway: {name: statistics.median(values)
                          for name, values in measured[gateway].items()}
                for gateway in self.versions if gateway in measured}

    def show(self, load):
        """The table of one load."""
        for clients in self.figures.get(load, {}):
            medians = self.medians(load, clients)
            reference = REFERENCE if REFERENCE in medians else next(iter(medians))
            print(f"\n{load}, clients: {clients}   (in brackets: times {reference}'s)")
            for gateway, figures in medians.items():
                cells = [self._cell(name, value, medians[reference].get(name))
                         for name, value in figures.items()]
                print(f"  {gateway:18}" + "".join(cells), flush=True)
        for failure in self.failures:
            if failure["load"] == load:
                print(f"  FAILED: {failure['gateway']}, {failure['clients']}: {failure['error']}")

    @staticmethod
    def _cell(name, value, reference):
        form, unit = UNITS[name]
        ratio = f"({value / reference:.2f})" if reference and name != "lost" else ""
        return f"{form.format(value):>9} {unit} {ratio:7}"

    def write(self, path):
        path.write_text(json.dumps({
            "machine": machine(),
            "gateways": self.versions,
            "settings": self.settings,
            "medians": {load: {clients: self.medians(load, clients) for clients in by_clients}
                        for load, by_clients in self.figures.items()},
            "rounds": self.figures,
            "failures": self.failures,
        }, indent=2) + "\n")


def machine():
    """Description of the machine."""
    lines = pathlib.Path("/proc/cpuinfo").read_text().splitlines()
    model = next((line.split(":")[1].strip() for line in lines if line.startswith("model name")), "")
    return {"cpu": model, "cores": os.cpu_count(), "kernel": platform.release()}
