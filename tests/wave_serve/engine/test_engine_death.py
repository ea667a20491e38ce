"""What users of `wave-serve serve` see when the engine is killed, and when they stop it."""

import os
import signal
import time
from collections.abc import Iterator
from pathlib import Path

import httpx
import openai
import pytest
from helpers.served import Served, serving
from openai import OpenAI

pytestmark = pytest.mark.engine


@pytest.fixture(scope="module")
def real(checkpoint: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Served]:
    """One of this file's own, which does not outlive it."""
    with serving(checkpoint, tmp_path_factory.mktemp("doomed")) as one:
        yield one


def test_killing_the_engine_mid_stream_is_an_error_event_and_it_comes_back(client: OpenAI, real: Served) -> None:
    before = real.engine_pids()
    (core,) = [pid for pid, name in before.items() if "EngineCore" in name or "EngineCor" in name]
    stream = client.completions.create(
        model=real.model, prompt=[2] * 64, max_tokens=3900, stream=True, extra_body={"ignore_eos": True}
    )
    next(iter(stream))
    os.kill(core, signal.SIGKILL)
    with pytest.raises(openai.APIError):
        list(stream)

    wait_for_status(real, 503)
    with pytest.raises(openai.InternalServerError) as caught:
        client.completions.create(model=real.model, prompt="x")
    assert caught.value.status_code == 503
    assert int(caught.value.response.headers["retry-after"]) > 0
    assert httpx.get(f"{real.url}/health").status_code == 200

    real.wait_ready()
    assert client.completions.create(model=real.model, prompt="x", max_tokens=1).choices
    assert not [pid for pid in before if Path(f"/proc/{pid}").exists()]
    (report,) = [line for line in real.stderr.read_text().splitlines() if "starting it again" in line]
    assert "log_tail" in report


def test_sigterm_ends_gateway_and_engine_with_status_0(client: OpenAI, real: Served) -> None:
    stream = client.completions.create(
        model=real.model, prompt=[2] * 64, max_tokens=3900, n=64, stream=True, extra_body={"ignore_eos": True}
    )
    next(iter(stream))
    engine = real.engine_pids()
    real.process.send_signal(signal.SIGTERM)
    with pytest.raises(openai.APIError):
        list(stream)
    assert real.process.wait(30) == 0
    assert not [pid for pid in engine if Path(f"/proc/{pid}").exists()], "a process is left, if only as a zombie"
    assert "Traceback" not in real.stderr.read_text()


def wait_for_status(real: Served, status: int) -> None:
    deadline = time.monotonic() + 30
    while httpx.get(f"{real.url}/ready").status_code != status:
        assert time.monotonic() < deadline
        time.sleep(0.05)
