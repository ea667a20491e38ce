"""Holds answers against an OpenAPI document: status, headers, media type and every member of the body."""

import json
from collections.abc import Iterator
from dataclasses import dataclass, field

import httpx
from jsonschema import Draft202012Validator

PLAIN = {"content-type", "content-length", "transfer-encoding", "connection", "date", "cache-control"}  # HTTP's own
NUMBERS = {"integer": int, "number": float, "string": str}


@dataclass
class Described:
    """A document, the answers that were held against it, and what of the document they showed."""

    document: dict
    complaints: list[str] = field(default_factory=list)
    statuses: set[tuple[str, int]] = field(default_factory=set)
    codes: set[tuple[int, str | None]] = field(default_factory=set)
    headers: set[str] = field(default_factory=set)
    members: set[tuple[str, str]] = field(default_factory=set)

    def take(self, path: str, answer: httpx.Response) -> None:
        """Notes what the answer of the endpoint at `path` has that is not described, and what it shows."""
        method, status = answer.request.method.lower(), str(answer.status_code)
        self.statuses.add((path, answer.status_code))
        response = self.document["paths"][path][method]["responses"].get(status)
        if response is None:
            self._complain(path, answer, "is not described")
            return
        self._take_headers(path, answer, response["headers"])
        media_type = answer.headers["content-type"].partition(";")[0]
        if media_type not in response["content"]:
            self._complain(path, answer, f"is {media_type}")
            return
        content = response["content"][media_type]
        if answer.status_code >= 400:
            self.codes.add((answer.status_code, answer.json()["error"]["code"]))
        if media_type == "application/json":
            self._take_json(path, answer, content["schema"], answer.json())
        for event in events(answer) if media_type == "text/event-stream" else ():
            self._take_json(path, answer, content["x-item-schema"], event)

    def _take_headers(self, path: str, answer: httpx.Response, described: dict) -> None:
        for name in set(answer.headers) - PLAIN:
            if name not in described:
                self._complain(path, answer, f"has the header {name}")
                continue
            NUMBERS[self.document["components"]["headers"][name]["schema"]["type"]](answer.headers[name])
            self.headers.add(name)

    def _take_json(self, path: str, answer: httpx.Response, schema: dict, value: object) -> None:
        for error in Draft202012Validator(schema | {"components": self.document["components"]}).iter_errors(value):
            self._complain(path, answer, f"{error.json_path}: {error.message}")
        self._note(schema, value)

    def _note(self, schema: dict, value: object) -> None:
        """Which members of the named schemas `value` shows."""
        for name, inner in self._named(schema):
            if isinstance(value, dict):
                self.members |= {(name, member) for member in value}
                for member, described in inner.get("properties", {}).items():
                    if member in value:
                        self._note(described, value[member])
            for item in value if isinstance(value, list) else ():
                self._note(inner.get("items", {}), item)

    def _named(self, schema: dict, name: str = "") -> Iterator[tuple[str, dict]]:
        if "$ref" in schema:
            name = schema["$ref"].rsplit("/", 1)[1]
            yield from self._named(self.document["components"]["schemas"][name], name)
            return
        yield name, schema
        for each in (*schema.get("anyOf", ()), *schema.get("allOf", ())):
            yield from self._named(each)

    def _complain(self, path: str, answer: httpx.Response, what: str) -> None:
        self.complaints.append(f"{answer.request.method} {path}: {answer.status_code} {what}: {answer.text[:300]}")


def events(answer: httpx.Response) -> list[object]:
    """The JSON of each event of a stream."""
    lines = [line.removeprefix("data: ") for line in answer.text.splitlines() if line.startswith("data: ")]
    return [json.loads(line) for line in lines if line != "[DONE]"]
