"""Renders the Helm chart without Helm's program, checks what it rendered, and prints it.

    python deploy/chart.py check                       lint, render, schemas, alert rules, compose file
    python deploy/chart.py render [VALUES.yaml ...]    the manifests, later files over earlier ones
    python deploy/chart.py podman [VALUES.yaml ...]    the part of them that `podman play kube` runs on this machine

Needs the packages helm-python-sdk and kubernetes-validate (the extra `dev`). `check` also runs promtool (Debian's
package prometheus) and docker-compose, and names what it had to leave out where they are missing.
"""

import json
import shutil
import subprocess
import sys
from collections.abc import Iterator
from functools import reduce
from pathlib import Path
from typing import Any

import helm_python
import kubernetes_validate
import yaml

DEPLOY = Path(__file__).resolve().parent
CHART = DEPLOY / "helm" / "wave-serve"
ALERTS = CHART / "files" / "alerts.yaml"
OLDEST_KUBERNETES = "1.28"
CUSTOM_KINDS = ("HTTPRoute", "InferencePool", "PrometheusRule", "ServiceMonitor")
"""Not Kubernetes' own: their schemas come with whoever defines them."""
PODMAN_KINDS = ("ConfigMap", "Deployment", "Secret")
NOT_FOR_PODMAN = ("lifecycle", "livenessProbe", "ports", "readinessProbe", "startupProbe")

Manifest = dict[str, Any]


def merged(*values: Any) -> Any:
    """Values over values, as Helm lays one file over another: only maps are joined."""
    return reduce(_over, values, {})


def _over(below: Any, above: Any) -> Any:
    if not (isinstance(below, dict) and isinstance(above, dict)):
        return above
    return below | {key: _over(below.get(key), value) for key, value in above.items()}


def render(values: Manifest, release: str = "demo", namespace: str = "default") -> list[Manifest]:
    """The chart's manifests. Raises HelmError: the values do not fit the schema, or a template refuses them."""
    found: list[Manifest] = []
    with helm_python.Chart.load(CHART) as chart:
        for name, text in sorted(chart.render(values, name=release, namespace=namespace).items()):
            if not name.endswith(".txt"):
                found += [document for document in yaml.safe_load_all(text) if document]
    return found


def for_podman(manifests: list[Manifest]) -> Iterator[Manifest]:
    """What `podman play kube` of Debian 12 (4.3) takes of them, on the network of the host.

    It knows no Services, so the gateway has to be told where its engine is; it maps no ports on the host's network; its
    health checks would need curl in the image. Deployments come last, as they need what they mount.
    """
    for manifest in sorted(manifests, key=lambda one: one["kind"] == "Deployment"):
        if manifest["kind"] == "Deployment":
            pod = manifest["spec"]["template"]["spec"]
            pod["hostNetwork"] = True
            for container in pod["containers"]:
                for field in NOT_FOR_PODMAN:
                    container.pop(field, None)
        if manifest["kind"] in PODMAN_KINDS:
            yield manifest


def mistakes(values: Manifest) -> list[str]:
    """What Helm and the schemas of Kubernetes, from the oldest to the newest known, find wrong with the chart."""
    lint = helm_python.lint(CHART, values, strict=True)
    found = [f"lint: {one['path']}: {one['error']}" for one in lint["messages"] if one["severity"] > 1]
    if found or lint["errors"]:
        return found + [f"lint: {error}" for error in lint["errors"]]
    for manifest in render(values):
        if manifest["kind"] not in CUSTOM_KINDS:
            found += [
                f"Kubernetes {version}: {manifest['kind']} {manifest['metadata']['name']}: {mistake}"
                for version in (OLDEST_KUBERNETES, newest_kubernetes())
                if (mistake := _against_schema(manifest, version))
            ]
    return found


def newest_kubernetes() -> str:
    """The newest version whose schemas are known, such as 1.37."""
    return ".".join(str(kubernetes_validate.latest_version()).split(".")[:2])


def _against_schema(manifest: Manifest, version: str) -> str | None:
    try:
        kubernetes_validate.validate(manifest, version, strict=True)
    except kubernetes_validate.ValidationError as error:
        return f"{'.'.join(str(part) for part in error.path)}: {error.message}"
    return None


def checked_values() -> dict[str, Manifest]:
    """The values that the chart is checked with, by a name: its defaults, and those in its folder ci."""
    files = sorted((CHART / "ci").glob("*.yaml"))
    return {"defaults": {}} | {file.name: yaml.safe_load(file.read_text()) for file in files}


def _run(*command: str) -> list[str]:
    if shutil.which(command[0]) is None:
        print(f"left out: {' '.join(command)}: there is no {command[0]}")
        return []
    ran = subprocess.run(command, capture_output=True, text=True, check=False)  # noqa: S603
    return [] if ran.returncode == 0 else [f"{' '.join(command)}: {ran.stdout}{ran.stderr}"]


def check() -> list[str]:
    """Everything that can be checked without a cluster; what is wrong."""
    found: list[str] = []
    for name, values in checked_values().items():
        wrong = mistakes(values)
        found += [f"{name}: {mistake}" for mistake in wrong]
        print(f"{name}: {len(wrong)} mistakes; Kubernetes {OLDEST_KUBERNETES} and {newest_kubernetes()}")
    json.loads((CHART / "files" / "dashboard.json").read_text())
    found += _run("promtool", "check", "rules", str(ALERTS))
    found += _run("promtool", "test", "rules", str(DEPLOY / "prometheus" / "alerts.test.yaml"))
    found += _run("promtool", "check", "config", "--syntax-only", str(DEPLOY / "prometheus" / "prometheus.yaml"))
    found += _run("docker-compose", "--file", str(DEPLOY / "compose.yaml"), "config", "--quiet")
    return found


def main() -> None:
    """The command of the arguments."""
    match sys.argv[1:]:
        case ["check"]:
            wrong = check()
            print("\n".join(wrong) if wrong else "the chart, its alert rules and the compose file hold")
            sys.exit(1 if wrong else 0)
        case ["render" | "podman" as what, *files]:
            manifests = render(merged(*(yaml.safe_load(Path(file).read_text()) for file in files)))
            print(yaml.safe_dump_all(for_podman(manifests) if what == "podman" else manifests, sort_keys=False))
        case _:
            sys.exit(__doc__)


if __name__ == "__main__":
    main()
