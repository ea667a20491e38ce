"""Evaluates every expression of the dashboard and of the alert rules in a real Prometheus that scrapes what runs.

    python deploy/check_dashboard.py http://127.0.0.1:8000 http://127.0.0.1:8001    a gateway, then its engines

Starts `prometheus` (Debian's package of that name), lets it scrape for --seconds while somebody sends traffic with
streams, refusals and truncations, and fails where an expression gives nothing.
"""

import argparse
import contextlib
import json
import math
import re
import socket
import subprocess
import sys
import tempfile
import time
import urllib.parse
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import yaml

FILES = Path(__file__).resolve().parent / "helm" / "wave-serve" / "files"
DASHBOARD, ALERTS = FILES / "dashboard.json", FILES / "alerts.yaml"
VARIABLES = {"$__rate_interval": "1m", "$model": ".*"}
METRIC = re.compile(r"\b(?:wave_\w+|vllm:\w+)")
START_SECONDS = 30


def panels() -> list[tuple[str, str]]:
    """Title and expression of each query of the dashboard, as Prometheus would be sent it."""
    found = []
    for panel in json.loads(DASHBOARD.read_text())["panels"]:
        for target in panel.get("targets", ()):
            expression = target["expr"]
            for name, value in VARIABLES.items():
                expression = expression.replace(name, value)
            found.append((panel["title"], expression))
    return found


def alerts() -> list[dict[str, Any]]:
    """The alert rules."""
    groups = yaml.safe_load(ALERTS.read_text())["groups"]
    return [rule for group in groups for rule in group["rules"]]


@contextlib.contextmanager
def prometheus(targets: list[str]) -> Iterator[str]:
    """The URL of a Prometheus that scrapes these servers once a second and evaluates the alert rules."""
    with socket.socket() as sock:
        sock.bind(("127.0.0.1", 0))
        url = f"http://127.0.0.1:{sock.getsockname()[1]}"
    with tempfile.TemporaryDirectory() as scratch:
        config = {
            "global": {"scrape_interval": "1s", "evaluation_interval": "1s"},
            "rule_files": [str(ALERTS)],
            "scrape_configs": [
                {"job_name": "wave-serve", "static_configs": [{"targets": [urllib.parse.urlsplit(one).netloc]}]}
                | ({} if number == 0 else {"job_name": f"engine-{number}"})
                for number, one in enumerate(targets)
            ],
        }
        file = Path(scratch, "prometheus.yaml")
        file.write_text(yaml.safe_dump(config))
        address = f"--web.listen-address={url.removeprefix('http://')}"
        command = ["prometheus", f"--config.file={file}", f"--storage.tsdb.path={scratch}/data", address]
        with Path(scratch, "log").open("wb") as log:
            process = subprocess.Popen(command, stdout=log, stderr=log)  # noqa: S603
        try:
            _wait_for(url, process, Path(scratch, "log"))
            yield url
        finally:
            process.terminate()
            process.wait()


def _wait_for(url: str, process: "subprocess.Popen[bytes]", log: Path) -> None:
    deadline = time.monotonic() + START_SECONDS
    while True:
        with contextlib.suppress(OSError):
            urllib.request.urlopen(f"{url}/-/ready", timeout=5).close()  # noqa: S310
            return
        if process.poll() is not None or time.monotonic() > deadline:
            sys.exit(f"prometheus did not start:\n{log.read_text()}")
        time.sleep(0.1)


def ask(url: str, path: str, **query: str) -> Any:
    """What Prometheus' API answers."""
    with urllib.request.urlopen(f"{url}/api/v1/{path}?{urllib.parse.urlencode(query)}", timeout=20) as answer:  # noqa: S310
        return json.load(answer)["data"]


def values(url: str, expression: str) -> list[float]:
    """The values that an expression has now; NaN is none."""
    found = [float(one["value"][1]) for one in ask(url, "query", query=expression)["result"]]
    return [value for value in found if not math.isnan(value)]


def empty(url: str) -> list[str]:
    """What of the dashboard and the alerts has no data; prints each query of the dashboard with its values."""
    wrong = []
    for title, expression in panels():
        found = values(url, expression)
        print(f"{title}: {expression}: {', '.join(f'{value:.4g}' for value in found[:6]) or 'NOTHING'}")
        wrong += [] if found else [f"{title}: {expression}"]
    for rule in alerts():
        for metric in set(METRIC.findall(rule["expr"])):
            wrong += [] if values(url, f"count({metric})") else [f"{rule['alert']}: there is no {metric}"]
    for group in ask(url, "rules")["groups"]:
        wrong += [f"{rule['name']}: {rule['lastError']}" for rule in group["rules"] if rule["health"] != "ok"]
    return wrong


def main() -> None:
    """The command."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("target", nargs="+", help="URL of the gateway, then of its engines")
    parser.add_argument("--seconds", type=float, default=20, help="how long to scrape before the look (20)")
    asked = parser.parse_args()
    with prometheus(asked.target) as url:
        time.sleep(asked.seconds)
        wrong = empty(url)
    print("\n".join(["", "nothing in:", *wrong]) if wrong else f"all {len(panels())} expressions have values")
    sys.exit(1 if wrong else 0)


if __name__ == "__main__":
    main()
