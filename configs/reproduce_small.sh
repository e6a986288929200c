#!/usr/bin/env bash
# Trains the bundled `small` again from nothing, as it was trained: in five parts, each with the code
# of its time (105 minutes on two H200; other numbers of GPUs see other batches), before the fourth one
# the confidences of the point maps (minutes on a CPU). Needs the whole history of the repository.
#   bash configs/reproduce_small.sh RUNS [GPUS]
set -euo pipefail
runs=$(mkdir -p "${1:?give the folder of the runs: bash configs/reproduce_small.sh RUNS [GPUS]}" && cd "$1" && pwd)
gpus=${2:-2}
root=$(git -C "$(dirname "$0")" rev-parse --show-toplevel)

code_of() { # commit
    [ -d "$runs/code-$1" ] || git -C "$root" worktree add --quiet --detach "$runs/code-$1" "$1"
}

part() { # commit, configuration, folder of the run, options
    local code="$runs/code-$1" config="$root/configs/$2" out="$runs/$3"
    code_of "$1"
    shift 3
    # a finished part is not trained again, an interrupted one goes on
    (cd "$code" && torchrun --standalone --nproc-per-node "$gpus" groundloc.py train \
        --config "$config" --out "$out" "$@")
}

part 252842c train_small.yaml first
part 764923d train_small_continue.yaml second --set initial_weights="$runs/first/small.safetensors"
part 502600f train_small_further.yaml third --set initial_weights="$runs/second/small.safetensors"
# the third part left the confidences of the point maps at 1 everywhere
code_of 0f0b5d1
[ -e "$runs/confident.safetensors" ] || (cd "$runs/code-0f0b5d1" && python -m matching.training.confidence \
    "$runs/third/small.safetensors" "$runs/confident.safetensors")
part 25a398f train_small_furnished.yaml fourth --set initial_weights="$runs/confident.safetensors"
part 34f818a train_small_diverse.yaml fifth --set initial_weights="$runs/fourth/small.safetensors"
echo "weights: $runs/fifth/small.safetensors"
