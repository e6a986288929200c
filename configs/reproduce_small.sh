#!/usr/bin/env bash
# Trains the bundled `small` again from nothing, as it was trained: in three parts, each with the code
# of its time (an hour on two H200; other numbers of GPUs see other batches), then the confidences of its
# point maps (minutes on a CPU). Needs the whole history of the repository.
#   bash configs/reproduce_small.sh RUNS [GPUS]
set -euo pipefail
runs=$(mkdir -p "${1:?folder of the runs}" && cd "$1" && pwd)
gpus=${2:-2}
root=$(git -C "$(dirname "$0")" rev-parse --show-toplevel)

part() { # commit, configuration, folder of the run, options
    local code="$runs/code-$1" config="$root/configs/$2" out="$runs/$3"
    shift 3
    [ -d "$code" ] || git -C "$root" worktree add --quiet --detach "$code" "${code##*-}"
    # a finished part is not trained again, an interrupted one goes on
    (cd "$code" && torchrun --standalone --nproc-per-node "$gpus" groundloc.py train \
        --config "$config" --out "$out" "$@")
}

part 252842c train_small.yaml first
part 764923d train_small_continue.yaml second --set initial_weights="$runs/first/small.safetensors"
part 502600f train_small_further.yaml third --set initial_weights="$runs/second/small.safetensors"
(cd "$root" && python -m matching.training.confidence "$runs/third/small.safetensors" "$runs/small.safetensors")
echo "weights: $runs/small.safetensors"
