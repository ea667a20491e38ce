"""vLLM's arguments behind `--`, as far as `serve` needs to know them: by their long names, with their values."""

import re
from collections.abc import Sequence
from enum import StrEnum


class Flag(StrEnum):
    """vLLM's options that decide how many processes there are, and which models they serve."""

    TENSOR = "--tensor-parallel-size"
    PIPELINE = "--pipeline-parallel-size"
    PREFILL_CONTEXT = "--prefill-context-parallel-size"
    DECODE_CONTEXT = "--decode-context-parallel-size"
    DATA = "--data-parallel-size"
    DATA_LOCAL = "--data-parallel-size-local"
    DATA_RANK = "--data-parallel-rank"
    DATA_START_RANK = "--data-parallel-start-rank"
    DATA_ADDRESS = "--data-parallel-address"
    DATA_PORT = "--data-parallel-rpc-port"
    DATA_BACKEND = "--data-parallel-backend"
    DATA_HYBRID = "--data-parallel-hybrid-lb"
    DATA_EXTERNAL = "--data-parallel-external-lb"
    DATA_SUPERVISED = "--data-parallel-multi-port-external-lb"
    NODES = "--nnodes"
    NODE_RANK = "--node-rank"
    HEADLESS = "--headless"
    API_SERVERS = "--api-server-count"
    EXECUTOR = "--distributed-executor-backend"
    EAGER = "--enforce-eager"
    COMPILATION = "--compilation-config"
    SPECULATIVE = "--speculative-config"
    LORA = "--enable-lora"
    LORA_MODULES = "--lora-modules"
    LORA_SLOTS = "--max-loras"
    CONFIG = "--config"


SHORT = {
    "-tp": Flag.TENSOR,
    "-pp": Flag.PIPELINE,
    "-pcp": Flag.PREFILL_CONTEXT,
    "-dcp": Flag.DECODE_CONTEXT,
    "-dp": Flag.DATA,
    "-dpl": Flag.DATA_LOCAL,
    "-dpn": Flag.DATA_RANK,
    "-dpr": Flag.DATA_START_RANK,
    "-dpa": Flag.DATA_ADDRESS,
    "-dpp": Flag.DATA_PORT,
    "-dpb": Flag.DATA_BACKEND,
    "-dph": Flag.DATA_HYBRID,
    "-dpe": Flag.DATA_EXTERNAL,
    "-dpm": Flag.DATA_SUPERVISED,
    "-n": Flag.NODES,
    "-r": Flag.NODE_RANK,
    "-asc": Flag.API_SERVERS,
    "-cc": Flag.COMPILATION,
    "-sc": Flag.SPECULATIVE,
}
NEGATIVE_NUMBER = re.compile(r"-\d")


class EngineArguments:
    """What was given for each option; of an option that is given twice the last counts, as it does for vLLM."""

    def __init__(self, given: Sequence[str]) -> None:
        self._values: dict[str, list[str]] = {}
        values: list[str] = []
        for argument in given:
            if not argument.startswith("-") or NEGATIVE_NUMBER.match(argument):
                values.append(argument)
                continue
            name, equals, value = argument.partition("=")
            values = [value] if equals else []
            self._values[_long(name)] = values

    def __contains__(self, flag: str) -> bool:
        """Whether the option was given."""
        return flag in self._values

    def all(self, flag: str) -> tuple[str, ...]:
        """The values of an option; none where it was not given."""
        return tuple(self._values.get(flag, ()))

    def word(self, flag: str) -> str | None:
        """The one value of an option; None where it was not given, or stands alone."""
        values = self.all(flag)
        return values[-1] if values else None

    def count(self, flag: str) -> int:
        """The value of an option that counts something; 1 where there is none, or none that vLLM would take."""
        word = self.word(flag) or ""
        return max(1, int(word)) if word.isdecimal() else 1


def _long(name: str) -> str:
    """An option's own name, of which vLLM takes short forms, underscores and beginnings that tell it from others."""
    if name in SHORT:
        return SHORT[name]
    name = name.replace("_", "-")
    begun = [flag for flag in Flag if flag.startswith(name)]
    return begun[0] if len(begun) == 1 and name.startswith("--") else name
