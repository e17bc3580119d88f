#!/usr/bin/env bash
# Runs the GPU tests and the GPU benchmarks, within 8 minutes on one GPU: bash benchmarks/gpu.sh
set -uo pipefail
cd "$(dirname "$0")/.."
export CUBLAS_WORKSPACE_CONFIG=:4096:8 PYTHONUNBUFFERED=1
python=${PYTHON:-python3}

"$python" -m pip install --quiet --no-deps --no-build-isolation -e .
nvidia-smi --query-gpu=name,driver_version --format=csv,noheader
"$python" -c "import torch; print('torch', torch.__version__)"
"$python" -m pytest -q -m gpu tests/gpu tests/runs tests/data -n 12 --dist worksteal -p no:cacheprovider --tb=line
tests=$?
"$python" -m pytest -q -s -m gpu benchmarks -p no:cacheprovider --benchmark-disable-gc --tb=line
exit $((tests + $?))
