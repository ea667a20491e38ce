"""Trains the bundled model, and twins of it with other positions, on one GPU within a given number of seconds.

    python benchmarks/bundled/train.py --tokenizer DIR/tokenizer.json --out runs/bundled --seconds 90

Rows of 512 tokens: code, and tasks (``model_registry.training.tasks``) of which only the answers count. Writes
``model.pt`` (bfloat16, Hugging Face's names), ``config.json``, ``log.jsonl`` and ``facts.json``.
"""

import argparse
import json
import sys
import time
from pathlib import Path

import corpus
from state import SHARED
from supply import TaskSupply, say

from model_registry.training.tasks.rows import TaskRows

CONFIG = {
    "vocab_size": 4096,
    "hidden_size": 384,
    "intermediate_size": 1024,
    "num_hidden_layers": 6,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "head_dim": 64,
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--tokenizer", required=True)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--seconds", type=float, default=90, help="of training, compiling not counted")
    parser.add_argument("--twins", nargs="*", default=[], help="positions to train as many steps of as the wavelet model")
    parser.add_argument("--twin-seconds", type=float, default=0, help="no twin begins later than this after the start")
    parser.add_argument("--length", type=int, default=512)
    parser.add_argument("--rows", type=int, default=64)
    parser.add_argument("--task-share", type=float, default=0.4)
    parser.add_argument("--rate", type=float, default=4e-3)
    parser.add_argument("--log-n", type=int, default=16, help="logit_scaling_length")
    parser.add_argument("--answer-weight", type=float, default=2.0)
    parser.add_argument("--processes", type=int, default=12)
    parser.add_argument("--files", type=int, help="read no more files than this")
    parser.add_argument("--set", nargs="*", default=[], metavar="FIELD=NUMBER", help="sizes of the model")
    parser.add_argument("--device", default="cuda")
    parser.add_argument("--no-compile", action="store_true")
    parser.add_argument("--far", nargs="*", default=["1:20", "4:20", "16:20", "64:20"], metavar="MULTIPLE:TRIALS")
    parser.add_argument("--eval-batches", type=int, default=4)
    parser.add_argument("--twin-steps", type=int, help="instead of as many as the wavelet model's")
    parser.add_argument("--cache", type=Path, help="compiled code of an earlier run")
    parser.add_argument("--save-cache", action="store_true")
    parser.add_argument("--eval-every", type=int, default=250)
    options = parser.parse_args()
    options.began = time.monotonic()
    SHARED["length"] = options.length
    options.out.mkdir(parents=True, exist_ok=True)
    config = CONFIG | {name: int(value) for name, value in (each.split("=") for each in options.set)}

    code, prose, facts = corpus.corpus(options.tokenizer, options.processes, options.files)
    held_out = corpus.held_out(options.tokenizer, 512 * 64 + 1)
    say(options, f"corpus: {facts['files']} files, {len(code):,} tokens of code, {len(prose):,} of prose")
    from tokenizers import Tokenizer

    streams = [code, code, code, prose] if len(prose) > 2 * SHARED["length"] else [code]
    SHARED["rows"] = TaskRows(Tokenizer.from_file(options.tokenizer), streams, 0)
    supply = TaskSupply(options.processes, 2**16)
    import training

    facts |= {"config": config, "options": {k: str(v) for k, v in vars(options).items() if k != "began"}}
    (options.out / "facts.json").write_text(json.dumps(facts, indent=1))
    data = training.Data(code, held_out, supply, options)
    say(options, "torch is there")
    training.run(config, data, options)
    supply.end()
    say(options, f"end; {supply.made:,} rows of tasks were made")


if __name__ == "__main__":
    main()
    sys.stdout.flush()
