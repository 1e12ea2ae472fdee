#!/usr/bin/env bash
# All measurements of speed on a machine with GPUs, in one call: bash benchmarks/gpu.sh [minutes a command]
# Reports go to $OUT if it is set, else to benchmarks/results.
#
# Where `pip install -e ".[torch]" "jax[cuda12]"` can be run, that is all it needs. On a machine without network that has
# jax, flax, optax, orbax and torch, put the wheels of what it lacks into the ignored folder wheels/ first, such as
#   pip download --no-deps --only-binary :all: --python-version 3.12 --platform manylinux_2_28_x86_64 -d wheels \
#       grain array-record cloudpickle ml-collections einops opencv-python-headless
set -uo pipefail
cd "$(dirname "$0")/.."
out="${OUT:-benchmarks/results}"
limit="${1:-9}m"
if [ -d wheels ]; then python -m pip install --quiet --no-index --no-deps wheels/*.whl || exit 1; fi

export XLA_PYTHON_CLIENT_PREALLOCATE=false  # PyTorch uses the same memory
nvidia-smi --query-gpu=name,driver_version,memory.total --format=csv
failed=0
measure() {
  echo "== $*"
  timeout "$limit" python -m "$@" --out "$out" || { echo "failed or out of time: $*"; failed=1; }
}
measure benchmarks.train_step --parts encoder step compile
measure benchmarks.attention
measure benchmarks.costs --side 8192 --megabytes 1024
measure benchmarks.scaling
exit "$failed"
