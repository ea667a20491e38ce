"""The plain model that trains the bundled checkpoint is the Hugging Face model."""

from __future__ import annotations

import pytest
import torch

from benchmarks.quality.bundled.model import Model, geometry, position_tables, yarn
from model_registry.configuration_wavelet import WaveletLlamaConfig
from model_registry.modeling_wavelet import WaveletLlamaForCausalLM
from model_registry.positions.wavelet import position_table

SIZES = {
    "vocab_size": 512,
    "hidden_size": 96,
    "intermediate_size": 128,
    "num_hidden_layers": 3,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "head_dim": 64,
}
WAVELET = {"wavelet": "ricker", "scale_exponents": list(range(8)), "shifts": list(range(8))}
IDS = torch.randint(2, 512, (1, 97), generator=torch.Generator().manual_seed(5))
# Two float32 evaluations in another order of operations.
TOLERANCE = 1e-4


def both(position: str, rope_parameters: dict | None = None):
    encoding = {"type": position} | (WAVELET if position == "wavelet" else {})
    log_n = 16 if position == "wavelet" else None
    scaling = {"logit_scaling": "log_n", "logit_scaling_length": log_n} if log_n else {}
    rope = {"rope_parameters": rope_parameters} if rope_parameters else {}
    config = WaveletLlamaConfig(
        **SIZES, **scaling, **rope, position_encoding=encoding, train_length=32, tie_word_embeddings=True,
        max_position_embeddings=512, bos_token_id=0, eos_token_id=0, pad_token_id=1,
    )  # fmt: skip
    torch.manual_seed(2)
    plain = Model(SIZES)
    with torch.no_grad():
        for parameter in plain.parameters():
            if parameter.dim() == 2:
                parameter.mul_(4)
    model = WaveletLlamaForCausalLM(config).eval()
    model.load_state_dict(plain.state_dict() | {"lm_head.weight": plain.model.embed_tokens.weight})
    tables = position_tables(position, position_table(**WAVELET), 4, log_n, 64)
    return model, plain, tables


def logits(plain, tables, ids, documents):
    x = plain.hidden(ids, geometry(tables, documents, torch.float32))
    return x @ plain.model.embed_tokens.weight.T


@torch.no_grad()
@pytest.mark.parametrize("position", ["wavelet", "rope", "alibi", "nope"])
def test_its_logits_are_those_of_the_hugging_face_model(position):
    model, plain, tables = both(position)
    expected = model(IDS).logits
    assert expected.std() > 0.1
    one = torch.zeros_like(IDS)
    assert (logits(plain, tables, IDS, one) - expected).abs().max() < TOLERANCE
    # Packed behind another document, a document is what it is alone.
    packed = one.clone()
    packed[:, 40:] = 1
    found = logits(plain, tables, IDS, packed)[:, 40:]
    assert (found - model(IDS[:, 40:]).logits).abs().max() < TOLERANCE


@torch.no_grad()
def test_long_documents_are_read_in_chunks(monkeypatch):
    model, plain, tables = both("wavelet")
    monkeypatch.setattr(torch, "get_autocast_dtype", lambda _: torch.float32)
    found = plain.long_logits(IDS[0], tables, 5, chunk=40)
    assert (found - model(IDS).logits[0, -5:]).abs().max() < TOLERANCE


@torch.no_grad()
def test_yarn_is_that_of_transformers():
    rope = {"rope_type": "yarn", "rope_theta": 1e4, "factor": 16.0, "original_max_position_embeddings": 32}
    model, plain, tables = both("rope", rope)
    found = logits(plain, yarn(tables, 16.0, 32), IDS, torch.zeros_like(IDS))
    assert (found - model(IDS).logits).abs().max() < TOLERANCE
