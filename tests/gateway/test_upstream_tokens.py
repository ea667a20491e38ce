"""Reading of what an upstream's /tokenize answers."""

import pytest

from wave_serve.errors import ApiError
from wave_serve.upstream_tokens import UpstreamTokens


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
