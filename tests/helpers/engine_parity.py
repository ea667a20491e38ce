"""Worst log-probability error of real vLLM against the dense float32 Hugging Face model, over many random checkpoints.

Run in a process of its own, because the engine's process-wide settings must not leak into other tests:

    python tests/helpers/engine_parity.py CASES.json RESULTS.json [--tensor-parallel N]

Each case is a random 3-layer checkpoint. Three prompts of 1,777, 63 and 901 tokens go through chunked prefill (512) in
one batch, then the longest is continued from the prefix cache with 24 decoded tokens.
"""

from __future__ import annotations

import argparse
import copy
import gc
import json
import os
import tempfile
from pathlib import Path
from unittest.mock import patch

LENGTHS = (1777, 63, 901)
CHUNK = 512
DECODED = 24
VOCABULARY = 61
TRAIN_LENGTH = 128
BLOCK = 32


def checkpoint_config(case: dict) -> dict:
    """Config of the case's checkpoint; `case` has heads, kv_heads, head_dim, position_encoding, logit_scaling.

    Besides, it may have logit_scaling_length, near_bias_slope and near_bias_keys, dtype, engine: further arguments of
    vLLM's engine, environment: variables for it, adapter: true for a LoRA adapter on all matrices, int8: true for
    quantised weights, and slept: true for an engine that slept before its first request.
    """
    return {
        "vocab_size": VOCABULARY,
        "hidden_size": 64,
        "intermediate_size": 96,
        "num_hidden_layers": 3,
        "num_attention_heads": case["heads"],
        "num_key_value_heads": case["kv_heads"],
        "head_dim": case["head_dim"],
        "max_position_embeddings": 4096,
        "position_encoding": case["position_encoding"],
        "train_length": TRAIN_LENGTH,
        "logit_scaling": case["logit_scaling"],
        "logit_scaling_length": case.get("logit_scaling_length"),
        "near_bias_slope": case.get("near_bias_slope", 0.0),
        "near_bias_keys": case.get("near_bias_keys"),
        # Large enough that attention is far from uniform, so that a wrong position term shows.
        "initializer_range": 0.15,
        "tie_word_embeddings": True,
        "bos_token_id": None,
        "eos_token_id": None,
    }


def random_prompts() -> list[list[int]]:
    """The three prompts, the same for every case."""
    import torch

    generator = torch.Generator().manual_seed(7)
    return [torch.randint(VOCABULARY, (n,), generator=generator).tolist() for n in LENGTHS]


def reference_log_probs(model: object, tokens: list[int]) -> object:
    """Dense float32 log-probabilities ``[len(tokens), vocabulary]``."""
    import torch

    with torch.inference_mode():
        return model(torch.tensor([tokens])).logits[0].float().log_softmax(-1)


def dense(rows: list) -> object:
    """The engine's log-probabilities of every token, one dict a position, as ``[positions, vocabulary]``."""
    import torch

    table = torch.full((len(rows), VOCABULARY), torch.nan)
    for position, row in enumerate(rows):
        for token, entry in row.items():
            table[position, token] = entry.logprob
    assert not table.isnan().any(), "the engine left out a token"
    return table


def sleep_and_wake(model: object) -> None:
    """What sleep mode of level 2 does on a GPU to what attention reads: all is lost, and the model's buffers come back.

    The weights, which would be loaded again, stay as they are.
    """

    saved = {name: buffer.clone() for name, buffer in model.named_buffers()}
    for layer in model.modules():
        for tensor in _tensors_in(getattr(layer, "impl", None)):
            tensor.zero_()
    for name, buffer in model.named_buffers():
        buffer.data.copy_(saved[name])


def _tensors_in(value: object) -> list:
    """All tensors that an object of ours holds, or one that it holds."""
    import torch

    if isinstance(value, torch.Tensor):
        return [value]
    if isinstance(value, (list, tuple)):
        return [tensor for part in value for tensor in _tensors_in(part)]
    if isinstance(value, dict):
        return _tensors_in(list(value.values()))
    ours = type(value).__module__.partition(".")[0] in ("model_registry", "__main__")
    return _tensors_in(vars(value)) if ours and hasattr(value, "__dict__") else []


def worst_error(case: dict, tensor_parallel: int, folder: Path) -> dict:
    """Run one case; returns its worst errors and how much the reference depends on positions."""
    import torch
    from int8_weights import int8_reference, write_int8
    from lora_adapter import write_adapter
    from vllm import LLM, SamplingParams
    from vllm.distributed import cleanup_dist_env_and_memory
    from vllm.lora.request import LoRARequest

    from model_registry.configuration_wavelet import WaveletLlamaConfig
    from model_registry.modeling_wavelet import WaveletLlamaForCausalLM

    torch.manual_seed(11)
    model = WaveletLlamaForCausalLM(WaveletLlamaConfig(**checkpoint_config(case))).float().eval()
    model.save_pretrained(folder)
    full, lora = model, None
    if case.get("int8"):
        write_int8(folder)
        model = int8_reference(model)
    if case.get("adapter"):
        model = write_adapter(model, folder / "adapter")
        lora = LoRARequest("adapter", 1, str(folder / "adapter"))

    engine = LLM(
        model=str(folder),
        skip_tokenizer_init=True,
        dtype=case.get("dtype", "float32"),
        **{"enforce_eager": True} | case.get("engine", {}),
        max_model_len=2048,
        max_num_batched_tokens=CHUNK,
        enable_chunked_prefill=True,
        enable_prefix_caching=True,
        block_size=BLOCK,
        max_logprobs=VOCABULARY,
        tensor_parallel_size=tensor_parallel,
        kv_cache_memory_bytes=256 << 20,
        disable_log_stats=False,
        seed=0,
    )
    if case.get("slept"):
        engine.apply_model(sleep_and_wake)
    prompts = random_prompts()
    scored = engine.generate(
        [{"prompt_token_ids": p} for p in prompts],
        SamplingParams(temperature=0, max_tokens=1, prompt_logprobs=VOCABULARY, logprobs=VOCABULARY, detokenize=False),
        use_tqdm=False,
        lora_request=lora,
    )
    rows = [[*result.prompt_logprobs[1:], result.outputs[0].logprobs[0]] for result in scored]
    continued = prompts[0] + prompts[1][:17]
    [result] = engine.generate(
        [{"prompt_token_ids": continued}],
        SamplingParams(temperature=0, max_tokens=DECODED, logprobs=VOCABULARY, detokenize=False, ignore_eos=True),
        use_tqdm=False,
        lora_request=lora,
    )
    decoded = list(result.outputs[0].token_ids)
    assert len(decoded) == DECODED
    whole = reference_log_probs(model, continued + decoded)  # begins with the first prompt
    expected = whole[len(continued) - 1 : -1]
    decode = dense(result.outputs[0].logprobs) - expected
    first, *others = prompts
    references = [whole[: len(first)], *(reference_log_probs(model, prompt) for prompt in others)]
    prefill = torch.cat([dense(r) for r in rows]) - torch.cat(references)
    counters = {metric.name: metric.value for metric in engine.get_metrics() if hasattr(metric, "value")}

    del engine
    cleanup_dist_env_and_memory()
    gc.collect()
    full_whole = whole if model is full else reference_log_probs(full, continued + decoded)
    changed = whole - full_whole
    without = reference_log_probs(_without_positions(full), first)
    return {
        "case": case,
        "prefill": float(prefill.abs().max()),
        "decode": float(decode.abs().max()),
        "prefill_rms": float(prefill.square().mean().sqrt()),
        "torch_bf16_rms": _bf16_rms(full, prompts) if case.get("dtype") == "bfloat16" else None,
        "cached_tokens": result.num_cached_tokens,
        "position_effect": float((full_whole[: len(first)] - without).abs().max()),
        # How far the model is from the one without its adapter, or before its weights were quantised.
        "change_rms": float(changed[len(continued) - 1 : -1].square().mean().sqrt()),
        "accepted_drafts": counters.get("vllm:spec_decode_num_accepted_tokens", 0),
    }


def _bf16_rms(model: object, prompts: list[list[int]]) -> float:
    """What PyTorch's own dense attention loses when the whole model runs in bfloat16."""
    import torch

    expected = torch.cat([reference_log_probs(model, prompt) for prompt in prompts])
    half = copy.deepcopy(model).bfloat16()
    error = torch.cat([reference_log_probs(half, prompt) for prompt in prompts]) - expected
    return float(error.square().mean().sqrt())


def _without_positions(model: object) -> object:
    """The same weights with no position encoding and no logit scaling: what a broken position term would compute."""
    from model_registry.configuration_wavelet import WaveletLlamaConfig
    from model_registry.modeling_wavelet import WaveletLlamaForCausalLM

    nothing = {"position_encoding": {"type": "nope"}, "logit_scaling": "none", "logit_scaling_length": None}
    nothing |= {"near_bias_slope": 0.0, "near_bias_keys": None}
    config = WaveletLlamaConfig(**model.config.to_dict() | nothing)
    plain = WaveletLlamaForCausalLM(config).float().eval()
    plain.load_state_dict(model.state_dict())
    return plain


def main() -> None:
    """Read the cases, run them one after the other, write a result for each."""
    parser = argparse.ArgumentParser()
    parser.add_argument("cases", type=Path)
    parser.add_argument("results", type=Path)
    parser.add_argument("--tensor-parallel", type=int, default=1)
    options = parser.parse_args()
    if options.tensor_parallel == 1:
        os.environ["VLLM_ENABLE_V1_MULTIPROCESSING"] = "0"  # many engines, one import

    results = []
    for case in json.loads(options.cases.read_text()):
        with tempfile.TemporaryDirectory() as folder, patch.dict(os.environ, case.get("environment", {})):
            results.append(worst_error(case, options.tensor_parallel, Path(folder)))
        options.results.write_text(json.dumps(results, indent=1))


if __name__ == "__main__":
    main()
