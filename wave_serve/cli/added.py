"""Commands that other packages add through the entry-point group `wave_serve.commands`."""

import importlib.metadata
import re
from collections.abc import Callable
from importlib.metadata import EntryPoint

from wave_serve.errors import ExplainedError

GROUP = "wave_serve.commands"
DISTRIBUTION = "wave-serve"


class CommandUnavailableError(ExplainedError, RuntimeError):
    """A command's packages are not installed; the message says which extra brings them."""


def added_commands() -> dict[str, EntryPoint]:
    """Entry points of the added commands by name; nothing is imported."""
    return {entry.name: entry for entry in importlib.metadata.entry_points(group=GROUP)}


def load_command(entry: EntryPoint) -> Callable[..., object]:
    """The function behind a command. Raises CommandUnavailableError where a package that it needs is missing."""
    try:
        command: Callable[..., object] = entry.load()
    except ModuleNotFoundError as error:
        extras = _extras_with(error.name or "")
        hint = " or ".join(f"{DISTRIBUTION}[{extra}]" for extra in extras) or f"the packages of {entry.module}"
        raise CommandUnavailableError(f"`{entry.name}` needs {error.name}, install {hint}") from None
    return command


def _extras_with(module: str) -> list[str]:
    """Extras of this distribution that bring `module`, or all of them where its name is found in none."""
    try:
        metadata = importlib.metadata.metadata(DISTRIBUTION)
    except importlib.metadata.PackageNotFoundError:  # a source tree that is not installed
        return []
    extras = metadata.get_all("Provides-Extra") or []
    found = []
    for requirement in metadata.get_all("Requires-Dist") or []:
        name = re.split(r"[^\w.-]", requirement, maxsplit=1)[0]
        extra = re.search(r"""extra == ["']([\w.-]+)["']""", requirement)
        if extra and name.lower().replace("-", "_") == module.partition(".")[0].lower():
            found.append(extra[1])
    return found or [extra for extra in extras if extra != "dev"]
