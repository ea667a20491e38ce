"""Event streams are passed on in whole events, and broken ones end in an error."""

import json
import re
from collections.abc import Iterator

import pytest

from wave_serve.relay import events as events_module
from wave_serve.relay.events import BOUNDARY, BrokenStreamError, EventStream
from wave_serve.relay.usage import AnswerUsage
from wave_serve.request.dialects import COMPLETIONS

EVENTS = b': comment\n\ndata: {"a": "\\n\\n"}\n\ndata: {"b": 2}\r\n\r\nid: 7\ndata: {"c": 3}\n\ndata: [DONE]\n\n'


def new_stream(extension: dict | None = None) -> EventStream:
    return EventStream(COMPLETIONS, AnswerUsage(COMPLETIONS, extension), lambda _event: None)


@pytest.mark.parametrize("size", [1, 2, 3, 7, 1000])
def test_all_bytes_pass_in_whole_events_however_they_are_cut(size: int) -> None:
    stream = new_stream()
    passed = [stream.feed(EVENTS[start : start + size]) for start in range(0, len(EVENTS), size)]
    assert b"".join(passed) == EVENTS
    assert all(not part or part.endswith((b"\n\n", b"\r\n\r\n")) for part in passed)
    assert stream.done


@pytest.mark.parametrize("end", [b"\n", b"\r\n", b"\r"])
def test_the_data_of_one_event_may_stand_on_several_lines(end: bytes) -> None:
    lines = [b": why", b'data: {"choices": [],', b"id: 7", b'data:"usage": {"prompt_tokens": 5}}', b"", b""]
    part = end.join(lines)
    assert new_stream().feed(part) == part
    extended = new_stream({"truncation": 1}).feed(part)
    assert extended.endswith(end + end)
    assert [line for line in extended.splitlines() if line] == [
        b": why",
        b"id: 7",
        b'data: {"choices":[],"usage":{"prompt_tokens":5,"truncation":1}}',
    ]
    with pytest.raises(BrokenStreamError) as caught:
        new_stream().feed(end.join([b"data: {", b'data: "error": {"message": "no", "code": 400}}', b"", b""]))
    assert caught.value.error.message == "no"


def test_an_event_without_data_passes() -> None:
    part = b"event: ping\n\nid: 3\ndata:\n\n"
    stream = new_stream()
    assert (stream.feed(part), stream.has_event, stream.done) == (part, False, False)


def test_half_an_event_is_held_back() -> None:
    stream = new_stream()
    assert stream.feed(b'data: {"a": 1}\n\ndata: {"b"') == b'data: {"a": 1}\n\n'
    assert not stream.done


class Searches:
    """Counts the bytes in which a boundary is looked for."""

    def __init__(self) -> None:
        self.bytes = 0

    def finditer(self, data: bytes, start: int = 0) -> Iterator[re.Match[bytes]]:
        self.bytes += len(data) - start
        return BOUNDARY.finditer(data, start)


@pytest.mark.parametrize("end", [b"\n\n", b"\r\r", b"\r\n\r\n"])
def test_a_large_event_is_searched_once_however_it_is_cut(monkeypatch: pytest.MonkeyPatch, end: bytes) -> None:
    searches = Searches()
    monkeypatch.setattr(events_module, "BOUNDARY", searches)
    event = b'data: {"text": "' + b"x" * 10_000 + b'"}' + end
    stream = new_stream()
    assert b"".join(stream.feed(event[start : start + 7]) for start in range(0, len(event), 7)) == event
    assert searches.bytes < 2 * len(event)


def test_done_inside_a_text_is_not_the_end() -> None:
    stream = new_stream()
    stream.feed(b'data: {"text": "data: [DONE]"}\n\n')
    assert not stream.done


@pytest.mark.parametrize(
    ("event", "status", "kind"),
    [
        (b'data: {"error": {"message": "boom", "type": "InternalServerError", "code": 500}}\n\n', 500, "server_error"),
        (b'data: {"error": {"message": "bad", "code": 400}}\n\n', 400, "invalid_request_error"),
        (b"data: {half\n\n", 502, "server_error"),
        (b"data: \xff\xfe\n\n", 502, "server_error"),
    ],
)
def test_an_error_ends_the_stream_after_the_events_before_it(event: bytes, status: int, kind: str) -> None:
    with pytest.raises(BrokenStreamError) as caught:
        new_stream().feed(b'data: {"a": 1}\n\n' + event + b'data: {"never": 1}\n\n')
    assert caught.value.whole == b'data: {"a": 1}\n\n'
    assert caught.value.error.status == status
    assert caught.value.error.type == kind
    assert json.loads(COMPLETIONS.error_event(caught.value.error).removeprefix(b"data: "))["error"]["type"] == kind


def test_what_the_gateway_did_joins_the_usage_of_every_event_that_has_one() -> None:
    events = new_stream({"truncation": {"overflow": "truncate_head"}})
    plain = b'data: {"choices":[{"text":"usage"}],"usage":null}\n\n'
    last = b'data: {"choices": [], "usage": {"prompt_tokens": 5}}\r\n\r\n'
    found = events.feed(plain + last + b"data: [DONE]\n\n")
    assert found.startswith(plain)
    assert found.endswith(b"\r\n\r\ndata: [DONE]\n\n")
    event = json.loads(found[len(plain) :].split(b"\r\n")[0].removeprefix(b"data:"))
    assert event == {"choices": [], "usage": {"prompt_tokens": 5, "truncation": {"overflow": "truncate_head"}}}
