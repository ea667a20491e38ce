"""Counts a model's prompts exactly as its engine does: locally where the tokenizer is at hand, else upstream."""

import logging
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any
from weakref import WeakKeyDictionary

from pydantic_core import to_json

from wave_serve.errors import ApiError, Code, invalid
from wave_serve.logs import event
from wave_serve.request.dialects import Conversation
from wave_serve.request.generation import Prompt
from wave_serve.tokens.special_tokens import PROBE, Affixes, affixes_of
from wave_serve.tokens.tokenizer import LocalTokenizer
from wave_serve.tokens.upstream_tokens import UpstreamTokens
from wave_serve.upstream.upstream import Upstream
from wave_serve.worker.process import Worker

logger = logging.getLogger("wave_serve.counting")

CHARACTER_TOKENS = 4  # at most: one for each byte of a character
BROKEN = "\ufffd"  # what decoders write for bytes that are no character
SHOWN = 20  # tokens of a text, in a log line
LONGEST_SHOWN = 200  # characters
NO_ANSWER = (Code.UPSTREAM_UNAVAILABLE, Code.UPSTREAM_TIMEOUT, Code.UPSTREAM_DIED)

NO_TEMPLATE = "you must provide a chat template"  # in the words of Transformers

# What of a chat request decides its prompt, under the names of vLLM's /tokenize.
CHAT_FIELDS = (
    "messages",
    "tools",
    "add_generation_prompt",
    "continue_final_message",
    "add_special_tokens",
    "chat_template",
    "mm_processor_kwargs",
    "media_io_kwargs",
)


class TokenCounter:
    """Tokens of one model's prompts.

    The engine has the last word. `check` compares the local tokenizer with an upstream's before that is used, and
    `compare` with each answer's usage. After the first difference the local tokenizer is not used again.
    """

    def __init__(self, model: str, tokenizer: Path | None, heavy: Worker | None = None) -> None:
        self._model = model
        self._tokenizer = None if tokenizer is None else LocalTokenizer(tokenizer, heavy)
        self._affixes: Affixes | None = None
        self._closed: WeakKeyDictionary[Upstream, set[str]] = WeakKeyDictionary()

    def fewest(self, prompt: Prompt) -> int:
        """A lower bound on a prompt's tokens that costs no tokenising; exact for token ids."""
        if not isinstance(prompt, str):
            return len(prompt)
        return 0 if self._tokenizer is None else self._tokenizer.fewest_tokens(prompt)

    async def count(self, prompts: Sequence[Prompt], upstream: Upstream, *, add_special_tokens: bool) -> list[int]:
        """Tokens of each prompt."""
        texts = [prompt for prompt in prompts if isinstance(prompt, str)]
        if not texts:
            return [len(prompt) for prompt in prompts]
        if self._tokenizer is not None:
            return await self._tokenizer.count(texts, add_special_tokens=add_special_tokens)
        return [len(await self._ask(upstream, prompt=text, add_special_tokens=add_special_tokens)) for text in texts]

    async def encode(
        self, prompts: Sequence[Prompt], upstream: Upstream, *, add_special_tokens: bool
    ) -> list[Sequence[int]]:
        """Token ids of each prompt."""
        texts = [prompt for prompt in prompts if isinstance(prompt, str)]
        if not texts:
            return [prompt for prompt in prompts if not isinstance(prompt, str)]
        if self._tokenizer is not None:
            return await self._tokenizer.encode_all(texts, add_special_tokens=add_special_tokens)
        return [(await self._ask(upstream, prompt=text, add_special_tokens=add_special_tokens)).ids for text in texts]

    async def count_conversation(self, dialect: Conversation, payload: Mapping[str, Any], upstream: Upstream) -> int:
        """Tokens of a conversation as the upstream renders it. Raises ApiError 400 where it has no chat template."""
        try:
            counted = await self._count_by_engine(dialect, payload, upstream)
            return await self._count_templated(dialect.as_chat(payload), upstream) if counted is None else counted
        except ApiError as error:
            if NO_TEMPLATE not in error.message:
                raise
            message = f"The model {self._model} has no chat template and answers no chat; use /v1/completions."
            raise invalid(message, dialect.param, Code.NO_CHAT_TEMPLATE) from None

    async def _count_by_engine(
        self, dialect: Conversation, payload: Mapping[str, Any], upstream: Upstream
    ) -> int | None:
        """By vLLM's own way of such a body up to its tokens; None where it is closed, or the conversation too long.

        It knows what /tokenize does not: tool parsers, tool_choice, response formats, models with a renderer of their
        own. A render path is open in a server that was started with --enable-scale-out.
        """
        closed = self._closed.setdefault(upstream, set())
        if dialect.count_path in closed:
            return None
        asked = to_json(dialect.count_body(payload, self._model), inf_nan_mode="constants")
        try:
            answer = await upstream.client.ask(dialect.count_path, asked)
        except ApiError as error:
            if error.code == Code.UPSTREAM_REFUSED or error.status == 404:
                closed.add(dialect.count_path)
            elif error.code != Code.CONTEXT_LENGTH_EXCEEDED:
                raise
            return None
        tokens = dialect.count_in(answer)
        if tokens is None:
            raise ApiError(502, f"The upstream's {dialect.count_path} gave no tokens.", code=Code.UPSTREAM_MALFORMED)
        return tokens

    async def _count_templated(self, chat: Mapping[str, Any], upstream: Upstream) -> int:
        """By vLLM's /tokenize, which applies the chat template to messages and tools of any length."""
        fields = {field: chat[field] for field in CHAT_FIELDS if chat.get(field) is not None}
        return len(await self._ask(upstream, chat_template_kwargs=_template_kwargs(chat), **fields))

    async def affixes(self, upstream: Upstream) -> Affixes:
        """The special tokens around every text; asked for once."""
        if self._affixes is None:
            probe = [await self.encode([PROBE], upstream, add_special_tokens=special) for special in (True, False)]
            self._affixes = affixes_of(*(ids[0] for ids in probe))
        return self._affixes

    async def whole_characters(
        self, ids: Sequence[int], ranges: Sequence[tuple[int, int]], upstream: Upstream
    ) -> tuple[tuple[int, int], ...]:
        """Ranges of a prompt's tokens, made shorter where one begins or ends within a character.

        A character outside of a vocabulary is several tokens, one for each of its bytes: half of it would be text
        that nobody sent.
        """
        kept = []
        for start, end in ranges:
            first = await self._character(ids, start, 1, upstream) if start > 0 else start
            last = await self._character(ids, end, -1, upstream) if end < len(ids) else end
            kept.append((first, last))
        return tuple(one for one in kept if one[0] < one[1])

    async def _character(self, ids: Sequence[int], at: int, step: int, upstream: Upstream) -> int:
        """The nearest position from `at` on at which a character begins; `at` itself where there is none near."""
        for found in range(at, at + step * CHARACTER_TOKENS, step):
            if not (await self.decode(ids[found : found + CHARACTER_TOKENS], upstream)).startswith(BROKEN):
                return found
        return at  # the text itself holds BROKEN

    async def decode(self, ids: Sequence[int], upstream: Upstream) -> str:
        """The text of token ids, special tokens included."""
        if self._tokenizer is not None:
            return self._tokenizer.decode(ids)
        asked = to_json({"model": self._model, "tokens": list(ids)})
        text = (await upstream.client.ask("/detokenize", asked)).get("prompt")
        if not isinstance(text, str):
            raise ApiError(502, "The upstream's /detokenize gave no text.", code=Code.UPSTREAM_MALFORMED)
        return text

    @property
    def local(self) -> bool:
        """Whether prompts are counted by the local tokenizer."""
        return self._tokenizer is not None

    async def check(self, upstream: Upstream) -> None:
        """Sets the local tokenizer aside where the upstream's gives other tokens for a text of the battery.

        Raises:
            ApiError: the upstream does not answer.
        """
        self._closed.pop(upstream, None)
        for special in (True, False):
            for text in self._tokenizer.battery if self._tokenizer is not None else ():
                try:
                    theirs = (await self._ask(upstream, prompt=text, add_special_tokens=special)).ids
                except ApiError as error:
                    if error.code in NO_ANSWER:
                        raise
                    self._set_aside(f"the upstream refuses a text: {error.message}", text=text[:LONGEST_SHOWN])
                    return
                tokenizer = self._tokenizer  # a request that ended meanwhile may have set it aside
                if tokenizer is None:
                    return
                if (ours := tokenizer.encode(text, add_special_tokens=special)) != theirs:
                    where = first_difference(tokenizer, ours, theirs) or text[:LONGEST_SHOWN]
                    self._set_aside("the upstream's tokenizer gives other tokens", text=where, special_tokens=special)
                    return

    def compare(self, counted: int, reported: int, *, local: bool) -> bool:
        """Whether a prompt had as many tokens as were counted; if not, counts no more with what counted it.

        Args:
            counted: tokens of a request's prompts.
            reported: what the upstream's answer says of them.
            local: whether the local tokenizer counted them. An upstream's own count is only reported.
        """
        if counted == reported:
            return True
        if local and self._tokenizer is not None:
            self._set_aside("an answer's usage differs from the count", counted=counted, reported=reported)
        else:
            fields = {"model": self._model, "counted": counted, "reported": reported}
            event(logger, logging.WARNING, "prompt tokens differ from the count", **fields)
        return False

    def _set_aside(self, reason: str, **fields: Any) -> None:
        """From now on the upstreams count. `fields` hold no text of a request."""
        path = None if self._tokenizer is None else str(self._tokenizer.path)
        self._tokenizer = None
        self._affixes = None
        message = "tokenizer differs; counting upstream"
        event(logger, logging.WARNING, message, model=self._model, tokenizer=path, reason=reason, **fields)

    async def _ask(self, upstream: Upstream, **request: Any) -> UpstreamTokens:
        return UpstreamTokens(await upstream.client.ask_bytes("/tokenize", to_json({"model": self._model, **request})))


def first_difference(tokenizer: LocalTokenizer, ours: Sequence[int], theirs: Sequence[int]) -> str:
    """The text from shortly before the first token that differs, by the local tokenizer."""
    same = next((at for at, pair in enumerate(zip(ours, theirs, strict=False)) if pair[0] != pair[1]), len(theirs))
    return tokenizer.decode(ours[max(0, same - 5) : same + SHOWN])


def _template_kwargs(payload: Mapping[str, Any]) -> dict[str, Any]:
    """The chat template's arguments, to which vLLM adds some fields of the request."""
    given = payload.get("chat_template_kwargs")
    arguments: dict[str, Any] = dict(given) if isinstance(given, dict) else {}
    effort = payload.get("reasoning_effort")
    if effort is not None:
        arguments.setdefault("enable_thinking", effort != "none")
        arguments["reasoning_effort"] = effort
    if payload.get("documents") is not None:
        arguments["documents"] = payload["documents"]
    return arguments
