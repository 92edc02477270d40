#!/usr/bin/env bash
# Measures accuracy and time of the default settings.
#
#     benchmarks/foundation.sh DATA OUT
#
# DATA is a folder with hymenoptera/{train,val} and sign_digits/. The runs are written to OUT, and compared by
# `zoo compare` at the end.
set -euo pipefail
data=$1 out=$2
train() { zoo train --backbone efficientnet_lite0 --out "$out/$1" "${@:2}" >/dev/null; }
for seed in 0 1 2; do
  train "linear-$seed" --data "$data/hymenoptera" --strategy linear --seed "$seed"
  train "partial-$seed" --data "$data/hymenoptera" --strategy partial:2 --seed "$seed"
  train "phases-$seed" --data "$data/hymenoptera" --strategy linear,epochs=2+full,lr=0.1 --seed "$seed"
done
train signs --data "$data/sign_digits" --strategy partial:2 --split-seed 0
zoo evaluate "$out/signs" --split test
zoo export "$out/partial-0"
zoo verify "$out/partial-0/model.onnx" --data "$data/hymenoptera"
zoo compare "$out"/*
