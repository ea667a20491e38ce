"""Bodies that are zipped or begin with a mark of the byte order are read, within the bound on what comes out."""

import asyncio
import gzip
import json
import re
import zlib
from pathlib import Path

import httpx
import pytest
from helpers.fake_upstream import FakeUpstream
from helpers.gateway_process import ALICE
from helpers.running import Running, running, settings_for

BODY = {"model": "fake", "prompt": "hello", "max_tokens": 5}
PLAIN = json.dumps(BODY).encode()
LIMIT = 100_000
BOM = b"\xef\xbb\xbf"


def post(one: Running, content: bytes, encoding: str | None, path: str = "/v1/completions") -> httpx.Response:
    head = {"content-type": "application/json"} | ({} if encoding is None else {"content-encoding": encoding})
    return httpx.post(one.url + path, content=content, headers=head, timeout=20)


@pytest.fixture
def small(upstream: FakeUpstream):
    """A gateway with a bound that is easily passed."""
    with running(settings_for(upstream, max_body_bytes=LIMIT, large_body_bytes=20_000)) as one:
        yield one


@pytest.mark.parametrize("encoding", ["gzip", "GZIP", "x-gzip", "identity, gzip", "gzip ,"])
@pytest.mark.parametrize("path", ["/v1/completions", "/v1/context", "/tokenize"])
def test_gzip_is_read(gateway: Running, upstream: FakeUpstream, encoding: str, path: str) -> None:
    assert post(gateway, gzip.compress(PLAIN), encoding, path).status_code == 200
    assert all("content-encoding" not in request.headers for request in upstream.requests)
    assert all(json.loads(request.body)["prompt"] == "hello" for request in upstream.requests)


def test_several_members_and_parts_are_read(gateway: Running) -> None:
    zipped = gzip.compress(PLAIN[:9]) + gzip.compress(b"") + gzip.compress(PLAIN[9:])

    def parts():
        yield from (zipped[at : at + 1] for at in range(len(zipped)))

    head = {"content-type": "application/json", "content-encoding": "gzip"}
    assert httpx.post(f"{gateway.url}/v1/completions", content=parts(), headers=head).status_code == 200


@pytest.mark.parametrize("encoding", [None, "", "identity", "Identity, identity"])
def test_a_body_that_is_not_zipped_stays_as_it_is(gateway: Running, encoding: str | None) -> None:
    assert post(gateway, PLAIN, encoding).status_code == 200


@pytest.mark.parametrize("encoding", ["br", "deflate", "zstd", "gzip, gzip", "gzip, br", "gzip;q=1", "nonsense"])
def test_another_encoding_is_a_415_that_names_it(gateway: Running, encoding: str) -> None:
    answer = post(gateway, PLAIN, encoding)
    assert answer.status_code == 415
    assert answer.json()["error"]["message"] == f"Content-Encoding must be gzip or identity, got {encoding!r}"


@pytest.mark.parametrize(
    ("content", "said"),
    [
        (PLAIN, "The body is not gzip, though its Content-Encoding says so."),
        (zlib.compress(PLAIN), "The body is not gzip"),
        (gzip.compress(PLAIN)[:-1], "The body ends before its gzip data does."),
        (gzip.compress(PLAIN)[:20], "The body ends before its gzip data does."),
        (gzip.compress(PLAIN) + b"more", "The body is not gzip"),
        (b"", "The body ends before its gzip data does."),
        (gzip.compress(b"{"), "The body is not valid JSON"),
        (gzip.compress(b"") * 2000, "The body has more than 1000 members of gzip."),
        (gzip.compress(gzip.compress(PLAIN)), "The body is not valid JSON"),
    ],
    ids=["plain", "zlib", "cut", "cut early", "more", "empty", "gzip of no JSON", "many members", "gzip of gzip"],
)
def test_what_is_not_gzip_is_a_400(gateway: Running, content: bytes, said: str) -> None:
    answer = post(gateway, content, "gzip")
    assert (answer.status_code, answer.json()["error"]["code"]) == (400, "invalid_json")
    assert answer.json()["error"]["message"].startswith(said)


@pytest.mark.parametrize(("size", "status"), [(LIMIT, 200), (LIMIT + 1, 413)])
def test_the_bound_is_on_what_comes_out(small: Running, size: int, status: int) -> None:
    body = PLAIN[:-1] + b" " * (size - len(PLAIN)) + b"}"
    answer = post(small, gzip.compress(body), "gzip")
    assert answer.status_code == status
    if status == 413:
        assert f"more than {LIMIT} bytes unzipped, at most {LIMIT} bytes" in answer.json()["error"]["message"]


def test_the_bound_is_on_what_comes_in_too(small: Running) -> None:
    assert post(small, gzip.compress(PLAIN, 0) + b"\0" * LIMIT, "gzip").status_code == 413


def test_a_bomb_costs_no_more_than_the_bound(start) -> None:
    gateway = start(max_body_bytes=8 * 2**20)
    bomb = gzip.compress(bytes(2 * 2**30 // 8), 9)  # 256 MiB in 260 kB
    head = {"content-type": "application/json", "content-encoding": "gzip", "authorization": f"Bearer {ALICE}"}
    assert httpx.post(f"{gateway.url}/v1/completions", content=gzip.compress(PLAIN), headers=head).status_code == 200
    status = Path(f"/proc/{gateway.process.pid}/status")
    before = int(re.search(r"VmRSS:\s+(\d+)", status.read_text())[1])
    answer = httpx.post(f"{gateway.url}/v1/completions", content=bomb, headers=head, timeout=60)
    assert answer.status_code == 413
    after = int(re.search(r"VmHWM:\s+(\d+)", status.read_text())[1])
    assert after - before < 24 * 1024  # kB: the parts and what joins them


@pytest.mark.parametrize("zipped", [False, True])
def test_a_mark_of_the_byte_order_is_left_out(gateway: Running, upstream: FakeUpstream, zipped: bool) -> None:
    marked = BOM + PLAIN
    assert post(gateway, gzip.compress(marked) if zipped else marked, "gzip" if zipped else None).status_code == 200
    assert upstream.requests[-1].body.startswith(b"{")
    assert post(gateway, BOM + BOM + PLAIN, None).status_code == 400
    assert post(gateway, BOM, None).status_code == 400


@pytest.mark.parametrize("encoding", ["utf-16", "utf-32"])
def test_another_unicode_encoding_is_named(gateway: Running, encoding: str) -> None:
    answer = post(gateway, PLAIN.decode().encode(encoding), None)
    assert answer.status_code == 400
    assert answer.json()["error"]["message"].startswith("The body must be UTF-8, as JSON is")


def test_a_large_body_with_a_mark_is_read_by_the_worker_too(small: Running) -> None:
    body = json.dumps({"model": "fake", "prompt": "hello", "max_tokens": 5, "user": "u" * 30_000}).encode()
    assert post(small, BOM + body, None).status_code == 200
    assert post(small, gzip.compress(BOM + body), "gzip").status_code == 200


def test_others_are_answered_while_a_body_is_unzipped() -> None:
    """Between two parts of at most a mebibyte the event loop runs."""
    from wave_serve.request.encoding import AT_ONCE, unzipped

    async def once():
        yield gzip.compress(bytes(5 * AT_ONCE))

    async def scenario() -> list[int]:
        turns, seen = 0, []

        async def count() -> None:
            nonlocal turns
            while True:
                turns += 1
                await asyncio.sleep(0)

        counting = asyncio.create_task(count())
        async for part in unzipped(once(), 10 * AT_ONCE):
            assert len(part) <= AT_ONCE
            seen.append(turns)
        counting.cancel()
        return seen

    seen = asyncio.run(scenario())
    assert seen == sorted(set(seen))
