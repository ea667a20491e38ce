"""New keys and limits reach a running gateway without a dropped stream; a mistake in a file changes nothing."""

import asyncio
import concurrent.futures
import itertools
import os
import pty
import signal
import threading

import httpx
from helpers.fake_upstream import DONE, Connection, FakeUpstream, delta, stream
from helpers.gateway_process import ALICE, BOB, BODY, MountedProcess, Process, Streamed

from wave_serve.keys.file import digest

REFUSED = "reload refused; the old settings stay"


def test_keys_and_limits_change_while_a_stream_goes_on(start) -> None:
    gateway = start()
    streamed = Streamed(gateway)
    assert gateway.post(BOB).status_code == 401

    gateway.write_keys((BOB, {"requests_per_minute": 100}))
    gateway.process.send_signal(signal.SIGHUP)
    gateway.until(lambda: gateway.events("reloaded"))
    gateway.fake.answers["/v1/completions"] = stream(delta("ok"), DONE)
    assert gateway.post(ALICE).status_code == 401
    assert gateway.post(BOB, stream=True).headers["x-ratelimit-remaining-requests"] == "99"

    gateway.write_keys((BOB, {"requests_per_minute": 50}))  # no signal: the change is seen
    gateway.until(lambda: len(gateway.events("reloaded")) == 2)
    assert gateway.post(BOB, stream=True).headers["x-ratelimit-remaining-requests"] == "48"

    gateway.write_config(models={"fake": {"train_length": 100, "max_tokens": 10}}, host="127.0.0.2")
    gateway.until(lambda: len(gateway.events("reloaded")) == 3)
    assert gateway.events("reloaded")[-1]["needs_restart"] == ["host"]
    assert gateway.post(BOB, max_tokens=50).json()["error"]["code"] == "context_length_exceeded"

    streamed.go_on()
    assert streamed.end() == delta("first") + delta("last") + DONE


def test_mounted_settings_and_keys_are_read_again_when_the_kubelet_replaces_them(start) -> None:
    gateway = start(kind=MountedProcess)
    streamed = Streamed(gateway)

    gateway.write_keys((BOB, {"requests_per_minute": 100}))
    gateway.until(lambda: gateway.events("reloaded"))
    gateway.fake.answers["/v1/completions"] = stream(delta("ok"), DONE)
    assert gateway.post(ALICE).status_code == 401
    assert gateway.post(BOB, stream=True).headers["x-ratelimit-remaining-requests"] == "99"

    for number, most in enumerate((10, 20, 30), start=2):  # each into a folder of its own
        gateway.write_config(models={"fake": {"train_length": 100, "max_tokens": most}})
        gateway.until(lambda number=number: len(gateway.events("reloaded")) == number)
        assert gateway.post(BOB, max_tokens=50).json()["error"]["n_ctx"] == most

    gateway.replace(gateway.config, "port: none\n")
    gateway.until(lambda: gateway.events(REFUSED))
    assert gateway.post(BOB, max_tokens=50).json()["error"]["n_ctx"] == 30
    streamed.go_on()
    assert streamed.end() == delta("first") + delta("last") + DONE


class Load:
    """Streams that flow until told to end, and what the upstream sent of each."""

    def __init__(self, gateway: Process, streams: int) -> None:
        self._gateway = gateway
        self._end = threading.Event()
        self.sent: dict[str, bytes] = {}
        gateway.fake.answers["/v1/completions"] = self._answer
        self._pool = concurrent.futures.ThreadPoolExecutor(streams)
        self._reading = [self._pool.submit(self._read, f"stream {number}") for number in range(streams)]

    async def _answer(self, connection: Connection) -> None:
        name = connection.body.decode().partition("<")[2].partition(">")[0]

        async def flow(_: Connection) -> None:
            for number in itertools.count():
                event = delta(f"{name}, {number}")
                self.sent[name] = self.sent.get(name, b"") + event
                await connection.chunk(event)
                if self._end.is_set():
                    break
                await asyncio.sleep(0.005)

        await stream(flow, DONE)(connection)

    def _read(self, name: str) -> tuple[str, bytes]:
        headers = {"authorization": f"Bearer {ALICE}"}
        body = BODY | {"prompt": f"<{name}>", "stream": True}
        answer = httpx.post(f"{self._gateway.url}/v1/completions", json=body, headers=headers, timeout=60)
        return name, answer.content.replace(b": keep-alive\n\n", b"")

    def end(self) -> dict[str, bytes]:
        """What the clients got, comments left out, by stream."""
        self._end.set()
        with self._pool:
            return dict(each.result() for each in self._reading)


def test_no_stream_of_many_loses_a_byte_while_everything_is_reloaded_again_and_again(start) -> None:
    gateway = start()
    load = Load(gateway, streams=8)
    gateway.until(lambda: len(load.sent) == 8)
    changes = [
        {"admission": {"max_requests": 1, "queue_requests": 1}},  # less than runs already
        {"models": {"fake": {"train_length": 100, "max_tokens": 6}}},  # less than runs already
        {"routing": {"tries": 1}, "max_body_bytes": 10},
        {},
    ]
    for number in range(12):
        before = {name: len(sent) for name, sent in load.sent.items()}
        gateway.write_config(**changes[number % len(changes)])
        gateway.write_keys((BOB, {}), *(() if number % 2 else ((ALICE, {"concurrency": 1}),)))
        reloaded = len(gateway.events("reloaded"))
        gateway.process.send_signal(signal.SIGHUP)
        gateway.until(lambda reloaded=reloaded: len(gateway.events("reloaded")) > reloaded)
        gateway.until(lambda before=before: all(len(load.sent[name]) > length for name, length in before.items()))
    assert load.end() == {name: sent + DONE for name, sent in load.sent.items()}
    gateway.until(lambda: len(gateway.events("request")) == 8)
    assert {line["status"] for line in gateway.events("request")} == {200}


MISTAKES = [
    ("keys", f"keys:\n  - name: alice\n    sha256: {ALICE}\n", "keys.yaml:3:5: keys.0.sha256: "),
    (
        "keys",
        f"keys:\n  - {{name: bob, sha256: {digest(BOB)}}}\n\n  # and one more\n  - {{name: carol, sha256: 12}}\n",
        "keys.yaml:5:19: keys.1.sha256: ",
    ),
    ("keys", "keys:\n  - {name: alice\n", "keys.yaml:3:1: not valid YAML"),
    ("config", "port: 8000\nadmision: {}\n", "gateway.yaml:2:1: unknown key admision; did you mean admission?"),
]


def test_a_mistake_keeps_the_old_settings_and_says_its_line(start) -> None:
    gateway = start()
    gateway.fake.answers["/v1/completions"] = stream(delta("ok"), DONE)

    def refused() -> list[str]:
        return [mistake for line in gateway.events(REFUSED) for mistake in line["mistakes"]]

    for file, text, line in MISTAKES:
        getattr(gateway, file).write_text(text)
        gateway.until(lambda line=line: any(line in mistake for mistake in refused()))
        assert gateway.post(ALICE, stream=True).status_code == 200
        assert gateway.post(BOB).status_code == 401
        gateway.write_keys((ALICE, {}))
        gateway.write_config()
    gateway.write_config(auth={})
    gateway.until(lambda: any("would open the gateway to everyone" in mistake for mistake in refused()))
    gateway.write_config()
    gateway.keys.unlink()
    gateway.until(lambda: any("No such file" in mistake for mistake in refused()) or gateway.process.send_signal(1))
    assert gateway.post(ALICE, stream=True).status_code == 200
    assert "canary" not in gateway.log.read_text()
    gateway.write_keys((BOB, {}))
    gateway.until(lambda: gateway.post(BOB, stream=True).status_code == 200)


def test_a_closed_terminal_ends_the_gateway_though_a_hangup_means_reload(start) -> None:
    ours, theirs = pty.openpty()
    gateway = start(stdin=theirs)
    os.close(theirs)
    gateway.process.send_signal(signal.SIGHUP)
    gateway.until(lambda: gateway.events("reloaded"))
    os.close(ours)
    assert gateway.process.wait(20) == 0


def test_upstreams_join_and_leave_by_a_reload_while_a_stream_goes_on(start) -> None:
    def use(*servers: FakeUpstream, **more: object) -> None:
        before = len(gateway.events("reloaded")) + len(gateway.events(REFUSED))
        entries = [{"base_url": one.url, "models": ["fake"], **more} for one in servers]
        gateway.write_config(upstreams=entries)
        gateway.process.send_signal(signal.SIGHUP)
        gateway.until(lambda: len(gateway.events("reloaded")) + len(gateway.events(REFUSED)) > before)

    gateway = start()
    streamed = Streamed(gateway)
    with FakeUpstream() as second:
        second.answers["/v1/completions"] = stream(delta("second"), DONE)
        use(gateway.fake, second)
        gateway.until(lambda: gateway.post(stream=True).content.startswith(delta("second")))
        use(second, api_key="env:NOT_SET")
        assert "NOT_SET is not set" in str(gateway.events(REFUSED)[-1]["mistakes"])
        use(second)
        assert "needs_restart" not in gateway.events("reloaded")[-1]
        for _ in range(4):
            assert gateway.post(stream=True).content == delta("second") + DONE
        with FakeUpstream() as third:  # which nobody has looked at yet when it takes the second's place
            third.answers["/v1/completions"] = stream(delta("third"), DONE)
            use(third)
            answers = [gateway.post(stream=True).content for _ in range(20)]
            assert set(answers) <= {delta("second") + DONE, delta("third") + DONE}
            gateway.until(lambda: gateway.post(stream=True).content == delta("third") + DONE)
            use(second)
            gateway.until(lambda: gateway.post(stream=True).content == delta("second") + DONE)
        streamed.go_on()
        assert streamed.end() == delta("first") + delta("last") + DONE
        gateway.until(lambda: gateway.fake.url not in httpx.get(f"{gateway.url}/metrics", headers=BEARER).text)


BEARER = {"authorization": f"Bearer {ALICE}"}
