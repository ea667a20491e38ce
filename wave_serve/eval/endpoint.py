"""Speaks to one OpenAI-compatible endpoint that also tokenises, as vLLM and the gateway do."""

import asyncio
import json
from http import HTTPStatus
from typing import Any

import httpx

from wave_serve.eval.errors import EndpointError
from wave_serve.eval.settings import Address
from wave_serve.settings import redacted

CONNECT_SECONDS = 10.0
RETRIES = 5
RETRY_SECONDS = 5.0  # where the endpoint does not say
LONGEST_RETRY_SECONDS = 60.0
BUSY = (HTTPStatus.TOO_MANY_REQUESTS, HTTPStatus.SERVICE_UNAVAILABLE)


def read_address(text: str) -> tuple[str, str]:
    """Name and URL of `URL` or `NAME=URL`; the name is the host by default."""
    name, separator, url = text.partition("=")
    if not separator or "://" in name:
        name, url = "", text
    url = url.strip().rstrip("/")
    if "://" in url:  # without a scheme it is refused, and then shown as it was written
        url = url.removesuffix("/v1")
    return name.strip() or url.partition("://")[2] or url, url


class Endpoint:
    """One model behind one endpoint; lengths in tokens. `open` comes first."""

    def __init__(self, address: Address, client: httpx.AsyncClient) -> None:
        self.name = address.name
        self.base_url = address.base_url
        self.model = ""
        self.train_length: int | None = None
        self.limit: int | None = None
        self._client = client

    async def open(self, model: str | None) -> None:
        """Finds the model and its limits. Raises EndpointError where it is not served, or not told among several."""
        answer = await self._request("GET", "/v1/models", None)
        try:
            cards = {str(card["id"]): card for card in answer["data"]}
        except (KeyError, TypeError):
            raise EndpointError(self.name, "its /v1/models does not list models") from None
        served = ", ".join(cards) or "none"
        if model is None and len(cards) != 1:
            raise EndpointError(self.name, f"give --model; served are: {served}")
        self.model = next(iter(cards)) if model is None else model
        if self.model not in cards:
            raise EndpointError(self.name, f"does not serve the model {self.model!r}; served are: {served}")
        card = cards[self.model]
        self.train_length = _positive(card.get("train_length"))
        self.limit = _positive(card.get("max_model_len"))

    async def tokenize(self, text: str) -> list[int]:
        """Token ids of `text`, without special tokens around it."""
        body = {"model": self.model, "prompt": text, "add_special_tokens": False}
        tokens = (await self._request("POST", "/tokenize", body)).get("tokens")
        # Servers that expect the text in another field, such as llama.cpp's, answer with no token at all.
        nothing = bool(text.strip()) and not tokens
        if nothing or not isinstance(tokens, list) or not all(type(token) is int for token in tokens):
            raise EndpointError(self.name, "its /tokenize gives no token ids")
        return tokens

    def description(self) -> dict[str, Any]:
        """What the results say of it."""
        return {
            "name": self.name,
            "base_url": self.base_url,
            "model": self.model,
            "train_length": self.train_length,
            "max_model_len": self.limit,
        }

    async def detokenize(self, ids: list[int]) -> str:
        """The text of token ids."""
        text = (await self._request("POST", "/detokenize", {"model": self.model, "tokens": ids})).get("prompt")
        if not isinstance(text, str) or (ids and not text):
            raise EndpointError(self.name, "its /detokenize gives no text")
        return text

    async def complete(self, ids: list[int], **fields: Any) -> dict[str, Any]:
        """The one choice of a greedy completion of the token ids `ids`."""
        body = {"model": self.model, "prompt": ids, "temperature": 0, **fields}
        answer = await self._request("POST", "/v1/completions", body)
        try:
            [choice] = answer["choices"]
        except (KeyError, TypeError, ValueError):
            choice = None
        if not isinstance(choice, dict):
            raise EndpointError(self.name, "its /v1/completions does not give one choice")
        return choice

    async def _request(self, method: str, path: str, body: dict[str, Any] | None) -> dict[str, Any]:
        for attempt in range(RETRIES + 1):
            try:
                answer = await self._client.request(method, self.base_url + path, json=body)
            except httpx.TimeoutException as error:
                raise EndpointError(self.name, f"no answer to {path} in time ({type(error).__name__})") from None
            except httpx.HTTPError as error:
                reason = str(error) or type(error).__name__
                raise EndpointError(self.name, f"cannot reach {self.base_url}{path}: {reason}") from None
            if answer.status_code not in BUSY or attempt == RETRIES:
                break
            await asyncio.sleep(_retry_after(answer))
        if answer.status_code >= HTTPStatus.MULTIPLE_CHOICES:  # a redirection, too: no key is sent where it leads
            raise EndpointError(
                self.name, f"{path} answered {answer.status_code}: {_reason(answer)}", answer.status_code
            )
        try:
            value = answer.json()
        except ValueError:
            value = None
        if not isinstance(value, dict):
            raise EndpointError(self.name, f"the answer to {path} is not a JSON object")
        return value


def _positive(value: object) -> int | None:
    return value if isinstance(value, int) and value > 0 else None


def _retry_after(answer: httpx.Response) -> float:
    told = answer.headers.get("retry-after", "")
    return min(float(told) if told.isdecimal() else RETRY_SECONDS, LONGEST_RETRY_SECONDS)


def _reason(answer: httpx.Response) -> str:
    """The endpoint's own words, on one line, or where it has moved to."""
    if answer.has_redirect_location:
        return f"it has moved to {redacted(answer.headers['location'])}"
    try:
        value = json.loads(answer.content)
        error = value.get("error", value)
        text = str(error["message"] if isinstance(error, dict) else error)
    except (ValueError, KeyError, AttributeError):
        text = answer.text[:500]
    return " ".join(text.split()) or answer.reason_phrase
