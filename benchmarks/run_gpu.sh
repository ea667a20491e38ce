#!/usr/bin/env bash
# Everything that needs a GPU, within eight minutes: parity, the benchmark with its plot, the model in vLLM (speed beside
# its rotary twin, and parity), a replayed graph and compute-sanitizer. Needs torch and triton; what needs more is skipped
# by name.
#   benchmarks/run_gpu.sh [--rehearse] [--only STEPS] [PYTHON]
# --rehearse runs what it can of every step without a GPU, on tiny shapes under Triton's interpreter.
# --only runs the steps whose names have STEPS in them, as they are printed; it may be a regular expression.
# Results and logs go to benchmarks/results/gpu, or to $RESULTS. Each step has a limit of its own, and together they
# have the eight minutes: what matters most comes first. Exits 1 if a step fails or does not get its turn.
set -uo pipefail
cd "$(dirname "$0")/.." || exit
rehearse='' only=''
while [[ ${1:-} == --* ]]; do
  case $1 in
    --rehearse) rehearse=1; shift ;;
    --only) only=${2:?--only needs the names of steps}; shift 2 ;;
    *) echo "run_gpu.sh: $1 is no option" >&2; exit 2 ;;
  esac
done
python=${1:-python3}
export PYTHONPATH=$PWD${PYTHONPATH:+:$PYTHONPATH} PYTHONWARNINGS=ignore
results=${RESULTS:-benchmarks/results/gpu}
mkdir -p "$results"
minutes=8
failed=() skipped=()

# step NAME SECONDS COMMAND...: run it within its own limit and within what is left of the eight minutes.
step() {
  local name=$1 limit=$2 left=$((minutes * 60 - SECONDS)) started=$SECONDS code
  shift 2
  [[ $name =~ $only ]] || return
  if ((left < 10)); then
    failed+=("$name: no time left")
    return
  fi
  ((limit < left)) || limit=$left
  echo "== $name (at most $limit s)"
  timeout --kill-after=5 "$limit" "$@" 2>&1 | tee "$results/${name//[ ,]/_}.log"
  code=${PIPESTATUS[0]}
  case $code in
    0) echo "-- passed in $((SECONDS - started)) s" ;;
    124 | 137) failed+=("$name: not done after $limit s") ;;
    *) failed+=("$name: exit $code, see $results/${name//[ ,]/_}.log") ;;
  esac
}
skip() {
  [[ $1 =~ $only ]] || return
  echo "== $1: skipped, $2"
  skipped+=("$1: $2")
}
has() { "$python" -c "import $1" 2>/dev/null; }

for module in torch triton; do
  has "$module" || { echo "run_gpu.sh: $python cannot import $module" >&2; exit 2; }
done
if [[ $rehearse ]]; then
  minutes=60
  shapes=(--shapes 2 --longest 90) few=(--shapes 1 --longest 40) timed=(--smoke) rates=(--smoke)
  kernels=(env TRITON_INTERPRET=1)
else
  "$python" -c 'import sys, torch; sys.exit(not torch.cuda.is_available())' \
    || { echo "run_gpu.sh: torch sees no GPU; --rehearse needs none" >&2; exit 2; }
  workers=$(nproc)
  ((workers < 12)) || workers=12
  shapes=(--shapes 64 --workers "$workers") few=(--shapes 2 --longest 300) timed=(--quick --minutes 1) rates=()
  kernels=()
  nvidia-smi --query-gpu=name,driver_version,clocks.sm,power.limit --format=csv 2>/dev/null | tee "$results/nvidia-smi.csv"
fi

step "parity" 110 "${kernels[@]}" "$python" -m benchmarks.attention.parity "${shapes[@]}" --output "$results/parity.json"

step "benchmark" 100 "${kernels[@]}" "$python" -m benchmarks.attention.gpu "${timed[@]}" --output "$results/attention.json"
if has matplotlib; then
  step "plot" 30 "$python" -m benchmarks.attention.plot_gpu "$results/attention.json" "$results/attention.svg"
else
  skip "plot" "matplotlib is not installed"
fi

if has vllm; then
  # The serving rates are those of prompts in two parts: WAVELET_GPU_PREFILL=fused takes those of one kernel.
  # vLLM finds the plugin by its entry point, which only an installed package has.
  plugin=$(mktemp -d)
  trap 'rm -rf "$plugin"' EXIT
  mkdir "$plugin/wave_serve_benchmark-0.dist-info"
  printf 'Metadata-Version: 2.1\nName: wave-serve-benchmark\nVersion: 0\n' > "$plugin/wave_serve_benchmark-0.dist-info/METADATA"
  printf '[vllm.general_plugins]\nwavelet = model_registry:register\n' > "$plugin/wave_serve_benchmark-0.dist-info/entry_points.txt"
  export PYTHONPATH=$PYTHONPATH:$plugin
  step "vLLM bench serve" 170 env WAVELET_GPU_PREFILL="${WAVELET_GPU_PREFILL:-split}" "$python" -m benchmarks.serving.gpu_rates "${rates[@]}" --output "$results/serving.json"
  step "vLLM parity" 170 "$python" -m benchmarks.serving.parity ${rehearse:+--rehearse} --output "$results/serving_parity.json"
else
  skip "vLLM parity, vLLM bench serve" "vllm is not installed"
fi

if [[ ! $rehearse ]]; then
  step "a replayed graph" 60 "$python" -m benchmarks.attention.graph_replay
fi

sanitizer=$(command -v compute-sanitizer || command -v /usr/local/cuda/bin/compute-sanitizer)
if [[ $rehearse ]]; then
  step "the shapes for compute-sanitizer" 300 "${kernels[@]}" "$python" -m benchmarks.attention.parity "${few[@]}"
elif [[ $sanitizer ]]; then
  # PyTorch's caching allocator would hide accesses past the end of a tensor.
  step "compute-sanitizer" 90 env PYTORCH_NO_CUDA_MEMORY_CACHING=1 "$sanitizer" --tool memcheck --error-exitcode 9 \
    "$python" -m benchmarks.attention.parity "${few[@]}"
else
  skip "compute-sanitizer" "not installed"
fi

echo "== done after $SECONDS s, results in $results"
if ((${#skipped[@]})); then printf 'SKIPPED: %s\n' "${skipped[@]}"; fi
if ((${#failed[@]})); then
  printf 'FAILED: %s\n' "${failed[@]}"
  exit 1
fi
echo "all that ran passed"
