#!/usr/bin/env bash
# Runs everything that needs a CUDA device: tests, training, export, parity and latency.
#
#     benchmarks/gpu.sh [DATA]
#
# DATA is a folder of photographs with train/ and val/; the default is the dataset `digits`. Results are written to
# benchmarks/results/gpu/. Installs its requirements on the first call, including CUDA's libraries for onnxruntime.
set -euo pipefail
cd "$(dirname "$0")/.."
data=${1:-digits}
out=benchmarks/results/gpu
make install
bin=.venv/bin
$bin/python -m pip install --quiet --disable-pip-version-check "onnxruntime-gpu[cuda,cudnn]"
mkdir -p "$out"
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT

nvidia-smi --query-gpu=name,driver_version,memory.total --format=csv | tee "$out/device.csv"
$bin/python -m pytest -m gpu -v | tee "$out/tests.txt"

size=(); [ "$data" = digits ] && size=(--image-size 64)
for strategy in linear partial:2 full; do
  run="$work/${strategy/:/}"
  $bin/zoo train --data "$data" --backbone efficientnet_lite0 --strategy "$strategy" --device cuda "${size[@]}" \
    --out "$run" --json | tee "$out/train-${strategy/:/}.json"
done
run=$work/partial2
for precision in fp32 fp16 int8; do
  # a precision that loses too much accuracy is not exported; that is a result too
  if $bin/zoo export "$run" --precision "$precision" --device cuda --out "$run/$precision.onnx" --json \
    > "$out/export-$precision.json" 2> "$out/export-$precision.txt"; then
    $bin/zoo verify "$run/$precision.onnx" --device cuda
  fi
done
files=(); for precision in fp32 fp16; do [ -f "$run/$precision.onnx" ] && files+=("$run/$precision.onnx"); done
$bin/zoo bench "$run" "${files[@]}" --device cuda --batch-size 1 --batch-size 8 --batch-size 32 \
  --batch-size 128 --force --out "$out/latency.json" 2>&1 | tee "$out/latency.txt"
$bin/zoo bench "$run" "$run"/fp32.onnx --device cuda --with-preprocess --force --out "$out/latency-photographs.json"
$bin/zoo bench "$run" "$run"/fp32.onnx --device cuda --batch-size 1 --concurrent 4 --force --out "$out/latency-concurrent.json"
echo "results are in $out"
