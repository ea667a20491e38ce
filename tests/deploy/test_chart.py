"""What the Helm chart renders is valid, means what the gateway's settings mean, and agrees with the code."""

import shutil
import subprocess
from pathlib import Path

import pytest
import yaml

import wave_serve
from wave_serve.engine.checkpoint import bundled_checkpoint, inspect_checkpoint
from wave_serve.engine.command import engine_command
from wave_serve.engine.evaluation import validated_length
from wave_serve.gateway import RELOADED
from wave_serve.relay.relay import FAREWELL_SECONDS
from wave_serve.settings import Settings
from wave_serve.settings.file import load_settings

helm = pytest.importorskip("helm_python", reason="helm-python-sdk is not installed")
pytest.importorskip("kubernetes_validate", reason="kubernetes-validate is not installed")
from deploy import chart  # noqa: E402 - needs the two above

NAME = "demo-wave-serve"
DEPLOY = Path(chart.__file__).parent


def needs(program: str) -> pytest.MarkDecorator:
    """Skips where a program of Debian's is missing."""
    return pytest.mark.skipif(shutil.which(program) is None, reason=f"{program} is not installed")


def find(kind: str, name: str, values: dict | None = None) -> dict:
    """The one manifest of that kind and name."""
    (found,) = [
        one for one in chart.render(values or {}) if (one["kind"], one["metadata"]["name"]) == (kind, f"{NAME}{name}")
    ]
    return found


def pod(component: str, values: dict | None = None) -> dict:
    """What a component's Deployment runs."""
    return find("Deployment", f"-{component}", values)["spec"]["template"]


def settings_text(values: dict | None = None) -> str:
    return find("ConfigMap", "-settings", values)["data"]["gateway.yaml"]


def settings(tmp_path: Path, values: dict | None = None) -> Settings:
    """The gateway's settings, read as the gateway reads them."""
    file = tmp_path / "gateway.yaml"
    file.write_text(settings_text(values))
    return load_settings(file)


@pytest.mark.parametrize("values", chart.checked_values().values(), ids=chart.checked_values())
def test_helm_and_kubernetes_from_1_28_to_the_newest_find_no_mistake(values: dict) -> None:
    assert chart.mistakes(values) == []


@pytest.mark.parametrize(
    ("values", "what"),
    [
        ({"engin": {}}, "engin"),
        ({"settings": {"port": 9000}}, "port"),
        ({"settings": {"timeouts": {"drain": 1}}}, "drain"),
        ({"model": {"source": "hub"}}, "source"),
        ({"engine": {"apiKeySecret": {"name": "vllm"}}}, "apiKeySecret"),
        ({"auth": {"keysFile": {"keys": [{"name": "alice", "sha256": "sk-wave-a-key-itself"}]}}}, "sha256"),
        ({"engine": {"enabled": False}}, "no engine"),
        ({"model": {"source": "claim"}}, "model.claim.name"),
        ({"httpRoute": {"enabled": True}}, "httpRoute.parentRefs"),
    ],
)
def test_values_that_mean_nothing_are_refused_by_name(values: dict, what: str) -> None:
    with pytest.raises(helm.HelmError, match=what):
        chart.render(values)


def test_a_field_that_kubernetes_does_not_know_is_a_mistake() -> None:
    assert chart.mistakes({"engine": {"resources": {"limit": {"cpu": "1"}}}}) != []


@pytest.mark.parametrize("values", chart.checked_values().values(), ids=chart.checked_values())
def test_the_rendered_settings_are_the_gateways(values: dict, tmp_path: Path) -> None:
    assert settings(tmp_path, values).upstreams


def test_gateways_look_engines_up_by_the_headless_service(tmp_path: Path) -> None:
    service = find("Service", "-engine")
    (upstream,) = settings(tmp_path).upstreams
    assert service["spec"]["clusterIP"] == "None"
    assert not service["spec"].get("publishNotReadyAddresses")
    port = service["spec"]["ports"][0]["port"]
    assert upstream.dns == f"http://{service['metadata']['name']}.default.svc.cluster.local:{port}"
    assert f"--port={port}" in pod("engine")["spec"]["containers"][0]["args"]


def test_several_gateways_choose_the_same_engine_for_a_document_unless_told_otherwise(tmp_path: Path) -> None:
    one = {"gateway": {"autoscaling": {"enabled": False}, "replicas": 1}}
    told = {"settings": {"routing": {"new_documents": "least_loaded", "tries": 3}}}
    assert settings(tmp_path).routing.new_documents == "hashed"
    assert settings(tmp_path, one).routing.new_documents == "least_loaded"
    assert settings(tmp_path, told).routing.new_documents == "least_loaded"


@pytest.mark.parametrize(("service", "component"), [("", "gateway"), ("-engine", "engine")])
def test_services_select_their_own_pods_only(service: str, component: str) -> None:
    selector = find("Service", service)["spec"]["selector"].items()
    for other in ("gateway", "engine"):
        assert (selector <= pod(other)["metadata"]["labels"].items()) == (other == component)


@pytest.mark.parametrize(("drain", "pause"), [(1, 0), (300, 10), (3600, 60)])
def test_kubernetes_waits_longer_than_the_drain_takes(drain: int, pause: int, tmp_path: Path) -> None:
    values = {name: {"drainSeconds": drain, "preStopSeconds": pause} for name in ("gateway", "engine")}
    read = settings(tmp_path, values)
    assert read.timeouts.drain == drain
    assert pod("gateway", values)["spec"]["terminationGracePeriodSeconds"] > pause + drain + FAREWELL_SECONDS
    engine = pod("engine", values)["spec"]
    assert f"--shutdown-timeout={drain}" in engine["containers"][0]["args"]
    assert engine["terminationGracePeriodSeconds"] >= pause + drain + 30
    for component in ("gateway", "engine"):
        (container,) = pod(component, values)["spec"]["containers"]
        assert container["lifecycle"]["preStop"]["exec"]["command"] == ["sleep", str(pause)]


TAKEN_OVER = {
    "auth": {"settings": {"auth": {"protect_metrics": True}}},
    "admission": {"settings": {"admission": {"max_requests": 7}}},
    "routing": {"settings": {"routing": {"tries": 1}}},
    "models": {"model": {"policy": {"max_tokens": 1000}}},
    "aliases": {"settings": {"aliases": {"default": ["wave-demo"]}}},
    "upstreams": {"upstreams": [{"base_url": "http://elsewhere:8000", "models": ["wave-demo"]}]},
    "max_body_bytes": {"settings": {"max_body_bytes": 1000}},
    "page": {"settings": {"page": True}},
}
NEEDS_RESTART = [
    {"settings": {"timeouts": {"idle": 7}}},
    {"settings": {"cors": {"origins": ["*"]}}},
    {"settings": {"max_headers": 7}},
    {"settings": {"models": {"other": {}}}},
    {"model": {"policy": {"tokenizer": "/elsewhere/tokenizer.json"}}},
    {"gateway": {"drainSeconds": 7}},
    {"limits": {"store": "redis://valkey:6379/0"}},
]


def test_gateways_are_replaced_only_for_settings_that_a_reload_does_not_take_over() -> None:
    assert set(TAKEN_OVER) == set(RELOADED)
    before, read = pod("gateway"), settings_text()
    for values in TAKEN_OVER.values():
        assert settings_text(values) != read
        assert pod("gateway", values) == before
    for values in NEEDS_RESTART:
        assert pod("gateway", values)["metadata"] != before["metadata"], values


def test_keys_and_settings_are_mounted_as_whole_volumes_which_the_kubelet_keeps_up_to_date() -> None:
    values = {"auth": {"existingSecret": "keys"}}
    (container,) = pod("gateway", values)["spec"]["containers"]
    mounts = {mount["name"]: mount for mount in container["volumeMounts"]}
    read = yaml.safe_load(settings_text(values))
    assert Path(read["auth"]["keys_file"]).parent == Path(mounts["keys"]["mountPath"])
    assert Path(container["args"][2]).parent == Path(mounts["settings"]["mountPath"])
    assert not any("subPath" in mount for mount in mounts.values())


@pytest.mark.parametrize("component", ["gateway", "engine"])
def test_pods_run_without_root_on_read_only_file_systems_and_without_a_token(component: str) -> None:
    spec = pod(component)["spec"]
    assert spec["securityContext"]["runAsNonRoot"]
    assert spec["automountServiceAccountToken"] is False
    for container in spec["containers"]:
        assert container["securityContext"]["readOnlyRootFilesystem"]
        assert container["securityContext"]["allowPrivilegeEscalation"] is False
        assert container["securityContext"]["capabilities"] == {"drop": ["ALL"]}


def test_probes_ask_health_for_life_and_ready_for_traffic() -> None:
    (gateway,) = pod("gateway")["spec"]["containers"]
    assert gateway["livenessProbe"]["httpGet"]["path"] == "/health"
    assert gateway["readinessProbe"]["httpGet"]["path"] == "/ready"


def flags(arguments: list[str]) -> set[str]:
    """Arguments as --name=value."""
    text = " ".join(arguments).replace("=", " ")
    return {"=".join(part.split()) for part in f" {text}".split(" --") if part.strip()}


def test_an_engine_is_started_as_serve_starts_it() -> None:
    checkpoint = inspect_checkpoint(bundled_checkpoint())
    environment = {"VLLM_CPU_OMP_THREADS_BIND": "nobind"}
    command = engine_command(checkpoint, "wave-demo", 8001, 32768, (), environment)
    own = {"model", "host", "max-model-len"}
    wanted = {flag for flag in flags([*command[3:]]) if flag.partition("=")[0] not in own}
    (container,) = pod("engine", {"engine": {"maxModelLen": 32768}})["spec"]["containers"]
    assert container["command"][-1] == command[2]
    assert wanted <= flags(container["args"])
    assert {"name": "VLLM_CPU_OMP_THREADS_BIND", "value": "nobind"} in container["env"]
    compose = yaml.safe_load((DEPLOY / "compose.yaml").read_text())["services"]["engine-1"]
    assert compose["entrypoint"] == container["command"]
    assert wanted <= flags(compose["command"])


def test_workers_in_processes_of_their_own_are_not_forced_into_one() -> None:
    for arguments in (["--tensor-parallel-size", "2"], ["-tp", "2"], ["--distributed-executor-backend=ray"]):
        (container,) = pod("engine", {"engine": {"args": arguments}})["spec"]["containers"]
        assert not any("uniproc" in argument for argument in container["args"])


def test_a_gpu_engine_gets_its_image_and_devices() -> None:
    values = yaml.safe_load((chart.CHART / "ci" / "gpu-values.yaml").read_text())
    (container,) = pod("engine", values)["spec"]["containers"]
    assert container["image"] == f"wave-serve:{wave_serve.version()}-gpu"
    assert container["resources"]["limits"]["nvidia.com/gpu"] == "2"
    assert "--enforce-eager" not in container["args"]
    assert "--model=/models/my-model" in container["args"]


def test_the_chart_knows_the_version_and_the_bundled_model(tmp_path: Path) -> None:
    described = yaml.safe_load((chart.CHART / "Chart.yaml").read_text())
    assert described["appVersion"] == wave_serve.version()
    checkpoint = inspect_checkpoint(bundled_checkpoint())
    known = settings(tmp_path).models["wave-demo"]
    assert (known.train_length, known.vocab_size) == (checkpoint.train_length, checkpoint.vocab_size)
    assert known.validated_length == validated_length(checkpoint, known.train_length, known.validated_tolerance)


def test_rules_and_dashboard_in_the_cluster_are_those_of_the_files() -> None:
    values = {"prometheusRule": {"enabled": True}, "dashboard": {"enabled": True}}
    assert find("PrometheusRule", "", values)["spec"] == yaml.safe_load(chart.ALERTS.read_text())
    dashboard = (chart.CHART / "files" / "dashboard.json").read_text()
    assert find("ConfigMap", "-dashboard", values)["data"]["wave-serve.json"].strip() == dashboard.strip()


def test_podman_gets_only_what_it_can_run() -> None:
    manifests = list(chart.for_podman(chart.render(yaml.safe_load((DEPLOY / "podman-values.yaml").read_text()))))
    assert [one["kind"] for one in manifests] == ["ConfigMap", "Deployment", "Deployment"]
    for manifest in manifests[1:]:
        assert not {"ports", "livenessProbe"} & manifest["spec"]["template"]["spec"]["containers"][0].keys()


def test_the_compose_files_settings_are_the_gateways() -> None:
    read = load_settings(DEPLOY / "gateway" / "gateway.yaml")
    compose = yaml.safe_load((DEPLOY / "compose.yaml").read_text())["services"]
    (upstream,) = read.upstreams
    assert upstream.dns == "http://engine:8001"
    for name in ("engine-1", "engine-2"):
        assert compose[name]["networks"]["default"]["aliases"] == ["engine"]
    assert int(compose["gateway"]["stop_grace_period"].removesuffix("s")) >= read.timeouts.drain + 10
    for service in compose.values():
        assert service["image"] == "wave-serve" or ":" in service["image"]
        for mount in service.get("volumes", ()):
            place = mount.partition(":")[0]
            assert not place.startswith("./") or (DEPLOY / place).exists()


@needs("docker-compose")
def test_docker_compose_takes_the_compose_file() -> None:
    subprocess.run(["docker-compose", "--file", DEPLOY / "compose.yaml", "config", "--quiet"], check=True)


@needs("promtool")
def test_each_alert_fires_on_what_it_is_for_and_none_without_reason() -> None:
    rules = yaml.safe_load(chart.ALERTS.read_text())["groups"]
    tested = (DEPLOY / "prometheus" / "alerts.test.yaml").read_text()
    assert all(rule["alert"] in tested for group in rules for rule in group["rules"])
    subprocess.run(["promtool", "check", "rules", chart.ALERTS], check=True)
    subprocess.run(["promtool", "test", "rules", DEPLOY / "prometheus" / "alerts.test.yaml"], check=True)
