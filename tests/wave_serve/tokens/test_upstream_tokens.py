"""Reading of what an upstream's /tokenize answers."""

import pytest
from helpers.fake_upstream import FakeUpstream, reply
from helpers.running import running, settings_for

from wave_serve.errors import ApiError
from wave_serve.tokens.upstream_tokens import UpstreamTokens


@pytest.mark.parametrize(
    "answer",
    [
        b'{"count":3,"max_model_len":9,"tokens":[4,5,6],"token_strs":null}',
        b' { "count": 3, "tokens": [4, 5, 6]}',
        b'{"tokens":[4,5,6],"count":3}',
        b'{"tokens":[4,5,6]}',
    ],
)
def test_number_and_ids(answer: bytes) -> None:
    found = UpstreamTokens(answer)
    assert len(found) == 3
    assert found.ids == [4, 5, 6]


def test_the_number_costs_no_reading_of_the_ids() -> None:
    assert len(UpstreamTokens(b'{"count":3000000,"tokens":[4,')) == 3_000_000


@pytest.mark.parametrize("answer", [b"", b"[1]", b"{}", b'{"tokens":null}', b'{"tokens":"abc"}', b"nope"])
def test_an_answer_without_tokens_is_the_upstreams_fault(answer: bytes) -> None:
    with pytest.raises(ApiError) as caught:
        UpstreamTokens(answer)
    assert (caught.value.status, caught.value.code) == (502, "upstream_malformed")


def test_tokenize_passes_its_answer_on_as_it_came(upstream: FakeUpstream) -> None:
    long = b'{"count":400000,"tokens":[' + b"100," * 399_999 + b"100]}"
    with running(settings_for(upstream)) as one:
        for sent in (b' {"count": 1, "tokens": [5]}\n', long):
            upstream.answers["/tokenize"] = reply(sent)
            assert one.post({"prompt": "a"}, "/tokenize").content == sent.strip()
        for broken in (b"[1]", b"{", b"", long[:-1], b"[" + long + b"]"):
            upstream.answers["/tokenize"] = reply(broken)
            answer = one.post({"prompt": "a"}, "/tokenize")
            assert (answer.status_code, answer.json()["error"]["code"]) == (502, "upstream_malformed")
