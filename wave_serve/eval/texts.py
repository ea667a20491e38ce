"""The texts to score: read, and tokenised by the endpoint."""

import hashlib
import re
import sysconfig
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from wave_serve.engine.checkpoint import bundled_checkpoint
from wave_serve.engine.errors import CheckpointError
from wave_serve.eval.endpoint import Endpoint
from wave_serve.eval.errors import TextError

CHUNK_CHARACTERS = 2**20
LINE_START = re.compile(r"\n(?=\S)")
HELD_OUT = re.compile(r"^## Held-out files\s+(.+?)\s*(?:^#|\Z)", re.MULTILINE | re.DOTALL)


@dataclass(frozen=True)
class Document:
    """One file's text."""

    name: str
    text: str

    def description(self) -> dict[str, object]:
        """What the results say of it."""
        data = self.text.encode()
        return {"name": self.name, "bytes": len(data), "sha256": hashlib.sha256(data).hexdigest()}


def read_document(path: Path, name: str | None = None) -> Document:
    """A UTF-8 file. Raises TextError where it cannot be read, is no UTF-8 or is empty."""
    try:
        text = path.read_text(encoding="utf-8")
    except OSError as error:
        raise TextError(f"cannot read text {path}: {error.strerror or error}") from None
    except UnicodeDecodeError as error:
        raise TextError(f"text {path} is not UTF-8: byte {error.start} is {error.object[error.start]:#x}") from None
    if not text:
        raise TextError(f"text {path} is empty")
    return Document(name or str(path), text)


def held_out_documents() -> list[Document]:
    """The standard library files that the bundled demo's model card lists as held out of its training.

    Raises:
        TextError: there is no bundled demo, or its card lists none.
    """
    try:
        card = bundled_checkpoint() / "README.md"
        listed = HELD_OUT.search(card.read_text(encoding="utf-8"))
    except (CheckpointError, OSError):
        listed = None
    names = re.findall(r"`([^`]+)`", listed[1]) if listed else []
    library = Path(sysconfig.get_path("stdlib"))
    # A file of another Python version may be gone.
    found = [read_document(library / name, name) for name in names if (library / name).is_file()]
    if not found:
        raise TextError("no bundled held-out files are at hand; give --text FILE")
    return found


async def tokenize_documents(endpoint: Endpoint, documents: Sequence[Document], separator: str) -> list[int]:
    """Token ids of the documents in their order, `separator` between them; each chunk is tokenised by itself."""
    between = await endpoint.tokenize(separator) if separator and len(documents) > 1 else []
    ids: list[int] = []
    for index, document in enumerate(documents):
        if index:
            ids += between
        for chunk in chunks(document.text, CHUNK_CHARACTERS):
            ids += await endpoint.tokenize(chunk)
    return ids


def chunks(text: str, most: int) -> list[str]:
    """`text` in parts of at most `most` characters, cut where a line starts without indent if there is one.

    A byte-level tokenizer whose words don't span lines gives the same ids for the parts as for the whole.
    """
    parts = []
    start = 0
    while len(text) - start > most:
        end = start + most
        for match in LINE_START.finditer(text, start, start + most):
            end = match.end()
        parts.append(text[start:end])
        start = end
    return [*parts, text[start:]]


def byte_length(text: str) -> int:
    """Bytes of a detokenised text in UTF-8, without characters that were cut at its ends."""
    return len(text.strip("\ufffd").encode("utf-8", "replace"))
