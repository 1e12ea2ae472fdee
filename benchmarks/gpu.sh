#!/usr/bin/env bash
# Measures speed on a machine with one or several GPUs:
#
#   bash benchmarks/gpu.sh [PART ...] [-- FLAG ...]
#
#   step       training step of both streams against PyTorch, and its share of the product's limit
#   encoder    trajectory encoder against PyTorch
#   compile    first step of a new process, with nothing compiled and then again
#   costs      FLOPs, bytes and time of each part in bfloat16, and the share of the limits reached; costs-float32
#   attention  attention against its alternatives in bfloat16; attention-float32
#   input      share of training time spent waiting for input, in bfloat16; input-float32
#   scaling    training step on 1, 2, 4 ... GPUs, if there are several
#
# Without PART the script runs all of them, in this order. Each is a command that ends within MINUTES (9). FLAGs, such
# as --rounds 3 or --config FILE, go to all of them. Reports go to benchmarks/results, or to the folder OUT, with an
# archive of all reports and logs so far, written after each part. PYTHON is the interpreter (python3). BENCHMARK_COMMIT
# names the commit if git cannot.
#
# If the machine can run `pip install -e ".[torch]" "jax[cuda13]"`, it needs nothing else. For a machine without network
# that has jax for its GPU, flax, optax, orbax, einops, torch, OpenCV, SciPy, scikit-learn, Matplotlib and tqdm, fetch
# the other wheels (5 MB) elsewhere into the ignored folder wheels/ of this checkout. For Python 3.12:
#   pip download --no-deps --only-binary=:all: --python-version 3.12 --implementation cp \
#     --platform manylinux_2_28_x86_64 --platform manylinux_2_17_x86_64 --platform manylinux2014_x86_64 -d wheels \
#     grain "array-record>=0.8" portpicker ml-collections tensorboardX openpyxl et-xmlfile
set -uo pipefail
cd "$(dirname "$0")/.."
python="${PYTHON:-python3}"
out="${OUT:-benchmarks/results}"
limit="${MINUTES:-9}"
all=(step encoder compile costs attention input costs-float32 attention-float32 input-float32 scaling)
parts=()
while [ $# -gt 0 ] && [ "$1" != -- ]; do
  case " ${all[*]} " in *" $1 "*) parts+=("$1") ;; *) echo "no part $1; known: ${all[*]}" >&2; exit 2 ;; esac
  shift
done
flags=("${@:2}")
[ ${#parts[@]} -gt 0 ] || parts=("${all[@]}")

if [ -d wheels ]; then
  "$python" -m pip install --quiet --no-index --no-deps --no-compile --upgrade --target build/site wheels/*.whl || exit 1
  export PYTHONPATH="$PWD/build/site${PYTHONPATH:+:$PYTHONPATH}"
fi
export PYTHONUNBUFFERED=1
export JAX_COMPILATION_CACHE_DIR="${JAX_COMPILATION_CACHE_DIR:-$PWD/build/compiled}"  # shared by all commands
# JAX takes its share of the card at once and leaves the rest to PyTorch. It fails if the old name is set, too.
unset XLA_PYTHON_CLIENT_MEM_FRACTION
export XLA_CLIENT_MEM_FRACTION=.5
gpus="$(nvidia-smi --list-gpus 2>/dev/null | wc -l)"
nvidia-smi --query-gpu=name,driver_version,memory.total --format=csv 2>/dev/null || echo "no NVIDIA GPU"
logs="$(mktemp -d)"
failed=0

measure() {
  echo "== $part: $*"
  timeout --kill-after=20 "${limit}m" "$python" -m "$@" --out "$out" "${flags[@]}" 2>&1 | tee "$logs/$part.log" \
    || { echo "failed or out of time: $part"; failed=1; }
  if [ -n "${OUT:-}" ]; then
    tar -czf "$logs.tar.gz" --exclude='*.tar.gz' -C "$out" . -C "$logs" . && mv "$logs.tar.gz" "$out/reports.tar.gz"
  fi
}

for part in "${parts[@]}"; do
  precision=bfloat16
  case "$part" in *-float32) precision=float32 ;; esac
  case "$part" in
    # The ways that docs/performance.md sets goals for come first: a way not started after 5 minutes is left out.
    step) measure benchmarks.train_step --parts step --minutes 5 --ways jax-bfloat16 jax-float32 torch-eager \
      torch-bfloat16 torch-compile-bfloat16 torch-channels-last torch-compile jax-float32-highest ;;
    encoder) measure benchmarks.train_step --parts encoder ;;
    # Two processes share the card here, so the waiting one must not hold its memory.
    compile) XLA_PYTHON_CLIENT_PREALLOCATE=false measure benchmarks.train_step --parts compile \
      --ways jax-float32 jax-bfloat16 ;;
    # Each forward pass is compiled a second time for its costs, which is quick if the cache keeps every program.
    costs*) JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS=0 measure benchmarks.costs --precision "$precision" ;;
    attention*) measure benchmarks.attention --precision "$precision" ;;
    input*) measure benchmarks.input --caches --precision "$precision" --clips 48 --threads "$(nproc)" ;;
    scaling)
      if [ "$gpus" -gt 1 ]; then measure benchmarks.scaling; else echo "== scaling: left out, there is one device"; fi ;;
  esac
done
exit "$failed"
