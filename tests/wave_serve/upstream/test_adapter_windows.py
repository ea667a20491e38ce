"""An adapter's card has no max_model_len of its own: its window is that of the model that it adapts."""

import httpx
from helpers.fake_upstream import FakeUpstream, reply_json
from helpers.running import running

from wave_serve.settings import Settings


def test_an_adapter_is_listed_with_its_model_and_capped_by_its_window(upstream: FakeUpstream) -> None:
    cards = [
        {"id": "base", "max_model_len": 900, "root": "/models/base"},
        {"id": "sql", "max_model_len": None, "root": "/loras/sql", "parent": "base"},
        {"id": "lost", "max_model_len": None, "parent": "elsewhere"},
    ]
    upstream.answers["/v1/models"] = reply_json({"data": cards})
    settings = {
        "models": {"base": {}, "sql": {"max_tokens": 2000}, "lost": {}},
        "upstreams": [{"base_url": upstream.url, "models": ["base", "sql", "lost"]}],
        "timeouts": {"poll": 0.05},
    }
    with running(Settings.model_validate(settings)) as one:
        found = {card["id"]: card for card in httpx.get(f"{one.url}/v1/models").json()["data"]}
        assert found["sql"]["parent"] == "base"
        assert found["sql"]["root"] == "/loras/sql"
        assert found["sql"]["limits"] == {"max_tokens": 2000, "engine": 900}
        assert found["sql"]["max_model_len"] == found["base"]["max_model_len"] == 900
        assert "engine" not in found["lost"]["limits"]
        answer = one.post({"model": "sql", "prompt": [1] * 900, "max_tokens": 1})
        assert (answer.status_code, answer.json()["error"]["n_ctx"]) == (400, 900)
