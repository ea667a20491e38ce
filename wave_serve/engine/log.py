"""Keeps the end of an engine's log, and finds in it the one line that says why the engine ended."""

import itertools
import re
from collections import deque

PREFIX = re.compile(r"^\(\w+ pid=\d+\) (?:(?:INFO|WARNING|ERROR) \d\d-\d\d \d\d:\d\d:\d\d \[[^\]]*\] ?)?")
EXCEPTION = re.compile(r"^(?:\w+\.)*[A-Z]\w*(?:Error|Exception)\b: ?(.*)$")
USAGE_ERROR = re.compile(r"^\S+: error: (.+)$")
# One failed check of a pydantic model, of which only our or vLLM's own sentence is news to the user.
VALIDATION = re.compile(
    r"^[\w.]*ValidationError: 1 validation error for \w+ Value error, (.+?) \[type=value_error\b.*$"
)
POINTERS = ("Engine core initialization failed", "cancelled", "EngineCore encountered an issue")


class EngineLog:
    """The last `size` lines of an engine's output, without vLLM's prefixes."""

    def __init__(self, size: int = 400) -> None:
        self._lines: deque[str] = deque(maxlen=size)
        self._rest = ""

    def feed(self, data: bytes) -> None:
        """Takes output as it comes."""
        *lines, self._rest = (self._rest + data.decode("utf-8", "replace")).split("\n")
        self._lines.extend(PREFIX.sub("", line.rstrip()) for line in lines)

    def clear(self) -> None:
        """Forgets everything, before another start."""
        self._lines.clear()
        self._rest = ""

    def tail(self, lines: int) -> list[str]:
        """The last lines that are not blank."""
        return [line for line in self._lines if line][-lines:]

    def cause(self) -> str | None:
        """The message of the last exception that is not merely a pointer to another one; None where there is none."""
        lines = list(self._lines)
        for index in range(len(lines) - 1, -1, -1):
            line = lines[index]
            usage = USAGE_ERROR.match(line)
            if usage:
                return usage[1]
            if not EXCEPTION.match(line) or any(pointer in line for pointer in POINTERS):
                continue
            return VALIDATION.sub(r"\1", " ".join([line, *_continuation(line, lines[index + 1 :])]))
        return None


def _continuation(line: str, after: list[str]) -> list[str]:
    """The lines after an exception's first that belong to its message, where that one only announces them."""
    if "validation error" not in line and not line.endswith(":"):
        return []
    return list(itertools.takewhile(bool, (more.strip() for more in after[:4])))
