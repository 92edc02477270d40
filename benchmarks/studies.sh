#!/usr/bin/env bash
# Runs the studies in results/study: three backbones with six strategies, and strategies with fewer training images.
#
#     benchmarks/studies.sh HYMENOPTERA SIGN_DIGITS OUT
#
# Takes about half an hour on two cores. Tables are printed on stderr; leaderboards and reports are written to OUT.
set -euo pipefail
[ $# = 3 ] || { echo "usage: benchmarks/studies.sh HYMENOPTERA SIGN_DIGITS OUT" >&2; exit 2; }
hymenoptera=$1 digits=$2 out=$3
lites=(--backbone efficientnet_lite0 --backbone efficientnet_lite1 --backbone efficientnet_lite2)
mkdir -p "$out"

time zoo study --data "$hymenoptera" "${lites[@]}" --strategy linear --strategy knn:10 --strategy partial:2 \
  --strategy lora:8 --strategy lpft --strategy full --out "$out/hymenoptera"
zoo study --data "$digits" --backbone efficientnet_lite0 --strategy linear --strategy partial:2 --strategy full \
  --also efficientnet_lite0 scratch --also hog_color svm --fraction 0.1 --fraction 0.3 --fraction 1 --seed 0 \
  --image-size 128 \
  --out "$out/digits"
for study in hymenoptera digits; do
  zoo advise --study "$out/$study" --studies "$out"
  zoo report "$out/$study" --no-photographs
done
