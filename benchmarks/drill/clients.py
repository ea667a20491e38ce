"""Clients of the drill: a long mix of requests, and what became of each of them."""

import asyncio
import itertools
import json
import random
import time
from dataclasses import dataclass

import aiohttp

from benchmarks.drill.engine import MODEL
from benchmarks.drill.world import World

DEADLINE = 60.0  # seconds in which a request is answered or refused; above the gateways' own for a generation
DOCUMENTS, DOCUMENT_BYTES, SYSTEM_BYTES, QUESTION_BYTES = 40, 16_000, 2_000, 60
REAL_DOCUMENT_BYTES = 2_000  # of which an engine on a shared core reads some in a second
LEAVING, INVALID, TOO_LONG, STREAMING = 0.08, 0.04, 0.03, 0.7


@dataclass
class Outcome:
    """One request, by the client's clock (`time.time`).

    Attributes:
        name: its request id; begins with its key's name.
        gateway: number of the gateway that it was sent to.
        head: when its answer's head came; 0 without one.
        status: of the answer; 0 without one.
        what: answered, refused, failed (an error event ended it), left (the client did), cut, unanswered, late or
            malformed.
        code: of the error.
    """

    name: str
    gateway: int
    begun: float
    head: float = 0.0
    ended: float = 0.0
    status: int = 0
    what: str = "unanswered"
    code: str | None = None


class Clients:
    """Each asks for one thing after another, of any gateway, as behind a load balancer."""

    def __init__(self, world: World, seed: int) -> None:
        self.outcomes: list[Outcome] = []
        self._world = world
        self._draw = random.Random(seed)  # noqa: S311 - a reproducible mix
        self._system = self._draw.randbytes(SYSTEM_BYTES // 2).hex()
        longest = REAL_DOCUMENT_BYTES if world.real else DOCUMENT_BYTES
        self._documents = [
            self._draw.randbytes(int(longest * self._draw.uniform(0.25, 1)) // 2).hex() for _ in range(DOCUMENTS)
        ]
        self._numbers = itertools.count()
        self._seed = seed

    async def run(self, seconds: float, plain: int, exact: int = 0, slots: int = 0) -> None:
        """So many clients of each key, for a time; returns when the last of them has its answer."""
        end = time.time() + seconds
        connector = aiohttp.TCPConnector(force_close=True, limit=0)
        async with aiohttp.ClientSession(connector=connector) as session, asyncio.TaskGroup() as group:
            for key, count, apart in (("plain", plain, 0.0), ("exact", exact, 0.05), ("slots", slots, 0.0)):
                for _ in range(count):
                    group.create_task(self._client(session, key, end, apart))

    async def _client(self, session: aiohttp.ClientSession, key: str, end: float, apart: float) -> None:
        while time.time() < end:
            outcome = await self._ask(session, key)
            self.outcomes.append(outcome)
            refused = outcome.what in ("refused", "unanswered")
            await asyncio.sleep(max(apart, 0.1 if refused else 0.0))

    async def _ask(self, session: aiohttp.ClientSession, key: str) -> Outcome:
        gateway = self._draw.randrange(len(self._world.ports))
        outcome = Outcome(f"{key}-{self._seed}-{next(self._numbers)}", gateway, time.time())
        body, leave_after = self._body(key)
        headers = {"authorization": f"Bearer {self._world.keys[key]}", "x-request-id": outcome.name}
        url = f"http://127.0.0.1:{self._world.ports[gateway]}/v1/completions"
        try:
            async with (
                asyncio.timeout(leave_after or DEADLINE),
                session.post(url, json=body, headers=headers) as answer,
            ):
                outcome.head = time.time()
                outcome.status = answer.status
                outcome.what = "cut"
                self._judge(outcome, await answer.read())
        except TimeoutError:
            outcome.what = "late" if leave_after is None else "left"
        except aiohttp.ClientError:
            pass  # unanswered, or cut
        outcome.ended = time.time()
        return outcome

    def _body(self, key: str) -> tuple[dict[str, object], float | None]:
        if key != "plain":
            return {"model": MODEL, "prompt": "short", "max_tokens": 1 if key == "exact" else 20, "stream": True}, None
        draw = self._draw
        document = self._documents[min(int(draw.expovariate(4.0) * DOCUMENTS), DOCUMENTS - 1)]
        prompt = self._system + document + draw.randbytes(QUESTION_BYTES // 2).hex()
        kind = draw.random()
        body: dict[str, object] = {"model": MODEL, "prompt": prompt, "max_tokens": draw.randrange(1, 30)}
        body["stream"] = draw.random() < STREAMING
        if kind < LEAVING:
            return body, draw.uniform(0.01, 0.6)
        if kind < LEAVING + INVALID:
            return body | {"temperature": "hot"}, None
        if kind < LEAVING + INVALID + TOO_LONG:
            return body | {"max_tokens": 50_000}, None
        return body, None

    def _judge(self, outcome: Outcome, content: bytes) -> None:
        """What a complete HTTP answer means."""
        if outcome.status == 200 and (content.endswith(b"data: [DONE]\n\n") or content.startswith(b"{")):
            outcome.what = "answered"
            return
        last = content.rstrip().rpartition(b"data: ")[2]
        try:
            error = json.loads(last)["error"]
            outcome.code = error["code"] or error["type"]
            outcome.what = "failed" if outcome.status == 200 else "refused"
            if not (isinstance(error["message"], str) and isinstance(error["type"], str) and "param" in error):
                outcome.what = "malformed"
        except (ValueError, KeyError, TypeError):
            outcome.what = "malformed"
