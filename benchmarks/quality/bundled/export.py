"""Makes a checkpoint directory of what ``train.py`` wrote: the weights as safetensors, config and tokenizer.

python -m benchmarks.quality.bundled.export --run runs/bundled --tokenizer DIR --out wave-demo [--position rope]
"""

from __future__ import annotations

import argparse
import json
import shutil
from pathlib import Path

import torch
from safetensors.torch import save_file

TRAIN_LENGTH = 512
LONGEST = 2**18
WAVELET = {
    "type": "wavelet",
    "wavelet": "ricker",
    "scale_exponents": list(range(8)),
    "shifts": list(range(8)),
}
LLAMA = {
    "architectures": ["WaveletLlamaForCausalLM"],
    "model_type": "wavelet_llama",
    "attention_bias": False,
    "attention_dropout": 0.0,
    "bos_token_id": 0,
    "dtype": "bfloat16",
    "eos_token_id": 0,
    "hidden_act": "silu",
    "initializer_range": 0.02,
    "mlp_bias": False,
    "pad_token_id": 1,
    "rms_norm_eps": 1e-06,
    "rope_parameters": {"rope_theta": 10000.0, "rope_type": "default"},
    "tie_word_embeddings": True,
    "train_length": TRAIN_LENGTH,
    "max_position_embeddings": LONGEST,
    "use_cache": True,
}


def config(sizes: dict, position: str, log_n: int) -> dict:
    """``config.json`` of a model of these sizes."""
    found = LLAMA | sizes | {"position_encoding": WAVELET if position == "wavelet" else {"type": position}}
    # The twins know no log_n: it cannot repair rope, and ALiBi loses by it.
    found |= {"logit_scaling": "none"}
    if position == "wavelet":
        found |= {"logit_scaling": "log_n", "logit_scaling_length": log_n}
    return dict(sorted(found.items()))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--run", type=Path, required=True)
    parser.add_argument("--tokenizer", type=Path, required=True, help="folder of tokenizer.json and its config")
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--position", default="wavelet")
    options = parser.parse_args()
    facts = json.loads((options.run / "facts.json").read_text())
    options.out.mkdir(parents=True)
    name = "" if options.position == "wavelet" else f"{options.position}-"
    weights = torch.load(options.run / f"{name}model.pt", weights_only=True)
    weights = {key: value.contiguous() for key, value in weights.items()}
    save_file(weights, options.out / "model.safetensors", metadata={"format": "pt"})
    (options.out / "model.safetensors").chmod(0o644)
    document = config(facts["config"], options.position, int(facts["options"]["log_n"]))
    (options.out / "config.json").write_text(json.dumps(document, indent=2) + "\n")
    generation = {"bos_token_id": 0, "eos_token_id": 0, "pad_token_id": 1}
    (options.out / "generation_config.json").write_text(json.dumps(generation, indent=2) + "\n")
    for file in ("tokenizer.json", "tokenizer_config.json"):
        shutil.copyfile(options.tokenizer / file, options.out / file)


if __name__ == "__main__":
    main()
