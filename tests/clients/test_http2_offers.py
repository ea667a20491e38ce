"""Real clients that offer HTTP/2 on a plain connection, as Java's HttpClient does by default and curl with --http2."""

import json
import shutil
import subprocess
from pathlib import Path

import pytest
from helpers.fake_upstream import DONE, Connection, FakeUpstream, delta, reply_json, stream
from helpers.running import running, settings_for

SOURCE = Path(__file__).with_name("JavaClient.java")
AS_ASKED = [("completion", 200), ("large", 200), ("invalid", 400), ("stream", 200)]
WHOLE = {"object": "text_completion", "choices": [{"index": 0, "text": "ok"}]}


async def generation(connection: Connection) -> None:
    """Answers as it is asked to."""
    streams = json.loads(connection.body)["stream"]
    await (stream(delta("a"), delta("b"), DONE) if streams else reply_json(WHOLE))(connection)


@pytest.mark.skipif(shutil.which("javac") is None, reason="no JDK (default-jdk-headless)")
def test_javas_http_client_is_answered(upstream: FakeUpstream) -> None:
    upstream.max_model_len = 300_000
    upstream.answers |= {"/v1/models": reply_json({"data": [{"id": "fake"}]}), "/v1/completions": generation}
    with running(settings_for(upstream, model={"max_tokens": 300_000})) as one:
        command = ["java", "-XX:TieredStopAtLevel=1", str(SOURCE), one.url, "fake"]
        done = subprocess.run(command, capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr
    lines = [line.split("\t") for line in done.stdout.splitlines()]
    told = [(what, int(status)) for what, status, _ in lines]
    assert told == [("models", 200), *AS_ASKED, *[("at once", 200)] * 8]
    bodies = {what: body for what, _, body in lines}
    assert json.loads(bodies["models"])["data"][0]["id"] == "fake"
    assert json.loads(bodies["completion"])["choices"] == WHOLE["choices"]
    assert json.loads(bodies["invalid"])["error"]["code"] == "invalid_json"
    assert bodies["stream"].endswith("data: [DONE]")
    assert "upgrade" not in upstream.requests[-1].headers


def curl_offers_http2() -> bool:
    """Whether curl is there and built with HTTP/2."""
    if shutil.which("curl") is None:
        return False
    return "HTTP2" in subprocess.run(["curl", "--version"], capture_output=True, text=True, check=True).stdout


@pytest.mark.skipif(not curl_offers_http2(), reason="no curl with HTTP/2")
@pytest.mark.parametrize("size", [5, 100_000])
def test_curl_with_http2_is_answered(upstream: FakeUpstream, size: int) -> None:
    body = json.dumps({"model": "fake", "prompt": "x" * 5, "max_tokens": 5, "user": "u" * size})
    header = "content-type: application/json"
    with running(settings_for(upstream)) as one:
        command = ["curl", "-sS", "--http2", f"{one.url}/v1/completions", "-H", header, "-d", "@-"]
        done = subprocess.run(command, input=body.encode(), capture_output=True, timeout=60)
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout)["choices"] == WHOLE["choices"]
