"""The texts on which two tokenizers are compared, chosen so that a difference in any part of them shows in one.

A tokenizer has four parts that a checkpoint's other files can change: tokens that are found first (special ones), a
normalizer, a split into words, and the vocabulary. PROBES are for the normalizer and the split, `token_texts` for what
is found first, and `vocabulary_text` for the vocabulary.
"""

from collections.abc import Sequence

from tokenizers import Tokenizer

TOKENS_A_TEXT = 8
# Tokens that the classes of Transformers add of their own accord, so that no file need name them.
DEFAULT_TOKENS = (
    *("<s>", "</s>", "<unk>", "<pad>", "<mask>", "[CLS]", "[SEP]", "[PAD]", "[UNK]", "[MASK]", "<bos>", "<eos>"),
    *("<|endoftext|>", "<|startoftext|>", "<|im_start|>", "<|im_end|>", "<|begin_of_text|>", "<|end_of_text|>"),
    *("<BOS_TOKEN>", "<EOS_TOKEN>", "<UNK>", "<PAD>", "<CLS>", "<SEP>", "<MASK_TOKEN>", "<start_of_turn>", "[INST]"),
    *("<|START_OF_TURN_TOKEN|>", "<|END_OF_TURN_TOKEN|>", "<think>", "</think>", "<tool_call>", "<extra_id_0>"),
)
SAMPLE = 1000  # entries of a vocabulary

PROBES = (
    "a",
    " a",
    "  a  ",
    "    1,\n" * 20,  # digits behind an indent: where the split of one class differs from another's
    "def f(x):\n    return x\n\n\n",
    "  two  spaces\tand a tab\r\nand\r\n\r\nmore \n \n",
    "1234567890 12 123 1234 3.14159e-10 0x7f １２３ ४५६ Ⅻ ½²",
    "I'm you've WE'LL he'S 'tis don’t it'd 's't're",
    "ABC Straße ÀÉÎ İstanbul ǅ ſ K camelCaseWord SNAKE_CASE",  # letters that a normalizer may fold
    "e\u0301 a\u0308\u0323 \u1100\u1161\u11a8 \u00c5 \u212b ﬁ ① ﷺ ｱ",  # decomposed, composed, compatibility
    "naïve 日本語 한국어 العربية עברית हिन्दी ไทย தமிழ் ქართული Ελληνικά Русский አማርኛ",
    "🙂 👨‍👩‍👧‍👦 🏳️‍🌈 🇩🇪🇫🇷 👍🏽 1️⃣ \U000e0067 \U0001f6d8",
    "\x00\x01\x1b\x7f\ufffd\ufeff\u200b\u00ad\u2060\ue000\uffff",
    " \u00a0\u3000\u2028\u2029\u0085\u180e\x0b\x0c\x1c" * 2,
    "\n" * 50 + "\t" * 20 + "\r\n" * 9,
    " " * 100 + "x" + " " * 33,
    "=" * 80 + "-" * 33 + "*" * 65 + "#" * 7,
    "x" * 300 + " " + "ab" * 99,  # longer than the words that WordPiece takes
    'https://a.b/c?d=%20e&f=[g]#h {"k": [1, null, "v"]} <p class=\'q\'>r</p> \\n $x_1^2$ `y` ... !? -- — …',
    "▁▁a Ġb ##c <0x0A> [UNK] </w> Ċ",  # what stands for spaces and bytes inside of vocabularies
)
LONG = "\n".join(PROBES) * 5


def texts(tokens: Sequence[str], tokenizer: Tokenizer) -> list[str]:
    """The whole battery for a tokenizer.json whose checkpoint names `tokens`; the short texts come first."""
    found_first = [*dict.fromkeys((*tokens, *DEFAULT_TOKENS))]
    return [*PROBES, *token_texts(found_first), vocabulary_text(tokenizer), LONG + "".join(tokens[:99])]


def token_texts(tokens: Sequence[str]) -> list[str]:
    """Texts that show whether each token is one, and what it does with its neighbours (`lstrip`, `single_word`)."""
    shown = [f"a{token}b {token} c\n{token}\n{token}{token}." for token in tokens]
    return [" ".join(shown[start : start + TOKENS_A_TEXT]) for start in range(0, len(shown), TOKENS_A_TEXT)]


def vocabulary_text(tokenizer: Tokenizer) -> str:
    """Entries from all over the vocabulary, in the order of their ids."""
    ids = sorted(tokenizer.get_vocab().values())
    sample = ids[:: max(1, len(ids) // SAMPLE)]
    decoded: list[str] = tokenizer.decode_batch([[token] for token in sample], skip_special_tokens=False)
    return " ".join(decoded).replace("\ufffd", "")
