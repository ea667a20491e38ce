"""What counts for given tokenizers, how often it differs from `tokenizers`, and what it costs.

    python -m benchmarks.gateway.tokenizer_cost MODEL/tokenizer.json ...

Each file is loaded as a gateway would. Differences are counts of hostile texts (scripts, marks, white space, control
characters, special tokens), with and without special tokens, that are other than those of the `tokenizers` library. The
cost is CPU time per 1,000 tokens, the median of six stretches of Python code that were not counted before, on one core.
"""

import argparse
import asyncio
import json
import os
import statistics
import sys
import time
from collections.abc import Callable
from importlib.metadata import version
from pathlib import Path
from typing import Any

from tokenizers import Tokenizer

sys.path.append(str(Path(__file__).parents[2] / "tests"))
from helpers.hostile import hostile_texts

from benchmarks.servers import machine
from wave_serve.tokens.named_tokens import named_tokens
from wave_serve.tokens.pieces import cuts_alike
from wave_serve.tokens.tokenizer import LocalTokenizer

RESULTS = Path(__file__).parents[1] / "results" / "tokenizers.json"
STRETCHES, STRETCH = 6, 200_000  # texts whose cost is measured, and characters of each


def code() -> list[str]:
    """Stretches of the standard library's sources, none twice."""
    sources = "".join(path.read_text(errors="ignore") for path in sorted(Path(json.__file__).parents[1].glob("*.py")))
    return [sources[start : start + STRETCH] for start in range(0, STRETCHES * STRETCH, STRETCH)]


def milliseconds(count: Callable[[str], int], texts: list[str]) -> float:
    """CPU milliseconds for 1,000 tokens, the median of all texts."""
    costs = []
    for text in texts:
        started = time.process_time()
        tokens = count(text)
        costs.append(1e6 * (time.process_time() - started) / tokens)
    return statistics.median(costs)


def differences(counting: LocalTokenizer, reference: Tokenizer, texts: list[str]) -> int:
    """Counts that are other than the reference's."""
    wrong = 0
    for special in (True, False):
        expected = reference.encode_batch_fast(texts, add_special_tokens=special)
        counted = asyncio.run(counting.count(texts, add_special_tokens=special))
        wrong += sum(len(one.ids) != tokens for one, tokens in zip(expected, counted, strict=True))
    return wrong


def measured(path: Path, number: int) -> dict[str, Any]:
    """The row of one tokenizer.json."""
    counting, reference = LocalTokenizer(path), Tokenizer.from_file(str(path))
    described = json.loads(path.read_text(encoding="utf-8"))
    texts = hostile_texts(number, named_tokens(path))

    def count(text: str) -> int:
        return asyncio.run(counting.count([text], add_special_tokens=False))[0]

    def tokenized(text: str) -> int:
        return len(reference.encode_batch_fast([text], add_special_tokens=False)[0].ids)

    return {
        "tokenizer": path.stem if path.stem != "tokenizer" else path.parent.name,
        "counted_by": counting.library,
        "in_pieces": cuts_alike(described),
        "counts": 2 * len(texts),
        "differences": differences(counting, reference, texts),
        "ms_per_1000_tokens": round(milliseconds(count, code()), 4),
        "tokenizers_ms_per_1000_tokens": round(milliseconds(tokenized, code()), 4),
    }


def main() -> None:
    """Measures every file and writes all rows."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("files", type=Path, nargs="+", help="tokenizer.json files")
    parser.add_argument("--texts", type=int, default=2500, help="hostile texts")
    parser.add_argument("--out", type=Path, default=RESULTS)
    chosen = parser.parse_args()
    os.environ["TOKENIZERS_PARALLELISM"] = "false"
    rows = []
    for path in chosen.files:
        rows.append(measured(path, chosen.texts))
        print(json.dumps(rows[-1]), flush=True)
    versions = {name: version(name) for name in ("splintr-rs", "tokenizers")}
    command = " ".join(["python -m benchmarks.gateway.tokenizer_cost", *sys.argv[1:]])
    document = {"command": command, "machine": machine(), "versions": versions, "rows": rows}
    chosen.out.write_text(json.dumps(document, indent=1) + "\n")


if __name__ == "__main__":
    main()
