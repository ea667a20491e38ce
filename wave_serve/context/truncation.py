"""What is kept of a prompt that is too long: ranges of its tokens, or of a conversation's messages or items."""

from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass
from typing import Literal

from pydantic import ConfigDict, NonNegativeInt, with_config
from typing_extensions import TypedDict

from wave_serve.request.dialects import Entry, Role
from wave_serve.settings import Overflow

Range = tuple[NonNegativeInt, NonNegativeInt]
"""Index of the first that is kept, and of the first after it that is not."""
Unit = Literal["token", "message", "item"]


@with_config(ConfigDict(use_attribute_docstrings=True))
class KeptPrompt(TypedDict):
    """What is kept of one prompt."""

    original_tokens: NonNegativeInt
    """Tokens before the cut."""
    kept_tokens: NonNegativeInt
    """Tokens after it."""
    kept_ranges: list[Range]
    """First index kept and first index after it that is not."""


@with_config(ConfigDict(use_attribute_docstrings=True))
class Truncation(TypedDict):
    """What is kept of a request's prompts."""

    overflow: Overflow
    """The policy of the cut."""
    unit: Unit
    """What the ranges count."""
    prompts: list[KeptPrompt]


@dataclass(frozen=True)
class Kept:
    """What is kept of one prompt: its tokens before and after, and the ranges of tokens, messages or items."""

    original_tokens: int
    kept_tokens: int
    ranges: tuple[Range, ...]

    def as_json(self) -> KeptPrompt:
        """As it is told to the client."""
        return {
            "original_tokens": self.original_tokens,
            "kept_tokens": self.kept_tokens,
            "kept_ranges": list(self.ranges),
        }

    def as_header(self) -> str:
        """The ranges, such as 0-1,96-128: from the first of each to before the second."""
        return ",".join(f"{start}-{end}" for start, end in self.ranges)


def keep_tokens(length: int, budget: int, overflow: Overflow, prefix: int, suffix: int) -> tuple[Range, ...] | None:
    """Ranges of `length` tokens that make `budget` tokens or fewer.

    Args:
        length: tokens of the prompt.
        budget: most tokens to keep.
        overflow: which part is cut away.
        prefix: special tokens at the start that are kept in any case, such as a begin-of-text token.
        suffix: the same at the end.

    Returns:
        None where the budget has no room for a token beside the special ones.
    """
    if length <= budget:
        return ((0, length),)
    room = budget - prefix - suffix
    if room < 1:
        return None
    match overflow:
        case Overflow.TRUNCATE_HEAD:
            head = 0
        case Overflow.TRUNCATE_TAIL:
            head = room
        case _:
            head = room // 2
    return _joined([(0, prefix + head), (length - suffix - (room - head), length)])


def cut(ids: Sequence[int], ranges: Sequence[Range]) -> list[int]:
    """The tokens inside the ranges."""
    return [token for start, end in ranges for token in ids[start:end]]


@dataclass(frozen=True)
class Turns:
    """A conversation's entries in groups that go or stay as one.

    Attributes:
        entries: how many there are.
        droppable: indices of the groups that may be dropped, oldest first.
    """

    entries: int
    droppable: tuple[tuple[int, ...], ...]

    def keep(self, drop: int, overflow: Overflow) -> tuple[Range, ...]:
        """Ranges of entries that are left after `drop` groups at the policy's place are gone."""
        match overflow:
            case Overflow.TRUNCATE_HEAD:
                first = 0
            case Overflow.TRUNCATE_TAIL:
                first = len(self.droppable) - drop
            case _:
                first = (len(self.droppable) - drop) // 2
        gone = {index for turn in self.droppable[first : first + drop] for index in turn}
        return _joined([(index, index + 1) for index in range(self.entries) if index not in gone])


def turns_of(entries: Sequence[Entry]) -> Turns:
    """Groups that may be dropped.

    Before the last user's message that is a whole turn: a user's message with all that answers it, so that roles still
    alternate; what stands before the first user's message is a turn too. After it, where an agent works on by itself,
    it is an exchange: calls of tools with their results. What system and developer say, the last user's message, and
    what comes last after it stay in any case; so do calls that were made before that message and answered after it,
    with their results. Without any user's message nothing may be dropped.
    """
    users = [index for index, entry in enumerate(entries) if entry.role is Role.USER]
    if not users:
        return Turns(len(entries), ())
    unanswered = _unanswered(entries[: users[-1]])  # by the last user's message
    before = _groups(entries[: users[-1]], _begins_turn)[: -1 if unanswered else None]
    groups = _groups(entries[users[-1] + 1 :], _begins_exchange)[:-1]
    after = [tuple(index + users[-1] + 1 for index in group) for group in groups]
    after = [group for group in after if not _answers(unanswered, [entries[index] for index in group])]
    return Turns(len(entries), (*before, *after))


def _unanswered(entries: Sequence[Entry]) -> frozenset[str]:
    """The calls whose results are not among the entries."""
    calls = frozenset[str]().union(*(entry.calls for entry in entries))
    return calls.difference(*(entry.results for entry in entries))


def _answers(calls: frozenset[str], entries: Sequence[Entry]) -> bool:
    return any(entry.results & calls for entry in entries)


def _begins_turn(entry: Entry, _before: Entry) -> bool:
    return entry.role is Role.USER


def _begins_exchange(entry: Entry, before: Entry) -> bool:
    return entry.role is Role.MODEL and before.role is Role.TOOL


def _groups(entries: Sequence[Entry], begins: Callable[[Entry, Entry], bool]) -> list[tuple[int, ...]]:
    """The indices of entries other than the system's in groups; none begins while a call's result is yet to come.

    For example [call 1, call 2, result 1, text, result 2, text] makes an exchange of five entries and one of one.
    """
    groups: list[list[int]] = []
    pending: set[str] = set()
    for index, entry in enumerate(entries):
        if entry.role is Role.SYSTEM:
            continue
        if not groups or (begins(entry, entries[groups[-1][-1]]) and not pending):
            groups.append([])
        groups[-1].append(index)
        pending = (pending | entry.calls) - entry.results
    return [tuple(group) for group in groups]


async def fewest_dropped(
    turns: Turns, overflow: Overflow, budget: int, count: Callable[[tuple[Range, ...]], Awaitable[int]]
) -> tuple[tuple[Range, ...], int] | None:
    """Drops as few groups as bring the conversation to `budget` tokens, found by bisection.

    Args:
        turns: of the conversation, which is over its budget.
        overflow: which part is cut away.
        budget: most tokens to keep.
        count: tokens of the entries in some ranges.

    Returns:
        The ranges of entries that are left and their tokens; None where what may not be dropped is too long.
    """
    found = None
    low, high = 1, len(turns.droppable)
    while low <= high:
        drop = (low + high) // 2
        ranges = turns.keep(drop, overflow)
        tokens = await count(ranges)
        if tokens <= budget:
            found = (ranges, tokens)
            high = drop - 1
        else:
            low = drop + 1
    return found


def _joined(ranges: Sequence[Range]) -> tuple[Range, ...]:
    """Ranges in order, neighbours made one and empty ones left out."""
    joined: list[Range] = []
    for start, end in ranges:
        if start == end:
            continue
        if joined and joined[-1][1] == start:
            joined[-1] = (joined[-1][0], end)
        else:
            joined.append((start, end))
    return tuple(joined)
