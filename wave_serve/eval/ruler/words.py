"""The words of the tasks: names, lists, and how things are told, asked and answered."""

from itertools import pairwise


def _split(text: str) -> tuple[str, ...]:
    return tuple(text.split())


FIRST = _split(
    """
    amber azure brave brisk calm cedar clear coral crisp dusty early fancy faint frosty gentle giant golden grand
    happy hidden hollow humble icy ivory jolly keen lively lone lucky mellow misty modern noble pale plain proud
    quick quiet rapid rare royal rusty shiny silent silver simple slow solid spare steady stone sunny swift tall
    tiny vivid warm
    """
)
SECOND = _split(
    """
    anchor arrow badger beacon birch bridge canyon castle cloud comet copper crane delta eagle ember falcon fern
    field fjord forest garden glacier grove harbor hawk heron island jade kite lake lantern lotus maple marsh meadow
    mill moon orchid otter pebble pine planet prairie quartz raven reef ridge river robin sparrow spruce summit
    temple thistle tiger tower valley violet walnut willow wolf
    """
)
COMMON = _split(
    """
    apple bread chair cloud door engine flower glass hammer island jacket kettle ladder market needle office paper
    quilt river school table umbrella village window yard bottle candle desk fence garden house iron judge knife
    lemon mirror number orange pencil queen road stone train uncle voice wheel zebra basket circle dinner energy
    forest guitar hotel insect jungle kitten letter mother nature ocean picture question rocket silver ticket unit
    """
)
NEEDLE_THING = "code"
OPENING = "Document:\n"


def told(of: str, value: str) -> str:
    """The line that tells a value."""
    return f"The {NEEDLE_THING} of {of} is {value}.\n"


def asked(of: str) -> str:
    """The question for a value, and the beginning of its answer."""
    return f"\nQuestion: What is the {NEEDLE_THING} of {of}?\nAnswer: The {NEEDLE_THING} of {of} is"


def assignments(number: str, names: list[str]) -> list[str]:
    """The lines of a chain of variables."""
    first = f"VAR {names[0]} = {number}\n"
    return [first, *(f"VAR {later} = VAR {earlier}\n" for earlier, later in pairwise(names))]


def asked_variables(number: str) -> str:
    """The question for all variables of a chain, and the beginning of its answer."""
    return f"\nQuestion: Which variables have the value {number}?\nAnswer: The variables with the value {number}:"


def asked_frequent() -> str:
    """The question for the three most frequent made-up words, and the beginning of its answer."""
    return "\nQuestion: Which three words are the most frequent?\nAnswer: The most frequent words:"


def asked_common(count: int) -> str:
    """The question for the most common words of a list, and the beginning of its answer."""
    return f"\nQuestion: Which {count} words are the most common?\nAnswer: The most common words:"


def wrapped(words: list[str], separator: str) -> str:
    """Words in lines of twelve."""
    return "".join(separator.join(words[start : start + 12]) + "\n" for start in range(0, len(words), 12))
