#!/usr/bin/env bash
# Builds the CPU image and proves that it serves as deployed: without root, on a read-only root file system, without
# capabilities; that its health check passes; and that it stops on SIGTERM within 10 s with status 0.
#
#   deploy/check-image.sh
#
# Environment, all optional; those in the plural are split at blanks:
#   CONTAINER_TOOL  docker or podman; by default the first that works
#   IMAGE           name of the image (localhost/wave-serve:check)
#   PORT            port on this machine (8000)
#   READY_SECONDS   longest wait until the image is ready (300)
#   BUILD_ARGS      further arguments of `build`, such as a mount with pip's configuration
#   RUN_ARGS        further arguments of `run`
set -euo pipefail

image=${IMAGE:-localhost/wave-serve:check}
port=${PORT:-8000}
patience=${READY_SECONDS:-300}
name=wave-serve-check-$$
url=http://127.0.0.1:$port
read -r -a build_args <<<"${BUILD_ARGS:-}"
read -r -a run_args <<<"${RUN_ARGS:-}"
# HEALTHCHECK exists in Docker's image format only, which is not podman's default.
format=()

fail() {
  echo "FAILED: $*" >&2
  exit 1
}

choose_tool() {
  local candidate
  for candidate in ${CONTAINER_TOOL:-docker podman}; do
    if "$candidate" info >/dev/null 2>&1; then
      tool=$candidate
      [[ $(basename "$tool") != podman ]] || format=(--format docker)
      return
    fi
  done
  fail "neither of these works here: ${CONTAINER_TOOL:-docker podman}"
}

clean_up() {
  local status=$?
  if [[ $status -ne 0 ]]; then "$tool" logs --tail 40 "$name" >&2 2>&1 || true; fi
  "$tool" rm --force "$name" >/dev/null 2>&1 || true
}

seconds_since() {
  awk -v from="$1" -v to="$(date +%s.%N)" 'BEGIN { printf "%.1f", to - from }'
}

running() {
  [[ $("$tool" inspect --format '{{.State.Running}}' "$name") == true ]]
}

healthy() {
  case $(basename "$tool") in
    podman) "$tool" healthcheck run "$name" >/dev/null 2>&1 ;;
    *) [[ $("$tool" inspect --format '{{.State.Health.Status}}' "$name") == healthy ]] ;;
  esac
}

wait_for() {
  local what=$1 from
  shift
  from=$(date +%s.%N)
  until "$@"; do
    running || fail "the container ended before it was $what"
    awk -v passed="$(seconds_since "$from")" -v most="$patience" 'BEGIN { exit passed > most }' ||
      fail "not $what within $patience s"
    sleep 0.5
  done
}

ready() {
  curl --silent --fail --noproxy '*' --output /dev/null --max-time 5 "$url/ready"
}

check_build() {
  local from bytes
  from=$(date +%s.%N)
  "$tool" build "${format[@]}" "${build_args[@]}" --target cpu --tag "$image" "$(dirname "$0")/.."
  bytes=$("$tool" image inspect --format '{{.Size}}' "$image")
  echo "OK built in $(seconds_since "$from") s, $((bytes / 1000000)) MB"
}

check_start() {
  local from
  from=$(date +%s.%N)
  # noexec as with Docker's own defaults for --tmpfs: nothing may be compiled at run time.
  "$tool" run --detach --name "$name" --publish "127.0.0.1:$port:8000" --read-only \
    --tmpfs /tmp:rw,noexec,nosuid,nodev --cap-drop ALL --security-opt no-new-privileges \
    "${run_args[@]}" "$image" >/dev/null
  wait_for ready ready
  echo "OK ready after $(seconds_since "$from") s"
}

check_confinement() {
  local user
  user=$("$tool" exec "$name" id -u)
  [[ $user != 0 ]] || fail "the container runs as root"
  "$tool" exec "$name" grep -qE '^[^ ]+ / [^ ]+ ro[, ]' /proc/mounts || fail "the root file system can be written"
  "$tool" exec "$name" grep -qE '^CapEff:\s+0+$' /proc/self/status || fail "the container has capabilities"
  echo "OK runs as user $user without capabilities on a read-only root"
}

check_completion() {
  local models model answer
  models=$(curl --silent --show-error --fail --noproxy '*' "$url/v1/models")
  model=$(sed -E 's/.*"data":\[\{[^}]*"id":"([^"]+)".*/\1/' <<<"$models")
  answer=$(curl --silent --show-error --fail --noproxy '*' --max-time 120 "$url/v1/completions" \
    --header 'Content-Type: application/json' \
    --data "{\"model\":\"$model\",\"prompt\":\"def fibonacci(n):\",\"max_tokens\":24,\"temperature\":0}")
  [[ $answer == *'"text":"'?* && $answer == *'"completion_tokens":'* ]] || fail "no completion in $answer"
  echo "OK $model answers: ${answer:0:240}"
}

check_stop() {
  local from took status
  from=$(date +%s.%N)
  "$tool" stop -t 10 "$name" >/dev/null
  took=$(seconds_since "$from")
  status=$("$tool" inspect --format '{{.State.ExitCode}}' "$name")
  [[ $status == 0 ]] || fail "status $status after SIGTERM and $took s"
  awk -v took="$took" 'BEGIN { exit took >= 10 }' || fail "took $took s to stop"
  echo "OK stopped in $took s with status 0"
}

choose_tool
trap clean_up EXIT
check_build
check_start
check_confinement
check_completion
wait_for healthy healthy
echo "OK healthy"
check_stop
