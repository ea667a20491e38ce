"""Logs as JSON lines on standard error; nothing of a prompt or a completion is ever logged."""

import json
import logging
import sys
import time
import traceback
from typing import Any

ENCODER = json.JSONEncoder(ensure_ascii=False, default=str)


class JsonLines(logging.Formatter):
    """One JSON object a line: time, level, logger, event and its fields."""

    def format(self, record: logging.LogRecord) -> str:
        """The record as one line of JSON."""
        moment = time.strftime("%Y-%m-%dT%H:%M:%S", time.gmtime(record.created))
        line: dict[str, Any] = {
            "time": f"{moment}.{int(record.msecs):03d}Z",
            "level": record.levelname.lower(),
            "logger": record.name,
            "event": record.getMessage(),
            **getattr(record, "fields", {}),
        }
        if record.exc_info and record.exc_info[1] is not None:
            line["exception"] = _without_values(record.exc_info[1])
        return ENCODER.encode(line)


def _without_values(error: BaseException) -> list[str]:
    """The exception's types and places, from the cause on; its message could quote a prompt or a key."""
    before = error.__cause__ or (None if error.__suppress_context__ else error.__context__)
    frames = traceback.extract_tb(error.__traceback__)
    places = [f"{frame.filename}:{frame.lineno} in {frame.name}" for frame in frames]
    return [*(_without_values(before) if before else []), *places, type(error).__qualname__]


def event(logger: logging.Logger, level: int, name: str, **fields: Any) -> None:
    """Logs one event with its fields; fields that are None are left out."""
    logger.log(level, name, extra={"fields": {key: value for key, value in fields.items() if value is not None}})


def configure_logging() -> None:
    """Sends our log and the warnings of uvicorn and OpenTelemetry to standard error as JSON lines."""
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(JsonLines())
    for name, level in (("wave_serve", logging.INFO), ("uvicorn", logging.WARNING), ("opentelemetry", logging.WARNING)):
        logger = logging.getLogger(name)
        logger.handlers = [handler]
        logger.setLevel(level)
        logger.propagate = False
