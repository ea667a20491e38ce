#!/usr/bin/env bash
# Runs the gateway and the engine that the chart renders, with `podman play kube` on this machine's network, asks them
# for a completion, and says how long the first token took from the start on.
#
#   deploy/check-chart.sh
#
# Needs podman, the image (deploy/check-image.sh builds it) and a Python with the extra `dev`. Ports 8000 and 8001 have to
# be free. Environment, all optional:
#   IMAGE           REPOSITORY:TAG of the image (localhost/wave-serve:check)
#   PYTHON          that Python (.venv/bin/python)
#   FIRST_TOKEN     longest time to the first token, seconds (180)
#   VALUES          a file with further values
set -euo pipefail

here=$(cd "$(dirname "$0")" && pwd)
image=${IMAGE:-localhost/wave-serve:check}
python=${PYTHON:-$here/../.venv/bin/python}
patience=${FIRST_TOKEN:-180}
url=http://127.0.0.1:8000
scratch=$(mktemp --directory)
question='{"model": "wave-demo", "prompt": "def fibonacci(n):", "max_tokens": 16, "temperature": 0, "stream": true}'

fail() {
  echo "FAILED: $*" >&2
  for pod in $(podman pod ls --format '{{.Name}}' --filter name=demo-wave-serve); do
    podman pod logs --tail 20 "$pod" >&2 2>&1 || true
  done
  exit 1
}

clean_up() {
  podman play kube --down "$scratch/chart.yaml" >/dev/null 2>&1 || true
  rm -rf "$scratch"
}

passed() {
  awk -v from="$1" -v to="$(date +%s.%N)" 'BEGIN { printf "%.1f", to - from }'
}

container() {
  podman ps --format '{{.Names}}' --filter "name=demo-wave-serve-$1-.*-$1\$"
}

printf 'image: {repository: "%s", tag: "%s"}\n' "${image%:*}" "${image##*:}" >"$scratch/image.yaml"
"$python" "$here/chart.py" podman "$here/podman-values.yaml" "$scratch/image.yaml" ${VALUES:+"$VALUES"} >"$scratch/chart.yaml"
trap clean_up EXIT

start=$(date +%s.%N)
podman play kube "$scratch/chart.yaml" >/dev/null
until curl --silent --fail --no-buffer --noproxy '*' --max-time 60 --header 'Content-Type: application/json' \
  --data "$question" "$url/v1/completions" 2>/dev/null | head --lines 1 >"$scratch/first" && grep --quiet '"text"' "$scratch/first"; do
  awk -v passed="$(passed "$start")" -v most="$patience" 'BEGIN { exit passed > most }' || fail "no token within $patience s"
  sleep 0.5
done
echo "OK first token $(passed "$start") s after podman play kube"

curl --silent --fail --noproxy '*' "$url/ready" >/dev/null || fail "it is not ready"
curl --silent --fail --noproxy '*' --header 'Content-Type: application/json' --data "${question/true/false}" \
  "$url/v1/completions" | "$python" -c 'import json, sys; print("OK it says", repr(json.load(sys.stdin)["choices"][0]["text"]))'

for part in gateway engine; do
  read -r user locked <<<"$(podman inspect --format '{{.Config.User}} {{.HostConfig.ReadonlyRootfs}}' "$(container $part)")"
  [[ $user == 2000* && $locked == true ]] || fail "$part runs as $user, read-only: $locked"
done
echo "OK without root, on read-only root file systems"
