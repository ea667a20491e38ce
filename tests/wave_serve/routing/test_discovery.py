"""Upstreams that come and go: found by DNS or in a file, used once they are ready, left without a dropped stream."""

import asyncio
import itertools
import json
import logging
import random
import re
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import dns.rcode
import httpx
import pytest
from helpers.dns_server import DnsServer, dns_server
from helpers.fake_upstream import DONE, Connection, FakeUpstream, delta, never, reply_json, stream
from helpers.running import Running, running, settings_for

from wave_serve.settings import AdmissionSettings

BODY = {"model": "fake", "prompt": "hello", "max_tokens": 5}
NAME = "engines.test."
OK = {"object": "text_completion", "choices": [{"index": 0, "text": "ok"}]}


@pytest.fixture
def engines() -> Iterator[FakeUpstream]:
    """One server that answers on every address of 127.0.0.0/8, as if each were a server of its own."""
    with FakeUpstream(host="0.0.0.0") as one:  # noqa: S104 - for loopback's other addresses
        yield one


@pytest.fixture
def names() -> Iterator[DnsServer]:
    with dns_server({(NAME, "A"): ["127.0.0.2"]}) as server:
        yield server


def found(entry: dict, engines: FakeUpstream, nameserver: DnsServer | None = None) -> object:
    """Settings of a gateway whose upstreams are looked up."""
    discovery = {"every": 0.05, "deadline": 1.0, "nameserver": nameserver and nameserver.address}
    return settings_for(engines, upstreams=[{"models": ["fake"], **entry}], discovery=discovery)


def by_name(engines: FakeUpstream, names: DnsServer) -> object:
    return found({"dns": f"http://{NAME.rstrip('.')}:{engines.port}"}, engines, names)


def states(one: Running) -> dict[str, str]:
    return httpx.get(f"{one.url}/ready").json().get("upstreams", {})


def until(holds) -> None:
    deadline = time.monotonic() + 20
    while not holds():
        assert time.monotonic() < deadline
        time.sleep(0.02)


def used(engines: FakeUpstream, since: int = 0) -> set[str]:
    """The addresses that generations went to."""
    return {request.headers["host"].partition(":")[0] for request in engines.requests[since:]}


def test_every_address_of_a_name_is_used_and_one_that_goes_is_not(engines: FakeUpstream, names: DnsServer) -> None:
    with running(by_name(engines, names)) as one:
        assert states(one) == {f"http://127.0.0.2:{engines.port}": "ready"}
        names.records[NAME, "A"] = ["127.0.0.2", "127.0.0.3"]
        until(lambda: len(one.gateway.upstreams) == 2)
        for _ in range(6):
            assert one.post(BODY).status_code == 200
        assert used(engines) == {"127.0.0.2", "127.0.0.3"}
        names.records[NAME, "A"] = ["127.0.0.3"]
        until(lambda: len(one.gateway.upstreams) == 1)
        before = len(engines.requests)
        for _ in range(4):
            assert one.post(BODY).status_code == 200
        assert used(engines, before) == {"127.0.0.3"}
        until(lambda: "127.0.0.2" not in httpx.get(f"{one.url}/metrics").text)


def test_ipv6_addresses_and_srv_ports_are_found(engines: FakeUpstream, names: DnsServer) -> None:
    names.records |= {
        ("_http._tcp.engines.test.", "SRV"): [
            f"0 1 {engines.port} a.engines.test.",
            f"0 1 {engines.port} b.engines.test.",
            "1 1 9 backup.engines.test.",
        ],
        ("a.engines.test.", "A"): ["127.0.0.4"],
        ("b.engines.test.", "A"): ["127.0.0.5"],
        ("six.test.", "AAAA"): ["::1"],
    }
    with running(found({"srv": "http://_http._tcp.engines.test"}, engines, names)) as one:
        until(lambda: {f"http://127.0.0.{n}:{engines.port}" for n in (4, 5)} == set(states(one)))
    with running(found({"dns": f"http://six.test:{engines.port}/v1"}, engines, names), ready=False) as one:
        until(lambda: "http://[::1]" in httpx.get(f"{one.url}/ready").text)


def test_a_server_that_is_found_joins_when_it_is_ready_and_its_limits_are_known(
    engines: FakeUpstream, names: DnsServer
) -> None:
    async def models(connection: Connection) -> None:
        late = connection.headers["host"].startswith("127.0.0.3")
        await asyncio.to_thread(ready.wait) if late else None
        limit = 5000 if late else 1000
        await reply_json({"data": [{"id": "fake", "max_model_len": limit}]})(connection)

    ready = threading.Event()
    engines.answers["/v1/models"] = models
    with running(by_name(engines, names)) as one:
        names.records[NAME, "A"] = ["127.0.0.2", "127.0.0.3"]
        until(lambda: f"http://127.0.0.3:{engines.port}" in states(one))
        assert states(one)[f"http://127.0.0.3:{engines.port}"] != "ready"
        limit = one.gateway.catalogue.models["fake"].limit()
        for _ in range(4):
            one.post(BODY)
        assert used(engines) == {"127.0.0.2"}
        ready.set()
        until(lambda: len(one.gateway.upstreams) == 2)
        assert limit == 1000
        assert one.gateway.catalogue.models["fake"].limit() == 5000


def test_a_request_that_waits_for_room_goes_to_a_server_that_joins(engines: FakeUpstream, names: DnsServer) -> None:
    async def answer(connection: Connection) -> None:
        first = connection.headers["host"].startswith("127.0.0.2")
        await (never if first else reply_json(OK))(connection)

    engines.answers["/v1/completions"] = answer
    settings = by_name(engines, names).model_copy(update={"admission": AdmissionSettings(max_requests=1)})
    with running(settings) as one, ThreadPoolExecutor(2) as pool:
        stuck = pool.submit(httpx.post, f"{one.url}/v1/completions", json=BODY, timeout=3)
        until(lambda: engines.generations == 1)
        waiting = pool.submit(one.post, BODY)
        until(lambda: one.gateway.admission.waiting[0] == 1)
        names.records[NAME, "A"] = ["127.0.0.2", "127.0.0.3"]
        assert waiting.result().status_code == 200
        assert isinstance(stuck.exception(), httpx.TimeoutException)


@pytest.mark.parametrize("fault", ["servfail", "silence", "no such name", "no address"])
def test_a_resolver_that_fails_keeps_the_old_list_and_says_so(
    fault: str, engines: FakeUpstream, names: DnsServer, caplog: pytest.LogCaptureFixture
) -> None:
    names.records[NAME, "A"] = ["127.0.0.2", "127.0.0.3"]
    with caplog.at_level(logging.INFO, "wave_serve.discovery"), running(by_name(engines, names)) as one:
        until(lambda: len(one.gateway.upstreams) == 2)
        match fault:
            case "servfail":
                names.rcode = dns.rcode.SERVFAIL
            case "silence":
                names.silent = True
            case "no such name":
                names.records.clear()
            case "no address":
                names.records[NAME, "A"] = []
        source = f'source="dns http://engines.test:{engines.port}"'
        until(lambda: f"wave_discovery_up{{{source}}} 0.0" in httpx.get(f"{one.url}/metrics").text)
        asked = names.asked
        until(lambda: names.asked >= asked + 4)
        assert len(one.gateway.upstreams) == 2
        assert one.post(BODY).status_code == 200
        text = httpx.get(f"{one.url}/metrics").text
        assert f"wave_discovery_listed{{{source}}} 2.0" in text
        assert float(re.search(rf"wave_discovery_failures_total\{{{source}\}} (\S+)", text)[1]) >= 1
        failed = [record.fields for record in caplog.records if record.levelno == logging.ERROR]
        assert {(line["listed"], "engines.test" in line["source"]) for line in failed} == {(2, True)}
        # Once, and once more where a busy machine is why another look-up fails.
        reasons = [line["reason"] for line in failed]
        assert reasons == [reason for reason, _ in itertools.groupby(reasons)]
        names.silent, names.rcode, names.records = False, None, {(NAME, "A"): ["127.0.0.4"]}
        until(lambda: list(states(one)) == [f"http://127.0.0.4:{engines.port}"])


def test_a_name_that_was_never_looked_up_is_why_the_gateway_is_not_ready(names: DnsServer) -> None:
    names.rcode = dns.rcode.REFUSED
    with FakeUpstream() as engines, running(by_name(engines, names), ready=False) as one:
        until(lambda: "no nameserver answers for engines.test" in httpx.get(f"{one.url}/ready").text)
        assert one.post(BODY).json()["error"]["code"] == "upstream_unavailable"


def replace(path: Path, text: str) -> None:
    part = path.with_suffix(".part")
    part.write_text(text)
    part.rename(path)


def test_a_file_and_a_mounted_one_are_watched_and_a_mistake_keeps_the_old_list(
    engines: FakeUpstream, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    def root(number: int) -> str:
        return f"http://127.0.0.{number}:{engines.port}"

    def listed(*numbers: int) -> bool:
        return {upstream.base_url for upstream in one.gateway.upstreams} == {root(number) for number in numbers}

    # As Kubernetes mounts a ConfigMap: the file is a link into a folder that is itself a link, replaced at once.
    for version, text in (("v1", json.dumps([root(2), root(3)])), ("v2", f"- {root(3)}/\n- {root(4)}/v1  # yaml\n")):
        (tmp_path / version).mkdir()
        (tmp_path / version / "list").write_text(text)
    (tmp_path / "data").symlink_to("v1")
    file = tmp_path / "list"
    file.symlink_to("data/list")
    with caplog.at_level(logging.ERROR, "wave_serve.discovery"), running(found({"file": str(file)}, engines)) as one:
        until(lambda: listed(2, 3))
        (tmp_path / "new").symlink_to("v2")
        (tmp_path / "new").replace(tmp_path / "data")
        until(lambda: listed(3, 4))
        for mistake in ("", "- http://u:canary@h\n", "- 12\n", "urls: []\n", '["http://127.0.0.9'):
            before = len(caplog.records)
            replace(file, mistake)
            until(lambda before=before: len(caplog.records) > before)
            assert listed(3, 4)
        assert "canary" not in str([record.fields for record in caplog.records])
        file.unlink()
        until(lambda: any("No such file" in str(record.fields) for record in caplog.records))
        assert listed(3, 4)
        replace(file, "[]")
        until(lambda: listed())
        assert one.post(BODY).status_code == 503


class Streams:
    """Clients that ask for one stream after another until told to end."""

    def __init__(self, one: Running, clients: int) -> None:
        self._url = f"{one.url}/v1/completions"
        self._end = threading.Event()
        self._pool = ThreadPoolExecutor(clients)
        self._reading = [self._pool.submit(self._read) for _ in range(clients)]
        self.answered = 0

    def _read(self) -> list[bytes]:
        broken = []
        with httpx.Client(timeout=60) as client:
            while not self._end.is_set():
                answer = client.post(self._url, json=BODY | {"stream": True})
                self.answered += 1
                if answer.content != WHOLE or answer.status_code != 200:
                    broken.append(answer.content)
        return broken

    def __enter__(self) -> "Streams":
        return self

    def __exit__(self, *_: object) -> None:
        self._end.set()
        self._pool.shutdown()

    def broken(self) -> list[bytes]:
        """Every answer that was not complete."""
        self._end.set()
        return [answer for each in self._reading for answer in each.result()]


WHOLE = b"".join(delta(str(number)) for number in range(10)) + DONE


def test_no_stream_is_dropped_while_the_list_of_addresses_changes_a_hundred_times(
    engines: FakeUpstream, names: DnsServer, caplog: pytest.LogCaptureFixture
) -> None:
    steps = [step for number in range(10) for step in (delta(str(number)), 0.02)]
    engines.answers["/v1/completions"] = stream(*steps, DONE)
    rng = random.Random(0)
    addresses = [f"127.0.0.{number}" for number in range(2, 12)]
    with running(by_name(engines, names)) as one, Streams(one, 8) as streams:
        for change in range(100):
            names.records[NAME, "A"] = listed = rng.sample(addresses, rng.randrange(1, 6))
            urls = {f"http://{address}:{engines.port}" for address in listed}
            until(lambda urls=urls: {upstream.base_url for upstream in one.gateway.upstreams} == urls)
            if change % 10 == 0:
                names.rcode = dns.rcode.SERVFAIL
                asked = names.asked
                until(lambda asked=asked: names.asked > asked + 2)
                names.rcode = None
        assert streams.broken() == []
        assert streams.answered >= 100
        assert used(engines) == set(addresses)
        until(lambda: len(one.gateway.pool.all) == len(listed))
        shown = set(re.findall(r'base_url="([^"]*)"', httpx.get(f"{one.url}/metrics").text))
        assert shown == urls
        assert all(upstream.in_flight == 0 for upstream in one.gateway.upstreams)


def test_a_stream_of_a_server_that_is_gone_ends_on_its_own_and_then_nothing_is_left_of_it(
    engines: FakeUpstream, names: DnsServer
) -> None:
    async def wait(_: Connection) -> None:
        await asyncio.to_thread(go.wait, 20)

    go = threading.Event()
    engines.answers["/v1/completions"] = stream(delta("first"), wait, delta("last"), DONE)
    with running(by_name(engines, names)) as one, ThreadPoolExecutor(1) as pool:
        streaming = pool.submit(one.post, BODY | {"stream": True})
        until(lambda: engines.generations == 1)
        names.records[NAME, "A"] = ["127.0.0.3"]
        until(lambda: [upstream.base_url[7:16] for upstream in one.gateway.upstreams] == ["127.0.0.3"])
        assert f'wave_upstream_requests{{base_url="http://127.0.0.2:{engines.port}"}} 1.0' in metrics(one)
        names.records[NAME, "A"] = ["127.0.0.2"]  # it comes back while it leaves, and its stream goes on
        until(lambda: [upstream.base_url[7:16] for upstream in one.gateway.upstreams] == ["127.0.0.2"])
        names.records[NAME, "A"] = ["127.0.0.3"]
        until(lambda: [upstream.base_url[7:16] for upstream in one.gateway.upstreams] == ["127.0.0.3"])
        go.set()
        assert streaming.result().content == delta("first") + delta("last") + DONE
        until(lambda: "127.0.0.2" not in metrics(one))


def metrics(one: Running) -> str:
    return httpx.get(f"{one.url}/metrics").text
