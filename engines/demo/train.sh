#!/usr/bin/env bash
# How model.safetensors was made: three archives drawn, three trainings, each from the weights of the one before.
# From random weights on whole views nothing of a fracture is learned in any time that a few cores have. A close-up of
# the lesion (or, in a normal study, of the place where it would be) shows it at the same scale in few pixels, so
# training begins there, and the views grow to whole ones.
#
#     engines/demo/train.sh WORK      # in the checkout, after `make .venv/testing`; WORK takes 3 GB
set -euo pipefail
work=${1:?a folder for archives and weights}
mura_trt=$(dirname "$0")/../../.venv/bin/mura-trt

draw() { test -e "$work/$1.drawn" || { "$mura_trt" demo "$work/$1" "${@:2}" && touch "$work/$1.drawn"; }; }
train() { test -e "$work/$2.safetensors" || "$mura_trt" train "$work/$1" -o "$work/$2.safetensors" "${@:3}"; }

mkdir -p "$work"
draw closer --studies 120 --train-studies 3000 --seed 1000037 --close-up 4 --lesion-shares 0.45 0.35 0.2
draw close-up --studies 120 --train-studies 3000 --seed 1000033 --close-up 2
draw whole --studies 160 --train-studies 3000 --seed 1000003

# bf16 is as fast again on a CPU with AVX512-BF16; without that leave it out.
common=(--batch 16 --rotation 15 --precision bf16)
train closer 1 "${common[@]}" --size 96 --learning-rate 3e-4 --epoch-views 4000 --epochs 5
train close-up 2 "${common[@]}" --init "$work/1.safetensors" --size 160 --learning-rate 2e-4 --epoch-views 3000 --epochs 4
whole=("${common[@]}" --size 320 --epoch-views 2000 --patience 9 --stop-after 9)
train whole 3 "${whole[@]}" --init "$work/2.safetensors" --learning-rate 2e-4 --epochs 6
train whole model "${whole[@]}" --init "$work/3.safetensors" --learning-rate 2e-5 --epochs 2 --half
