"""The model card that goes beside exported weights."""

from __future__ import annotations

import json
import platform
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from model_registry.modeling_wavelet import WaveletLlamaForCausalLM
    from model_registry.training.corpus import Corpus
    from model_registry.training.recipe import Recipe

_CARD = """\
---
{terms}
library_name: transformers
pipeline_tag: text-generation
---
# {name}

A small language model of {subject}: Llama-shaped, {parameters:,} parameters, bfloat16, position encoding
`{position}`, logit scaling `{logit_scaling}`{scaled_from}, trained at {train_length} tokens per sequence.

It shows serving far past the training length. It completes plain text; it has no chat template and follows no
instructions. End a prompt at a word or a sign rather than at a space or a line break: the tokenizer joins white space
to what follows.

## How it was made

    {command}

- Corpus: {corpus}, {train_files} files for training and
  {held_out_files} held out; documents are packed whole, `<|endoftext|>` after each. SHA-256 of all names and texts:
  `{digest}`.{retrieval}
- Tokenizer: byte-level BPE, {vocab_size} entries, made from the training files; digits are single tokens.
- {step} steps of {batch} x {train_length} tokens ({tokens:,} in all{cut}) in {minutes:.0f} minutes of training on CPU.
- Loss in nats per token at {train_length} tokens: {loss:.3f} on the last training batches, {held_out_loss:.3f} held out
  (`loss_curve.json`, `loss_curve.png`).

## Limits

Names, numbers and logic are often wrong{not_to_be_run}. Greedy decoding soon
repeats itself; sample at a temperature of about 0.8. {licence}, and passages of them can come back word for word.

## Recipe

```json
{recipe}
```

## Held-out files

{held_out}
"""

_RETRIEVAL = """
- {share:.1%} of the training rows hold packed retrieval episodes of 64 tokens up to a whole row instead: pass keys,
  look-ups and copies."""

_CUT = "; each step's rows cut into one number of equal parts, drawn from {divisors}"

_STANDARD_LIBRARY = {
    "terms": "license: apache-2.0\nlanguage: [code]",
    "subject": "Python source code",
    "corpus": f"sources of the Python {platform.python_version()} standard library without its tests",
    "not_to_be_run": ": the output looks like Python and is not to be run",
    "licence": "The training files are under the Python Software Foundation\nlicense",
}
"""What the card says of the default corpus."""


def _other_text(pattern: str) -> dict[str, str]:
    """What the card says of files that the user chose: no more than is known of them."""
    return {
        "terms": "license: other",
        "subject": "text",
        "corpus": f"files `{pattern}` of the directory in the command above",
        "not_to_be_run": "",
        "licence": "The training files have licences of their own",
    }


def model_card(
    name: str,
    model: WaveletLlamaForCausalLM,
    recipe: Recipe,
    corpus: Corpus,
    log: list[dict[str, Any]],
    command: str,
) -> str:
    """Markdown; figures come from the last entry of ``log`` (nan before the first)."""
    last = log[-1] if log else {"step": 0, "tokens": 0, "seconds": 0.0, "loss": float("nan")}
    about = _STANDARD_LIBRARY if corpus.is_standard_library else _other_text(corpus.pattern)
    return _CARD.format(
        **about,
        name=name,
        parameters=model.num_parameters(),
        position=recipe.position,
        logit_scaling=recipe.logit_scaling,
        scaled_from="" if recipe.logit_scaling_length is None else f" from {recipe.logit_scaling_length} tokens on",
        train_length=recipe.train_length,
        command=command,
        train_files=len(corpus.train),
        held_out_files=len(corpus.held_out),
        digest=corpus.digest,
        retrieval=_RETRIEVAL.format(share=recipe.retrieval_fraction) if recipe.retrieval_fraction else "",
        vocab_size=recipe.vocab_size,
        batch=recipe.batch_sequences,
        cut="" if recipe.row_divisors == (1,) else _CUT.format(divisors=", ".join(map(str, recipe.row_divisors))),
        step=last["step"],
        tokens=last["tokens"],
        minutes=last["seconds"] / 60,
        loss=last["loss"],
        held_out_loss=last.get("held_out_loss", float("nan")),
        recipe=json.dumps(recipe.to_json()),
        held_out=", ".join(f"`{held_out}`" for held_out in corpus.held_out_names),
    )
