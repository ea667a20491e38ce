"""A scriptable OpenAI-compatible endpoint on a real socket, whose tokens are bytes and whose losses are a formula."""

from __future__ import annotations

import json
import re
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable

Answer = tuple[int, object]


def loss(ids: list[int], position: int) -> float:
    """Nats of the token at `position`: of it, the one before it and how far into the prompt it is."""
    return 1 + (ids[position - 1] * 7 + ids[position]) % 13 / 10 + position / 1000


class Server(ThreadingHTTPServer):
    """A thread for each connection, however many come at once."""

    daemon_threads = True
    request_queue_size = 200


class FakeEndpoint:
    """Answers as vLLM does. `fault` may answer a request instead: (path, body) -> (status, JSON) or None."""

    def __init__(self, model: str = "fake", **card: object) -> None:
        self.model = model
        self.card = {"id": model, "max_model_len": 1000, "train_length": 64} | card
        self.completions: list[dict] = []
        self.fault: Callable[[str, dict], Answer | None] = lambda _path, _body: None
        self.retrieves_within = 10**9  # tokens before the end of the prompt
        self.shift = 0.0  # nats added to every loss: another model
        self.echo_only = False

    def __enter__(self) -> FakeEndpoint:
        endpoint = self

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"
            wbufsize = -1  # an answer in one packet: the client's acknowledgement of a first one would be delayed

            def do_GET(self) -> None:
                self.reply(endpoint.answer(self.path, {}))

            def do_POST(self) -> None:
                body = json.loads(self.rfile.read(int(self.headers["content-length"])))
                self.reply(endpoint.answer(self.path, body))

            def reply(self, answer: Answer) -> None:
                data = json.dumps(answer[1]).encode()
                self.send_response(answer[0])
                self.send_header("content-type", "application/json")
                self.send_header("retry-after", "0")
                if 300 <= answer[0] < 400:
                    self.send_header("location", f"https://moved{self.path}")
                self.send_header("content-length", str(len(data)))
                self.end_headers()
                self.wfile.write(data)

            def log_message(self, *_: object) -> None:
                pass

        self._server = Server(("127.0.0.1", 0), Handler)
        threading.Thread(target=self._server.serve_forever, args=(0.01,), daemon=True).start()
        return self

    def __exit__(self, *_: object) -> None:
        self._server.shutdown()
        self._server.server_close()

    @property
    def url(self) -> str:
        """Root of the endpoint."""
        return f"http://127.0.0.1:{self._server.server_port}"

    def prompts(self) -> list[list[int]]:
        """Prompts of the completions asked so far, without the probe that every run starts with."""
        return [body["prompt"] for body in self.completions if not bytes(body["prompt"]).startswith(b"def area")]

    def answer(self, path: str, body: dict) -> Answer:
        """Status and JSON of one request."""
        if path == "/v1/completions":
            self.completions.append(body)
        faulty = self.fault(path, body)
        if faulty is not None:
            return faulty
        match path:
            case "/v1/models":
                return 200, {"object": "list", "data": [self.card]}
            case "/tokenize":
                return 200, {"tokens": list(body["prompt"].encode())}
            case "/detokenize":
                return 200, {"prompt": bytes(body["tokens"]).decode("utf-8", "replace")}
            case "/v1/completions":
                return 200, {"choices": [self.choice(body)]}
        return 404, {"error": {"message": f"Invalid URL ({path})"}}

    def choice(self, body: dict) -> dict:
        """A completion: the pass key if it is near enough to the end of the prompt."""
        ids = body["prompt"]
        near = bytes(ids[-self.retrieves_within :]).decode("utf-8", "replace")
        found = re.search(r"pass key is ([\d ]+)\. R", near)
        choice: dict = {"index": 0, "text": f" {found[1]}" if found else " a river", "logprobs": None}
        nats = [loss(ids, position) + self.shift for position in range(1, len(ids))]
        if body.get("prompt_logprobs") == 0 and not self.echo_only:
            rows = [{str(token): {"logprob": -value}} for token, value in zip(ids[1:], nats, strict=True)]
            choice["prompt_logprobs"] = [None, *rows]
        if body.get("echo"):
            choice["logprobs"] = {"token_logprobs": [None, *(-value for value in nats), -0.5]}
        return choice
