#!/usr/bin/env bash
# Runs recorded calls of the kernels where pytest cannot: compiled with sanitizers, under valgrind,
# on another processor.
#
#     native/check.sh address,undefined|thread|valgrind|aarch64 [TEST...]
#
# The calls are those that the named tests make (pytest's arguments; by default the small cases of
# the kernels' own tests). Exits with 77, and says why, where a tool is missing.
set -euo pipefail
cd "$(dirname "$0")/.."
mode=${1:?address,undefined, thread, valgrind or aarch64}
shift
[ $# -gt 0 ] || set -- tests/ops/slow_fast
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT

need() {
  command -v "$1" > /dev/null || { echo "no $1 here${2:+: $2}" && exit 77; }
}

configure=(-DFASTWEIGHTS_CHECKER=ON) run=() sets=
case $mode in
  address,undefined | thread)
    configure+=("-DFASTWEIGHTS_SANITIZE=$mode")
    export ASAN_OPTIONS=detect_leaks=0
    ;;
  valgrind)
    need valgrind
    run=(valgrind --quiet --error-exitcode=99)
    export REPLAY_UNDEFINED=1
    sets="baseline avx2" # it does not know AVX-512
    ;;
  aarch64)
    need aarch64-linux-gnu-g++ "Debian's g++-aarch64-linux-gnu has it"
    need qemu-aarch64 "Debian's qemu-user has it"
    configure+=(-DCMAKE_SYSTEM_NAME=Linux -DCMAKE_SYSTEM_PROCESSOR=aarch64
      -DCMAKE_CXX_COMPILER=aarch64-linux-gnu-g++)
    run=(qemu-aarch64 -L /usr/aarch64-linux-gnu)
    sets=baseline
    ;;
  *)
    echo "unknown: $mode" >&2 && exit 2
    ;;
esac
need cmake

cmake -S native -B "$work/build" "${configure[@]}" > "$work/log" || { cat "$work/log" && exit 1; }
cmake --build "$work/build" --parallel 2 > "$work/log" || { cat "$work/log" && exit 1; }

# PyTorch's name for a set, and whether this processor has it.
for set in ${sets:-baseline avx2 avx512}; do
  case $set in baseline) capability=default ;; *) capability=$set ;; esac
  library=$work/build/libfastweights_$set.so
  [ -e "$library" ] || continue
  has=$(python -c 'import torch; print(torch.backends.cpu.get_cpu_capability().lower())')
  [ "$set" != avx512 ] || [ "$has" = avx512 ] || continue
  [ "$set" != avx2 ] || [ "$has" != default ] || continue
  ATEN_CPU_CAPABILITY=$capability python -m pytest -q -p no:cacheprovider "$@" \
    --record-kernel-calls="$work/$set" > "$work/log" || { cat "$work/log" && exit 1; }
  echo -n "$mode, $set: "
  find "$work/$set" -name '*.call' -print0 | sort -z |
    xargs -0 -n 2000 "${run[@]}" "$work/build/replay" "$library"
done
