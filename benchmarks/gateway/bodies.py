"""Request bodies: short prompts, prompts of 50,000 to 100,000 tokens, and invalid ones. No two begin alike."""

import itertools
import json
import sysconfig
from collections.abc import Callable, Iterator
from pathlib import Path

from tokenizers import Tokenizer

from benchmarks.gateway.client import Request, post

SHORT_TOKENS = 200
LONG_TOKENS = (50_000, 75_000, 100_000)
MARK = "#0000000000\n"  # replaced by the request's number, so that no two prompts begin alike
SECONDS = "0.0000"  # replaced by the request's own
GOLDEN = 0.618034  # multiples of it spread evenly over 0 to 1, in any run of them


def text_of(tokens: int, tokenizer: Tokenizer, skip: int = 0, every: int | None = None) -> str:
    """Python of the standard library, cut after that many tokens, with a mark in front and after `every` characters."""
    sources = itertools.islice(_sources(), skip, None)
    text = ""
    while len(text) < 8 * tokens:
        text += next(sources)
    every = every or len(text)
    text = "".join(MARK + text[start : start + every] for start in range(0, len(text), every))
    encoded = tokenizer.encode(text, add_special_tokens=False)
    return text[: encoded.offsets[tokens - 1][1]]


def spread(mean: float) -> Callable[[int], float]:
    """A function from a request's number to seconds between half and one and a half times `mean`."""
    return lambda number: round(mean * (0.5 + number * GOLDEN % 1), 4)


def maker(
    port: int,
    tokenizer: Tokenizer,
    lengths: tuple[int, ...],
    first: Callable[[int], float],
    *,
    stream: bool,
    rest: str = "1:0",
    every: int | None = None,
    path: str = "/v1/completions",
) -> Callable[[int], Request]:
    """A function from a request's number to the request; sizes come by turns.

    Args:
        port: where it is sent.
        tokenizer: what `lengths` are counted in.
        lengths: tokens of the prompts.
        first: seconds that the mock takes until its first token, by the request's number.
        stream: whether the answer is a stream.
        rest: what the mock does then, see mock.py.
        every: characters after which each prompt is one that was never sent; else it is only in its first line.
        path: the endpoint, in whose dialect the prompts are.
    """
    bodies = []
    for skip, length in enumerate(lengths):
        prompt = text_of(length, tokenizer, skip, every)
        user = f"{SECONDS}:{rest}:{length}"
        body = {"model": "bench", **asked(path, prompt), "stream": stream, "user": user}
        bodies.append(json.dumps(body, separators=(",", ":")).encode())
    mark = json.dumps(MARK)[1:-1].encode()
    serial = itertools.count(1)  # a request's number comes back in every round

    def make(number: int) -> Request:
        seconds = first(number)
        head, _, tail = (
            bodies[number % len(bodies)].replace(mark, b"#%010d\\n" % next(serial)).rpartition(SECONDS.encode())
        )
        return Request(post(port, path, b"%s%.4f%s" % (head, seconds, tail)), upstream_s=seconds)

    return make


def asked(path: str, prompt: str) -> dict[str, object]:
    """A prompt and the longest answer to it in the dialect of an endpoint."""
    if path == "/v1/responses":
        return {"input": prompt, "max_output_tokens": 16}
    if path == "/v1/chat/completions":
        return {"messages": [{"role": "user", "content": prompt}], "max_tokens": 16}
    return {"prompt": prompt, "max_tokens": 16}


def invalid(port: int, number: int) -> Request:
    """A request that is refused: not JSON, over the cap in token ids, over it in text, or of a wrong type."""
    bodies = (
        b'{"model":"bench","prompt":"half',
        json.dumps({"model": "bench", "prompt": [5] * 300_000}).encode(),
        json.dumps({"model": "bench", "prompt": "x y " * 2_000_000}).encode(),
        b'{"model":"bench","prompt":"a","max_tokens":"many"}',
    )
    return Request(post(port, "/v1/completions", bodies[number % len(bodies)]))


def _sources() -> Iterator[str]:
    library = Path(sysconfig.get_paths()["stdlib"])
    while True:
        for path in sorted(library.glob("*.py")):
            yield path.read_text(encoding="utf-8", errors="ignore")
