"""Every expression of the dashboard and the alert rules has values in a real Prometheus that scrapes real traffic."""

import json
import shutil
import threading
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import httpx
import pytest
from helpers.redis_server import needs_redis, redis_server
from helpers.running import running
from helpers.served import Served

from deploy import check_dashboard
from wave_serve.settings import Settings

needs_prometheus = pytest.mark.skipif(
    shutil.which("prometheus") is None, reason="needs prometheus: apt-get install prometheus"
)
LONG = "many words " * 200


def ask_for_everything(url: str, model: str, until: threading.Event) -> list[tuple[int, str]]:
    """Streams, repeated prompts, refusals and truncations, again and again; the last round's statuses and answers."""
    bodies = [
        {"prompt": "hello", "stream": True},
        {"prompt": LONG},
        {"prompt": LONG * 3, "overflow": "truncate_middle"},
        {"prompt": LONG * 3},
        {"prompt": "hello", "max_tokens": -1},
    ]
    answers = []
    while not until.is_set():
        whole = [{"model": model, "max_tokens": 2} | body for body in bodies]
        answers = [httpx.post(f"{url}/v1/completions", json=body, timeout=60) for body in whole]
    return [(answer.status_code, answer.text) for answer in answers]


@pytest.mark.engine
@needs_prometheus
@needs_redis
def test_no_expression_of_the_dashboard_is_empty_before_a_gateway_under_traffic(real: Served, tmp_path: Path) -> None:
    engine = next(iter(httpx.get(f"{real.url}/ready").json()["upstreams"]))
    listed = tmp_path / "engines.json"
    listed.write_text(json.dumps([engine]))
    over = threading.Event()
    with redis_server() as store:
        settings = {
            "models": {real.model: {"train_length": 512, "max_tokens": 2048}},
            "upstreams": [{"file": str(listed), "models": [real.model]}],
            "limits": {"store": store.url},
        }
        with running(Settings.model_validate(settings)) as one:
            with ThreadPoolExecutor() as pool, check_dashboard.prometheus([one.url, engine]) as prometheus:
                traffic = pool.submit(ask_for_everything, one.url, real.model, over)
                try:
                    over.wait(12)
                    assert check_dashboard.empty(prometheus) == []
                    for name in ("rejected", "truncated"):
                        assert sum(check_dashboard.values(prometheus, f"sum(wave_{name}_total)")) > 0
                finally:
                    over.set()
            assert [status for status, _ in traffic.result()] == [200, 200, 200, 400, 400]


def test_the_dashboard_shows_what_an_operator_asks_for() -> None:
    asked = {expression for _, expression in check_dashboard.panels()}
    for metric in (
        "wave_prompt_tokens_by_zone_total",
        "vllm:prompt_tokens_total",
        "vllm:generation_tokens_total",
        "wave_time_to_first_token_seconds_bucket",
        "wave_queue_requests",
        "vllm:prefix_cache_hits_total",
        "wave_rejected_total",
        "wave_truncated_total",
        "wave_upstream_ready",
        "wave_count_mismatches_total",
        "wave_discovery_up",
        "wave_limits_store_up",
    ):
        assert any(metric in expression for expression in asked), metric
    panels = json.loads(check_dashboard.DASHBOARD.read_text())["panels"]
    assert len({panel["id"] for panel in panels}) == len(panels)
