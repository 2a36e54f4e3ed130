#!/bin/sh
# Install what is missing, build, and show what KIVI-2 and kvq2 do to a GPT-2 decode. Arguments go to kvq-eval:
#   ./run.sh --scheme kivi4 --scheme kivi2,r=32
# KVQ_BUILD_DIR: where to build instead of in build/.
set -eu
cd "$(dirname "$0")"
.ci/need gcc libc6-dev make cmake pkg-config libopenblas-openmp-dev libjansson-dev libpcre2-dev libutf8proc-dev libxxhash-dev
build=${KVQ_BUILD_DIR:-build}
log=$build/build.log
mkdir -p "$build"
[ -x "$build/eval/kvq-eval" ] || echo "building in $build, a minute or two; $log tells how far it is" >&2
{
    cmake -S . -B "$build" && cmake --build "$build" -j "$(nproc)"
} >"$log" 2>&1 || {
    cat "$log" >&2
    exit 1
}
exec "$build/eval/kvq-eval" "$@"
