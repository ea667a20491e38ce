"""Runs a gateway on a real socket in a thread of the test's process."""

import contextlib
import threading
import time
from collections.abc import Iterator
from dataclasses import dataclass

import httpx
from openai import OpenAI

from helpers.fake_upstream import FakeUpstream
from wave_serve.api.app import build_app
from wave_serve.gateway import Gateway
from wave_serve.run.server import listen, make_server, run_loop
from wave_serve.settings import Settings


@dataclass
class Running:
    """A gateway and where it listens."""

    url: str
    gateway: Gateway

    def post(self, body: object, path: str = "/v1/completions", **options: object) -> httpx.Response:
        """One request with a JSON body."""
        return httpx.post(self.url + path, json=body, timeout=20, **options)

    def wait(self, status: int) -> None:
        """Returns once /ready answers with `status`."""
        deadline = time.monotonic() + 20
        while httpx.get(f"{self.url}/ready").status_code != status:
            assert time.monotonic() < deadline, httpx.get(f"{self.url}/ready").text
            time.sleep(0.02)


@contextlib.contextmanager
def running(settings: Settings, *, ready: bool = True) -> Iterator[Running]:
    """A gateway that serves until the block ends."""
    gateway = Gateway(settings)
    server = make_server(build_app(gateway), settings, grace=1)
    sock = listen("127.0.0.1", 0)
    thread = threading.Thread(target=lambda: run_loop(server.serve(sockets=[sock])))
    thread.start()
    one = Running(f"http://127.0.0.1:{sock.getsockname()[1]}", gateway)
    try:
        if ready:
            one.wait(200)
        yield one
    finally:
        server.stop()
        thread.join()


def settings_for(fake: FakeUpstream, *, model: dict | None = None, **options: object) -> Settings:
    """Settings of a gateway before a fake upstream, with short deadlines."""
    timeouts = {"silence": 5.0, "keep_alive": 5.0, "poll": 0.05, "connect": 2.0} | options.pop("timeouts", {})
    described = {
        "models": {fake.model: {"train_length": 100, **(model or {})}},
        "upstreams": [{"base_url": fake.url, "models": [fake.model]}],
        "timeouts": timeouts,
    }
    return Settings.model_validate(described | options)


def sdk(one: Running) -> OpenAI:
    """OpenAI's SDK against a gateway, without retries."""
    return OpenAI(base_url=f"{one.url}/v1", api_key="none", max_retries=0, timeout=20)
