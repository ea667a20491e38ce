"""Texts on which tokenizers tend to differ: many scripts, marks, white space, control characters, special tokens."""

import random

BLOCKS = (0x41, 0xC0, 0x370, 0x400, 0x531, 0x5D0, 0x620, 0x780, 0x905, 0x985, 0xB85, 0xE01, 0xF00, 0x10A0, 0x1100)
BLOCKS += (0x1200, 0x13A0, 0x1780, 0x1820, 0x1E00, 0x2000, 0x20A0, 0x2200, 0x2D30, 0x3040, 0x4E00, 0xA000, 0xAC00)
BLOCKS += (0xFB50, 0xFF00, 0x10400, 0x1D400, 0x1E4D0, 0x1F600, 0x20000, 0xE000, 0xE0100)
PARTS = (
    *("👨\u200d👩\u200d👧", "🏳️\u200d🌈", "🇩🇪🇫🇷", "👍🏽", "e\u0301", "a\u0308\u0323", "\u1100\u1161\u11a8", "ﷺ", "ǅſKİ"),
    *(" ", "  ", "\n", "\r\n", "\t", "\u00a0", "\u3000", "\u2028", "\x85", "\x0b\x0c", "\u180e", " " * 40, "\n" * 20),
    *("\0", "\x01", "\x7f", "\ufffd", "\uffff", "\u200b", "\ufeff", "\u202e", "\x1c"),
    *(
        "    1,\n",
        "0123456789",
        "１２３",
        "½Ⅻ",
        "it's",
        "WE'LL",
        "x" * 50,
        "=-" * 20,
        "f(x)",
        "naïve",
        "word ",
        " word",
    ),
)


def hostile_texts(number: int, tokens: list[str], seed: int = 5) -> list[str]:
    """Random texts; `tokens` are special tokens, of which whole ones, halves and pairs occur."""
    source = random.Random(seed)

    def part() -> str:
        match source.randrange(4):
            case 0:
                start = source.choice(BLOCKS)
                return "".join(chr(start + source.randrange(64)) for _ in range(source.randint(1, 9)))
            case 1 if tokens:
                token = source.choice(tokens)
                return source.choice((token, token * 2, token[:-1], token[1:], f" {token} "))
            case _:
                return source.choice(PARTS)

    return ["".join(part() for _ in range(source.randint(1, 12))) for _ in range(number)]
