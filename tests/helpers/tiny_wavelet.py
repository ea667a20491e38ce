"""A random wavelet checkpoint in float32 with a tokenizer: real to vLLM, and small enough to start at once."""

from pathlib import Path

TRAIN_LENGTH = 64
VOCABULARY = 400


def build(directory: Path, text: str) -> Path:
    """The checkpoint; its byte-level tokenizer is made from `text`."""
    import torch
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
    from transformers import PreTrainedTokenizerFast

    from model_registry.configuration_wavelet import WaveletLlamaConfig
    from model_registry.modeling_wavelet import WaveletLlamaForCausalLM

    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=VOCABULARY,
        special_tokens=["<|end|>"],
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    tokenizer.train_from_iterator([text], trainer)
    PreTrainedTokenizerFast(tokenizer_object=tokenizer, eos_token="<|end|>").save_pretrained(directory)
    config = WaveletLlamaConfig(
        vocab_size=VOCABULARY,
        hidden_size=64,
        intermediate_size=96,
        num_hidden_layers=2,
        num_attention_heads=4,
        num_key_value_heads=2,
        head_dim=32,
        max_position_embeddings=2048,
        position_encoding={
            "type": "wavelet",
            "wavelet": "ricker",
            "scale_exponents": [0, 1, 2, 3],
            "shifts": [0, 1, 2, 3, 4, 5, 6, 7],
        },
        train_length=TRAIN_LENGTH,
        logit_scaling="log_n",
        # Large enough that attention is far from uniform, so that a wrong loss shows.
        initializer_range=0.15,
        bos_token_id=None,
        eos_token_id=0,
    )
    torch.manual_seed(3)
    WaveletLlamaForCausalLM(config).float().save_pretrained(directory)
    return directory
