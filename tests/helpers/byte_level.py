"""Builds byte-level tokenizers with the pre-tokenizers of the usual model families."""

import string
from pathlib import Path

from tokenizers import Regex, Tokenizer, decoders, models, normalizers, pre_tokenizers, processors, trainers

from wave_serve.tokens.pieces import LLAMA_3, QWEN_2

CORPUS = Path(__file__).read_text() + "naïve 日本語 🙂 1234\r\n\r\n  x\t\n;\n/y 'll\n's \x1c\n\x85\u2028a" * 3
STEPS = {
    "gpt2": [pre_tokenizers.ByteLevel(add_prefix_space=False)],
    "digits": [pre_tokenizers.Digits(individual_digits=True), pre_tokenizers.ByteLevel(add_prefix_space=False)],
    "llama3": [
        pre_tokenizers.Split(Regex(LLAMA_3), "isolated"),
        pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False),
    ],
    "qwen2": [
        pre_tokenizers.Split(Regex(QWEN_2), "isolated"),
        pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False),
    ],
}


def build(directory: Path, kind: str) -> Path:
    """A tokenizer.json whose merges cross as much as its pre-tokenizer lets them."""
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(STEPS[kind])
    tokenizer.normalizer = normalizers.NFC() if kind == "qwen2" else None  # as Qwen's has it
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=3000,
        special_tokens=["<|begin|>", "<|end|>"],
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    texts = [CORPUS, *(f"{a}\n{b} {a}\n\n{b}\n;{a}\n" for a in "ab;.' /1é" for b in string.printable)] * 3
    tokenizer.train_from_iterator(texts, trainer)
    tokenizer.post_processor = processors.TemplateProcessing(single="<|begin|> $A", special_tokens=[("<|begin|>", 0)])
    path = directory / "tokenizer.json"
    tokenizer.save(str(path))
    return path
