"""Answers /tokenize as vLLM does: with the tokenizer that Transformers makes of a checkpoint's files."""

import json
from collections.abc import Sequence
from pathlib import Path

from helpers.fake_upstream import Connection, Handler, reply_json


class EngineTokenizer:
    """The tokenizer that an engine would load from a directory."""

    def __init__(self, directory: Path) -> None:
        from transformers import AutoTokenizer

        self._tokenizer = AutoTokenizer.from_pretrained(str(directory))

    def encode(self, text: str, *, add_special_tokens: bool = True) -> list[int]:
        """Token ids of a text."""
        return list(self._tokenizer(text, add_special_tokens=add_special_tokens)["input_ids"])

    def decode(self, ids: Sequence[int]) -> str:
        """The text of token ids."""
        text: str = self._tokenizer.decode(ids)
        return text

    @property
    def handlers(self) -> dict[str, Handler]:
        """What a fake upstream answers with it."""
        return {"/tokenize": self._answer_tokenize, "/detokenize": self._answer_detokenize}

    async def _answer_tokenize(self, connection: Connection) -> None:
        asked = json.loads(connection.body)
        ids = self.encode(asked["prompt"], add_special_tokens=asked.get("add_special_tokens", True))
        await reply_json({"count": len(ids), "max_model_len": 10**6, "tokens": ids})(connection)

    async def _answer_detokenize(self, connection: Connection) -> None:
        await reply_json({"prompt": self.decode(json.loads(connection.body)["tokens"])})(connection)
