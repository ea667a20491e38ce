"""What was measured so far: an append-only file of JSON lines, so that no crash loses a finished answer."""

import contextlib
import hashlib
import json
from array import array
from collections.abc import Mapping
from pathlib import Path
from types import TracebackType
from typing import Any, Self

from wave_serve.eval.errors import OutputError


def key_of(endpoint: str, model: str, *parts: object) -> str:
    """Digest that names a measurement: the endpoint's name, the model's, and what was asked."""
    return hashlib.sha256(json.dumps([endpoint, model, *parts]).encode()).hexdigest()


class Journal:
    """Finished measurements by key; the losses of a record are kept as an array, 8 bytes a token.

    Raises:
        OutputError: the file holds an earlier run and `resume` is not set, or it cannot be read or written.
    """

    def __init__(self, path: Path, *, resume: bool) -> None:
        self.path = path
        self._records: dict[str, Mapping[str, Any]] = {}
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            if not resume and path.exists() and path.stat().st_size:
                raise OutputError(f"{path} holds an earlier run; give --resume to go on, or another --out")
            self._file = path.open("ab+")
        except OSError as error:
            raise OutputError(f"cannot write {path}: {error.strerror or error}") from None
        try:
            self._load()
        except OutputError:
            self._file.close()
            raise

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        with contextlib.suppress(OSError):  # of what `add` could not write, closing tries to write the rest
            self._file.close()

    def get(self, key: str) -> Mapping[str, Any] | None:
        """The record of that key, if it was measured."""
        return self._records.get(key)

    def add(self, key: str, record: Mapping[str, Any]) -> None:
        """Writes a record, at once. Raises OutputError where it cannot be written; then it is not kept either."""
        try:
            self._file.write(json.dumps({"key": key, **record}).encode() + b"\n")
            self._file.flush()
        except OSError as error:
            raise OutputError(f"cannot write {self.path}: {error.strerror or error}") from None
        self._keep(key, record)

    def _load(self) -> None:
        self._file.seek(0)
        whole = 0
        for number, line in enumerate(self._file, start=1):
            if not line.endswith(b"\n"):
                break  # the writer was ended in the middle of it
            try:
                record = json.loads(line)
                self._keep(record.pop("key"), record)
            except (ValueError, KeyError, TypeError, AttributeError):
                raise OutputError(f"{self.path}: line {number} is not a record of this command") from None
            whole += len(line)
        self._file.truncate(whole)

    def _keep(self, key: str, record: Mapping[str, Any]) -> None:
        self._records[key] = {**record, "nats": array("d", record["nats"])} if "nats" in record else record
