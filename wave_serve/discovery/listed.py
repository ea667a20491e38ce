"""Servers that a file lists."""

import asyncio
from pathlib import Path

from pydantic import RootModel

from wave_serve.discovery.found import Found, LookUpError, checked
from wave_serve.settings.errors import SettingsError
from wave_serve.settings.file import parse_section, read_text
from wave_serve.settings.upstream import Root


class Roots(RootModel[tuple[Root, ...]]):
    """What stands in the file: a list of roots of servers."""


async def listed(path: Path) -> tuple[Found, ...]:
    """A server at each root of the list in a YAML or JSON file; `[]` is a list without any.

    Whoever writes the file replaces it as a whole (writes another and renames it, or a ConfigMap that is mounted):
    half a list would be taken for all of it.

    Raises:
        LookUpError: the file cannot be read or is no list of roots; an empty file is none.
    """
    try:
        return checked(await asyncio.to_thread(_read, path))
    except SettingsError as error:
        raise LookUpError(str(error)) from None


def _read(path: Path) -> list[Found]:
    return [Found(root) for root in parse_section(read_text(path), Roots, str(path), show_values=False).root]
