"""What names and values of tasks are drawn from: all words and digits, or few of them, so that lines nearly match.

Where the names of a document differ in one word and its values in some digits, a question is answered only by reading
its one line exactly. A document of 16 training lengths has such near misses by chance; one of 512 tokens must be given
them.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import random


def words_of(text: str) -> tuple[str, ...]:
    """The words of a text."""
    return tuple(text.split())


FIRST = words_of(
    """
    amber azure brave brisk calm cedar clear coral crisp dusty early fancy faint frosty gentle giant golden grand
    happy hidden hollow humble icy ivory jolly keen lively lone lucky mellow misty modern noble pale plain proud
    quick quiet rapid rare royal rusty shiny silent silver simple slow solid spare steady stone sunny swift tall
    tiny vivid warm
    """
)
SECOND = words_of(
    """
    anchor arrow badger beacon birch bridge canyon castle cloud comet copper crane delta eagle ember falcon fern
    field fjord forest garden glacier grove harbor hawk heron island jade kite lake lantern lotus maple marsh meadow
    mill moon orchid otter pebble pine planet prairie quartz raven reef ridge river robin sparrow spruce summit
    temple thistle tiger tower valley violet walnut willow wolf
    """
)


@dataclass(frozen=True)
class Pool:
    """Names and values of one document.

    Attributes:
        first: words that names begin with.
        second: words that names end with.
        digits: the digits of values; the first of a value is never 0.
        beginning: what half of the values begin with.
        lengths: least and most digits of a value.
    """

    first: tuple[str, ...] = FIRST
    second: tuple[str, ...] = SECOND
    digits: str = "0123456789"
    beginning: str = ""
    lengths: tuple[int, int] = (3, 7)

    def name(self, draw: random.Random) -> str:
        """A name such as ``amber-falcon``; some have one word or three."""
        found = draw.choice(self.second)
        for share in (0.8, 0.1):
            if draw.random() < share:
                found = f"{draw.choice(self.first)}-{found}"
        return found

    def value(self, draw: random.Random) -> str:
        """A number of as many digits as the pool says."""
        count = draw.randint(*self.lengths)
        begun = self.beginning if draw.random() < 0.5 else ""
        begun = begun or draw.choice("123456789")
        return (begun + "".join(draw.choice(self.digits) for _ in range(count)))[:count]


PLAIN = Pool()


def near_misses(draw: random.Random) -> Pool:
    """A pool of few words or alike values, or of both, or of neither: drawn per document."""
    few = draw.random() < 0.5
    first = tuple(draw.sample(FIRST, draw.randint(2, 6))) if few else FIRST
    second = tuple(draw.sample(SECOND, draw.randint(2, 6))) if few else SECOND
    lengths = (7, 7) if draw.random() < 0.7 else (3, 7)
    if draw.random() < 0.4:
        return Pool(first, second, lengths=lengths)
    digits = "".join(draw.sample("0123456789", draw.randint(2, 4))) if draw.random() < 0.6 else PLAIN.digits
    return Pool(first, second, digits, draw.choice("123456789") + draw.choice(digits), lengths)
