"""The models that ``extrapolation.py`` measures: one architecture, data order, seed and budget, many positions.

    python -m benchmarks.quality.train_family --out runs/family

Trains each member in turn with ``wave-serve train`` (about four minutes each on one core); a finished one is kept.
``variants`` are the rows of the table: a member, and what is changed in its config at inference, without training.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Sequence

STEPS = 350
TRAIN_LENGTH = 128
HEAD_DIM = 64
ROPE_THETA = 10000.0
FACTOR = 16
"""What the rope scalings stretch by: the longest length of the table over the training length."""

SHARED = {
    "train_length": TRAIN_LENGTH,
    "batch_sequences": 32,
    "hidden_size": 192,
    "num_layers": 4,
    "num_heads": 3,
    "num_kv_heads": 1,
    "intermediate_size": 512,
    "vocab_size": 1024,
    "retrieval_fraction": 0.2,
    "optimizer": "muon",
    "learning_rate": 4e-3,
    "warmup_steps": 100,
    "eval_every": 50,
    "eval_sequences": 64,
}
MEMBERS: dict[str, dict[str, Any]] = {
    "ricker": {"position": "wavelet"},
    "rope": {"position": "rope"},
    "alibi": {"position": "alibi"},
    "nope": {"position": "nope"},
    "gaussian": {"position": "wavelet", "wavelet": "gaussian"},
    "haar": {"position": "wavelet", "wavelet": "haar"},
    "morlet": {"position": "wavelet", "wavelet": "morlet"},
    "db4": {"position": "wavelet", "wavelet": "pywt:db4"},
    "ricker-16x4": {
        "position": "wavelet",
        "scale_exponents": ",".join(map(str, range(16))),
        "shifts": "0,1,2,3",
    },
    "ricker-log32": {"position": "wavelet", "logit_scaling_length": 32},
    "ricker-log16": {"position": "wavelet", "logit_scaling_length": 16},
    "ricker-mixed": {"position": "wavelet", "row_divisors": "1,2,4"},
    # Other weights and another order, the same held-out files.
    "ricker-seed1": {"position": "wavelet", "seed": 1},
    "ricker-log32-seed1": {"position": "wavelet", "logit_scaling_length": 32, "seed": 1},
    "ricker-log16-seed1": {"position": "wavelet", "logit_scaling_length": 16, "seed": 1},
    "alibi-log16": {"position": "alibi", "logit_scaling_length": 16},
    "alibi-seed1": {"position": "alibi", "seed": 1},
}


@dataclass(frozen=True)
class Variant:
    """A row of the table: a member's weights under a changed config."""

    name: str
    member: str
    config: dict[str, Any] = field(default_factory=dict)


def _rope(**parameters: Any) -> dict[str, Any]:
    return {"rope_parameters": {"rope_theta": ROPE_THETA} | parameters}


def variants() -> list[Variant]:
    """Every member plain and with ``log_n``, and rope with the scalings that Transformers and vLLM have."""
    # A member that was trained with the factor has no row without it.
    plain = [Variant(name, name) for name, member in MEMBERS.items() if "logit_scaling_length" not in member]
    scaled = [Variant(f"{name} + log_n", name, {"logit_scaling": "log_n"}) for name in MEMBERS]
    # NTK-aware scaling is a larger base: theta * factor^(d / (d - 2)).
    theta = ROPE_THETA * FACTOR ** (HEAD_DIM / (HEAD_DIM - 2))
    yarn = _rope(rope_type="yarn", factor=float(FACTOR), original_max_position_embeddings=TRAIN_LENGTH)
    return [
        *plain,
        *scaled,
        Variant("rope + linear", "rope", _rope(rope_type="linear", factor=float(FACTOR))),
        Variant("rope + NTK", "rope", _rope(rope_type="default", rope_theta=theta)),
        Variant("rope + YaRN", "rope", yarn),
    ]


def write_variant(variant: Variant, models: Path, folder: Path) -> Path:
    """A checkpoint directory of that name: the member's files by link, its config with the variant's changes."""
    target = folder / variant.name.replace(" + ", "-")
    source = (models / variant.member / "model").resolve()
    target.mkdir(parents=True)
    for file in source.iterdir():
        if file.name != "config.json":
            (target / file.name).symlink_to(file)
    config = json.loads((source / "config.json").read_text())
    config |= {"logit_scaling": "none"} | variant.config
    (target / "config.json").write_text(json.dumps(config, indent=2))
    return target


def train(out: Path, names: Sequence[str], steps: int, changes: Sequence[str] = ()) -> None:
    """Train every named member that is not there yet.

    Args:
        out: a run's directory for each member.
        names: of the members.
        steps: of each.
        changes: further options of ``wave-serve train``, the same for all: other text, another recipe.
    """
    for name in names:
        run = out / name
        log = run / "log.jsonl"
        if log.is_file() and json.loads(log.read_text().splitlines()[-1])["step"] == steps:
            continue
        sets = [part for key, value in (SHARED | MEMBERS[name]).items() for part in ("--set", f"{key}={value}")]
        resume = ["--resume"] if (run / "checkpoint.pt").is_file() else []
        command = [sys.executable, "-m", "model_registry.training", "--out", str(run), "--steps", str(steps)]
        subprocess.run([*command, *resume, *sets, *changes], check=True)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--only", nargs="+", choices=MEMBERS, default=list(MEMBERS), help="members to train now")
    parser.add_argument("--steps", type=int, default=STEPS)
    parser.add_argument("--corpus", type=Path, help="train on the .txt files below it, such as prose.py writes")
    parser.add_argument("--set", action="append", default=[], metavar="FIELD=VALUE", help="change the shared recipe")
    options = parser.parse_args()
    changed = [part for change in options.set for part in ("--set", change)]
    text = ["--corpus", str(options.corpus), "--pattern", "*.txt"] if options.corpus else []
    train(options.out, options.only, options.steps, [*changed, *text])
