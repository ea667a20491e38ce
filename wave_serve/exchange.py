"""What is known of one request while it is handled: shared by the endpoints, the relay and the access log."""

import re
import time
import uuid
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Any, cast

from starlette.requests import Request
from starlette.types import Scope

from wave_serve.errors import ApiError
from wave_serve.headers import Header
from wave_serve.keys.use import KeyUse

KEY = "wave_serve.exchange"
PASSED_ON = ("traceparent", "tracestate", "x-session-id", "x-vllm-priority")
"""Headers of a request that an upstream gets too; docs/clients.md says of the others that vLLM reads why not."""
ASKED = ("temperature", "top_p", "top_k", "frequency_penalty", "presence_penalty", "seed", "n")
FINISH_REASONS = ("stop", "length", "tool_calls", "function_call", "content_filter", "abort", "error")
ACCEPTED_ID = re.compile(r"[\x21-\x7e]{1,128}")


@dataclass(frozen=True)
class PromptRecord:
    """What was found out and decided about a request's prompts.

    Attributes:
        tokens: of the longest prompt, as it is sent or as it was refused; None where nothing was counted.
        extrapolation: `tokens` as a multiple of the model's training length.
        completion_limit: longest completion granted, in tokens.
        truncated_from: tokens of the longest prompt before it was truncated; None where it was not.
        usage_extension: members that join the `usage` of the answer.
        headers: go onto the answer.
    """

    tokens: int | None = None
    extrapolation: float | None = None
    completion_limit: int | None = None
    truncated_from: int | None = None
    usage_extension: dict[str, Any] | None = None
    headers: dict[str, str] = field(default_factory=dict)


@dataclass(frozen=True)
class AnswerRecord:
    """What an upstream said of its answer, beside the answer itself.

    Attributes:
        input_tokens: of the prompt, as it counted them.
        output_tokens: that it generated.
        cached_tokens: of the prompt that its cache held.
        finish_reasons: why it stopped, of each completion that has ended; only those that are known.
    """

    input_tokens: int | None = None
    output_tokens: int | None = None
    cached_tokens: int | None = None
    finish_reasons: tuple[str, ...] = ()

    def with_part(self, part: Any) -> "AnswerRecord":
        """With what a whole answer, or an event of its stream, tells."""
        if not isinstance(part, dict):
            return self
        ended = [choice.get("finish_reason") for choice in _objects(part.get("choices"))]
        reasons = self.finish_reasons + tuple(reason for reason in ended if reason in FINISH_REASONS)
        usage = part.get("usage")
        if not isinstance(usage, dict):
            return self if reasons == self.finish_reasons else replace(self, finish_reasons=reasons)
        details = usage.get("prompt_tokens_details")
        return AnswerRecord(
            _whole(usage.get("prompt_tokens")),
            _whole(usage.get("completion_tokens")),
            _whole(details.get("cached_tokens")) if isinstance(details, dict) else None,
            reasons,
        )


def _objects(value: Any) -> list[dict[str, Any]]:
    return [each for each in value if isinstance(each, dict)] if isinstance(value, list) else []


def _whole(value: Any) -> int | None:
    return value if isinstance(value, int) else None


@dataclass
class Exchange:
    """One request and what becomes of it. Its methods write it; everyone may read it.

    Moments are seconds since the request arrived; None where they have not come.

    Attributes:
        request_id: the client's own x-request-id or, without one, its body's request_id; else a new one.
        id_is_new: whether it is a new one.
        started: when the request arrived, by `time.monotonic`.
        headers: go onto the answer, whatever that is.
        forward: headers of the request to an upstream.
        key_use: use of the API key that the request came with, if any.
        model: name of the model that it is for.
        stream: whether it asked for server-sent events.
        asked: the numbers by which it wants its answer sampled, under the names of its body's fields.
        prompt: what was found out about its prompts.
        answer: what an upstream said of the answer.
        upstream: URL of the upstream that it was last sent to.
        retries: how often it was sent to another upstream.
        read_s: moment at which its body was complete.
        queue_s: seconds that it waited for admission; a duration.
        sent_s: moment at which it was first sent to an upstream.
        first_byte_s: moment of the upstream's first byte.
        first_token_s: moment of a stream's first event.
        error: code of the error that it was answered with.
        aborted: whether its client left before it was answered.
    """

    request_id: str
    id_is_new: bool = False
    started: float = field(default_factory=time.monotonic)
    headers: dict[str, str] = field(default_factory=dict)
    forward: dict[str, str] = field(default_factory=dict)
    key_use: KeyUse | None = None
    model: str | None = None
    stream: bool = False
    asked: dict[str, float] = field(default_factory=dict)
    prompt: PromptRecord = PromptRecord()
    answer: AnswerRecord = AnswerRecord()
    upstream: str | None = None
    retries: int = 0
    read_s: float = 0.0
    queue_s: float = 0.0
    sent_s: float | None = None
    first_byte_s: float | None = None
    first_token_s: float | None = None
    error: str | None = None
    aborted: bool = False

    @property
    def key_name(self) -> str | None:
        """The name of the request's key; None without one."""
        return None if self.key_use is None else self.key_use.key.name

    @property
    def key_limit(self) -> int | None:
        """The key's own cap on prompt + completion, in tokens; None where it has none."""
        return None if self.key_use is None else self.key_use.key.max_context

    def elapsed(self) -> float:
        """Seconds since the request came."""
        return time.monotonic() - self.started

    def overhead(self) -> float | None:
        """Seconds that the gateway itself took before it asked an upstream; None where it asked none."""
        return None if self.sent_s is None else self.sent_s - self.read_s - self.queue_s

    def take_key(self, use: KeyUse) -> None:
        """The request came with a key, whose rates its answer tells, whatever that is."""
        self.key_use = use
        self.headers |= use.headers()

    async def count(self) -> None:
        """Counts the request against its key, if it has one. Raises ApiError 429 or 503."""
        if self.key_use is not None:
            try:
                await self.key_use.begin()
            finally:
                self.headers |= self.key_use.headers()

    def check_model(self, model: str) -> None:
        """Raises ApiError 403 where the request's key may not use the model."""
        if self.key_use is not None:
            self.key_use.check_model(model)

    async def spend(self, tokens: int) -> None:
        """Holds a generation's tokens against its key's rate. Raises ApiError 429 or 503."""
        if self.key_use is None:
            return
        try:
            await self.key_use.spend(tokens)
        finally:
            self.headers |= self.key_use.headers()

    async def may_count(self) -> None:
        """Before prompts are counted without a generation. Raises ApiError 429 (no tokens are left) or 503."""
        if self.key_use is not None:
            await self.key_use.check()

    async def charge(self, tokens: int) -> None:
        """Takes from its key's rate the tokens that were counted without a generation."""
        if self.key_use is not None:
            await self.key_use.charge(tokens)
            self.headers |= self.key_use.headers()

    def take_id(self, request_id: object) -> None:
        """The body's request_id, which counts where no usable header came; vLLM would take our header first."""
        if self.id_is_new and isinstance(request_id, str) and ACCEPTED_ID.fullmatch(request_id):
            self.request_id = self.headers[Header.REQUEST_ID] = self.forward[Header.REQUEST_ID] = request_id
            self.id_is_new = False

    def body_read(self) -> None:
        """The whole body is here."""
        self.read_s = self.elapsed()

    def is_for(self, model: str) -> None:
        """The request is for that model."""
        self.model = model

    def is_held_against(self, headers: Mapping[str, str]) -> None:
        """The limits that apply to it are known, as headers of the answer."""
        self.headers |= headers

    def asks_for_stream(self, stream: bool) -> None:
        """Whether the answer is to be streamed."""
        self.stream = stream

    def asks_for(self, payload: Mapping[str, Any]) -> None:
        """Notes of a request's fields those that are numbers and say how to sample; nothing of its text."""
        self.asked = {name: value for name in ASKED if isinstance(value := payload.get(name), int | float)}

    def record(self, prompt: PromptRecord) -> None:
        """Takes what was found out about the prompts."""
        self.prompt = prompt
        self.headers |= prompt.headers

    def sent_to(self, upstream: str, waited: float) -> None:
        """It is sent to an upstream, after `waited` seconds in the queue; of several the first moment counts."""
        self.upstream = upstream
        if self.sent_s is None:
            self.queue_s = waited
            self.sent_s = self.elapsed()

    def retried(self) -> None:
        """It will be sent to another upstream."""
        self.retries += 1

    def first_byte(self) -> None:
        """Something of the answer has come."""
        if self.first_byte_s is None:
            self.first_byte_s = self.elapsed()

    def first_token(self) -> None:
        """An event of the answer has come."""
        if self.first_token_s is None:
            self.first_token_s = self.elapsed()

    def answer_part(self, part: Any) -> None:
        """A whole answer, or an event of its stream, has come as JSON."""
        self.answer = self.answer.with_part(part)

    def failed(self, error: ApiError) -> None:
        """It is answered with an error."""
        self.error = error.code or error.type

    def client_left(self) -> None:
        """Nobody is left to answer."""
        self.aborted = True

    def end(self) -> None:
        """Ends the request's use of its key; called once, when all is over."""
        if self.key_use is not None:
            self.key_use.end(worked_on=self.sent_s is not None)


def begin(scope: Scope, headers: Mapping[str, str]) -> Exchange:
    """A new exchange for the request in `scope`; a usable x-request-id is kept."""
    given = headers.get("x-request-id", "")
    usable = ACCEPTED_ID.fullmatch(given) is not None
    request_id = given if usable else uuid.uuid4().hex
    passed = {name: value for name in PASSED_ON if (value := headers.get(name))}
    named: dict[str, str] = {Header.REQUEST_ID: request_id}
    exchange = Exchange(request_id, headers=dict(named), forward=passed | named, id_is_new=not usable)
    scope[KEY] = exchange
    return exchange


def exchange_of(request: Request) -> Exchange:
    """The exchange of a request that has passed the access log."""
    return cast("Exchange", request.scope[KEY])
