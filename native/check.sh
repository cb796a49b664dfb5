#!/usr/bin/env bash
# Runs recorded calls of the kernels where pytest cannot: compiled with sanitizers, under valgrind,
# on an emulated ARM processor.
#
#     native/check.sh asan|tsan|valgrind|aarch64... [-- TEST...]
#
# The calls are those that the named tests make (pytest's arguments); CALLS=FOLDER keeps them there,
# and takes them from there. SETS="baseline avx2" tries those instruction sets alone. Exits with 77,
# and says why, where a tool is missing.
set -euo pipefail
cd "$(dirname "$0")/.."
modes=()
while [ $# -gt 0 ] && [ "$1" != -- ]; do
  modes+=("$1")
  shift
done
shift || true
[ $# -gt 0 ] || set -- tests/ops/slow_fast tests/ops/fast_weights/test_conformance.py \
  -k "slow_fast or native"
[ ${#modes[@]} -gt 0 ] || { sed -n '2,9s/^# \{0,1\}//p' "$0" && exit 2; }
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT

need() {
  command -v "$1" > /dev/null || { echo "no $1 here" && exit 77; }
}

quietly() {
  "$@" > "$work/log" 2>&1 || { cat "$work/log" && exit 1; }
}

# The calls of the tests, as made to the library of one instruction set.
recorded() {
  local folder=$calls/$1 capability=$1
  [ "$1" != baseline ] || capability=default
  [ -d "$folder" ] || ATEN_CPU_CAPABILITY=$capability quietly python -m pytest -q \
    -p no:cacheprovider "${tests[@]}" --record-kernel-calls="$folder"
}
tests=("$@") calls=${CALLS:-$work/calls}

# What PyTorch may compute with here.
case $(python -c 'import torch; print(torch.backends.cpu.get_cpu_capability())') in
  AVX512) here="baseline avx2 avx512" ;;
  AVX2) here="baseline avx2" ;;
  *) here=baseline ;;
esac

for mode in "${modes[@]}"; do
  configure=() run=() sets=$here
  case $mode in
    asan) configure=(-DFASTWEIGHTS_SANITIZE=address,undefined) ;;
    tsan) configure=(-DFASTWEIGHTS_SANITIZE=thread) ;;
    valgrind)
      need valgrind
      run=(env REPLAY_UNDEFINED=1 valgrind --quiet --error-exitcode=99 --leak-check=full)
      sets=${here% avx512} # which it does not know
      ;;
    aarch64)
      need aarch64-linux-gnu-g++
      need qemu-aarch64
      configure=(-DCMAKE_SYSTEM_NAME=Linux -DCMAKE_SYSTEM_PROCESSOR=aarch64
        -DCMAKE_CXX_COMPILER=aarch64-linux-gnu-g++)
      run=(qemu-aarch64 -L /usr/aarch64-linux-gnu)
      sets=baseline # NEON's vectors are as wide as SSE's
      ;;
    *) echo "unknown: $mode" && exit 2 ;;
  esac
  need cmake
  chosen=()
  for set in $sets; do
    [[ " ${SETS:-$set} " != *" $set "* ]] || chosen+=("$set")
  done
  quietly cmake -S native -B "$work/$mode" -DFASTWEIGHTS_CHECKER=ON "${configure[@]}"
  quietly cmake --build "$work/$mode" --parallel 2 --target replay "${chosen[@]/#/fastweights_}"
  for set in "${chosen[@]}"; do
    recorded "$set"
    echo -n "$mode, $set: "
    find "$calls/$set" -name '*.call' -print0 | sort -z | xargs -0 -n 2000 \
      "${run[@]}" "$work/$mode/replay" "$work/$mode/libfastweights_$set.so"
  done
done
