"""Refuses what is not text: its tokens would be unknown, and its place in a prompt could not be cut."""

from typing import Any

from wave_serve.errors import invalid

MEDIA = ("image", "audio", "video", "file", "document", "screenshot", "embeds")


def refuse_media(content: Any, where: str, param: str) -> None:
    """Raises ApiError 400 for the first part of a content, or of what is inside it, that is no text."""
    if not isinstance(content, list):
        return
    for index, part in enumerate(content):
        if not isinstance(part, dict):
            continue
        place = f"{where}[{index}]"
        refuse_kind(part.get("type"), place, param)
        for inside in ("content", "output"):
            refuse_media(part.get(inside), f"{place}.{inside}", param)


def refuse_kind(kind: Any, where: str, param: str) -> None:
    """Raises ApiError 400 for the type of a part that is no text."""
    if isinstance(kind, str) and any(medium in kind for medium in MEDIA):
        raise invalid(f"{where} has the type {kind!r}: only text is supported, no images, audio or files", param)
