#!/usr/bin/env bash
# Everything that needs a GPU, in about ten minutes: parity, compute-sanitizer, the benchmark with its plot, and the
# model in vLLM. Needs torch and triton; what needs more is skipped by name. Results go to benchmarks/results.
#   benchmarks/run_gpu.sh [PYTHON]
set -uo pipefail
cd "$(dirname "$0")/.."
python=${1:-python3}
export PYTHONPATH=$PWD
results=benchmarks/results
mkdir -p "$results"
failed=()

step() {
  local name=$1 limit=$2
  shift 2
  echo "== $name"
  timeout "$limit" "$@" || failed+=("$name (exit $?)")
}
has() { "$python" -c "import $1" 2>/dev/null; }

step "parity on 200 random shapes each of bf16, fp16 and fp8" 150 \
  "$python" benchmarks/parity.py --shapes 200 --output "$results/parity_gpu.json"

if command -v compute-sanitizer >/dev/null; then
  # PyTorch's caching allocator would hide accesses past the end of a tensor.
  step "compute-sanitizer" 120 env PYTORCH_NO_CUDA_MEMORY_CACHING=1 compute-sanitizer --tool memcheck --error-exitcode 9 \
    "$python" benchmarks/parity.py --shapes 2 --longest 300
else
  echo "== compute-sanitizer: skipped, not installed"
fi

step "benchmark" 420 "$python" benchmarks/attention.py --minutes 4 --output "$results/attention_gpu.json"
if has matplotlib; then
  step "plot" 60 "$python" benchmarks/plot_attention.py "$results/attention_gpu.json" "$results/attention_gpu.svg"
else
  echo "== plot: skipped, matplotlib is not installed"
fi

if has vllm; then
  step "the model in vLLM against the dense reference" 300 "$python" benchmarks/serving_parity.py
else
  echo "== the model in vLLM: skipped, vllm is not installed"
fi

if ((${#failed[@]})); then
  printf 'FAILED: %s\n' "${failed[@]}"
  exit 1
fi
echo "all passed"
