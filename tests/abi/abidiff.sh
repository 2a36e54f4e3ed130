#!/bin/sh
# Usage: tests/abi/abidiff.sh [--record]   Holds the shared library's interface against libkvq-1.abi, the one that
# programs were compiled against since KVQ_ABI became 1. Anything but growth is an error. --record writes that file
# anew, which is right only together with a new KVQ_ABI, or to add what has come since.
set -eu
cd "$(dirname "$0")/../.."
mkdir -p build
cmake -S . -B build/abi -DCMAKE_BUILD_TYPE=Debug -DKVQ_BUILD_EVAL=OFF >build/abi.log 2>&1 &&
    cmake --build build/abi -j "$(nproc)" --target kvq_shared >>build/abi.log 2>&1 || {
    tail -20 build/abi.log >&2
    exit 1
}
mkdir -p build/abi/public && cp lib/kvq.h build/abi/public/
# Types that are not in kvq.h are left out, whatever pointers lead to them; so is what differs from machine to machine.
abidw --headers-dir build/abi/public --drop-private-types --exported-interfaces-only --no-architecture --no-elf-needed \
    --no-corpus-path --no-comp-dir-path --no-show-locs build/abi/lib/libkvq.so | sed "s|path='$PWD/|path='|" >build/libkvq.abi
if [ "${1-}" = --record ]; then
    cp build/libkvq.abi tests/abi/libkvq-1.abi
    exit
fi
abidiff --no-added-syms --suppressions tests/abi/suppressions.ini tests/abi/libkvq-1.abi build/libkvq.abi
