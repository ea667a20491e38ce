"""The model card of a converted checkpoint."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from model_registry.configuration_wavelet import WaveletLlamaConfig
    from model_registry.conversion.source import Source

_CARD = """\
---
library_name: transformers
pipeline_tag: text-generation
tags: [wavelet_llama, converted]
---
# {name}

The weights of `{source}` ({family}), unchanged, in a model without rotary positions: position encoding
`{position}`, logit scaling `{logit_scaling}` from {scaling_length} tokens on. Made by

    {command}

**It must be recalibrated before it is of use.** These weights were trained with rotary positions, and know nothing of
the new ones: text that this checkpoint writes as it is is poor. `wave-serve train --from` trains them on, with
`--teacher` and the source at a small part of the cost, and `wave-serve eval` measures how far the result reads.

## What was changed

- `config.json`: `model_type` is `wavelet_llama`, with `position_encoding`, `train_length` and `logit_scaling`;
  `max_position_embeddings` is {longest}.{near_bias}{dropped}{biases}
- Weights, tokenizer, chat template and generation config are the source's.
- The source's licence applies to the weights; the `.py` files are Apache-2.0.

## Load it

With Transformers alone: `AutoModelForCausalLM.from_pretrained(path, trust_remote_code=True)`. With the package
wave-serve installed, `import model_registry.modeling_wavelet` makes `trust_remote_code` unnecessary, and
`wave-serve serve PATH` serves it.
"""


def card(name: str, source: Source, config: WaveletLlamaConfig, dropped: list[str], command: str) -> str:
    """Markdown; ``dropped`` is what of the source's config was left out, with the reasons."""
    biases = (
        "\n- Zero biases were added to the attention's output projections: Llama's code wants them; they change nothing"
        if source.family == "qwen2"
        else ""
    )
    bonus = config.near_bias
    near_bias = (
        f"\n- `near_bias_slope` {bonus.slope} and `near_bias_keys` {bonus.keys}: past {bonus.length} tokens the scores "
        "of so many nearest keys get a bonus, so that the many others do not drown them."
        if bonus
        else ""
    )
    return _CARD.format(
        name=name,
        source=source.directory.resolve().name,
        family=source.family,
        position=config.position_type,
        logit_scaling=config.logit_scaling,
        scaling_length=config.log_n_length or config.train_length,
        command=command,
        longest=config.max_position_embeddings,
        near_bias=near_bias,
        dropped="".join(f"\n- Dropped: {what}." for what in dropped),
        biases=biases,
    )
