"""The cause of an engine's end is found in its log."""

import pytest

from wave_serve.engine.log import EngineLog

PREFIX = "(EngineCore pid=41) ERROR 11-21 09:00:00 [core.py:1010] "


@pytest.mark.parametrize(
    ("log", "cause"),
    [
        ("INFO fine\n", None),
        ("Traceback (most recent call last):\nValueError: no\n", "ValueError: no"),
        (f"{PREFIX}KeyError: 'weight'\n{PREFIX}\n", "KeyError: 'weight'"),
        (
            f"{PREFIX}OSError: no file\n(APIServer pid=7) RuntimeError: Engine core initialization failed. See it.\n",
            "OSError: no file",
        ),
        ("vllm: error: unrecognized arguments: --foo\n", "unrecognized arguments: --foo"),
        (
            "pydantic.ValidationError: 1 validation error for ModelConfig\n  Value error, bad type [x]\n\nmore\n",
            "pydantic.ValidationError: 1 validation error for ModelConfig Value error, bad type [x]",
        ),
        (
            "pydantic.ValidationError: 1 validation error for A\n  Value error, d=3: odd [type=value_error, x=1]\n\n",
            "d=3: odd",
        ),
        ("ValueError: not one of:\n(1) a\n(2) b\n\n", "ValueError: not one of: (1) a (2) b"),
        ("torch.OutOfMemoryError: full\nException ignored in: <x>\n", "torch.OutOfMemoryError: full"),
    ],
)
def test_the_cause_is_the_last_real_exception(log: str, cause: str | None) -> None:
    found = EngineLog()
    for start in range(0, len(log), 5):
        found.feed(log.encode()[start : start + 5])
    assert found.cause() == cause


def test_only_the_end_of_the_log_is_kept() -> None:
    log = EngineLog(size=3)
    log.feed(b"one\ntwo\n\nthree\nfour")
    assert log.tail(5) == ["two", "three"]
