#!/bin/sh
# Run ./run.sh, then every test: gcc, clang, and gcc with the address and undefined-behaviour sanitizers, warnings as
# errors in all three; the library's tests again on every plainer instruction set; and kernels and caches on emulated
# processors, if the emulator can be had; saved caches under valgrind; the ABI. Ends with the count of tests.
set -eu
cd "$(dirname "$0")"
./run.sh
.ci/need g++ libcriterion-dev clang clang-format libomp-dev valgrind abigail-tools

fail() {
    echo "FAILED: $*" >&2
    exit 1
}

echo "== format"
git ls-files '*.c' '*.h' | xargs clang-format --dry-run --Werror || fail "clang-format"

# build NAME CMAKE_ARGUMENT...: build in build/NAME, keeping the output in build/NAME.log.
build() {
    name=$1
    shift
    echo "== $name: build"
    {
        cmake -S . -B "build/$name" -DKVQ_BUILD_TESTS=ON -DKVQ_WERROR=ON "$@" && cmake --build "build/$name" -j "$(nproc)"
    } >"build/$name.log" 2>&1 || {
        grep -E 'error|warning|Error' "build/$name.log" | head -40 >&2
        fail "$name does not build, see build/$name.log"
    }
}

# check NAME CMAKE_ARGUMENT...: build, and run the tests.
check() {
    build "$@"
    echo "== $name: tests"
    # Tests run one after the other: a Criterion program uses both cores by itself.
    (cd "build/$name" && ctest --verbose >>"../$name.log" 2>&1) || {
        grep -E '\[----\]|\[FAIL\]|\[CRASH\]|ERROR|runtime error|\*\*\*' "build/$name.log" | tail -60 >&2
        fail "$name, see build/$name.log"
    }
    grep -E 'tests passed' "build/$name.log"
}

# crosscheck NAME BEST COMMAND...: run tests/crosscheck.c on the processor NAME, for which the library must choose the
# kernels BEST.
crosscheck() {
    name=$1 best=$2
    shift 2
    OMP_NUM_THREADS=1 "$@" --best "$best" >"build/crosscheck-$name.log" 2>&1 || {
        tail -20 "build/crosscheck-$name.log" >&2
        fail "crosscheck on $name, see build/crosscheck-$name.log"
    }
    echo "== crosscheck on $name: passed, with $best kernels" | tee -a "build/crosscheck-$name.log"
}

# passing NAME COMMAND...: a check that counts as one test.
passing() {
    name=$1
    shift
    "$@" >"build/passing-$name.log" 2>&1 || {
        tail -40 "build/passing-$name.log" >&2
        fail "$name, see build/passing-$name.log"
    }
    echo "== $name: passed" | tee -a "build/passing-$name.log"
}

rm -f build/crosscheck-*.log build/passing-*.log
check gcc
# Saved caches once more where a read of memory that nobody has written shows.
passing valgrind-snapshot env OMP_NUM_THREADS=1 KVQ_ISA=portable valgrind -q --error-exitcode=9 \
    build/gcc/tests/replay_snapshot tests/corpus/snapshot
# What abidiff knows was recorded on x86-64.
[ "$(uname -m)" != x86_64 ] || passing abidiff tests/abi/abidiff.sh
best=$(build/gcc/tests/crosscheck --list | tail -n 1)
for isa in $(build/gcc/tests/crosscheck --list | grep -vx "$best"); do
    echo "== gcc: the library's tests again, with $isa kernels"
    (cd build/gcc && KVQ_ISA=$isa ctest --verbose -R '^(codec|cache|attend|fast|bound|snapshot|step|toy|evidence|kivi)$' >>../gcc.log 2>&1) ||
        fail "$isa kernels, see build/gcc.log"
done
crosscheck here "$best" build/gcc/tests/crosscheck

if .ci/need qemu-user && [ "$(uname -m)" = x86_64 ] && command -v qemu-x86_64 >/dev/null; then
    crosscheck Nehalem portable qemu-x86_64 -cpu Nehalem build/gcc/tests/crosscheck &
    nehalem=$!
    crosscheck Haswell avx2 qemu-x86_64 -cpu Haswell build/gcc/tests/crosscheck --readable-ends
    wait "$nehalem" || exit 1
else
    echo "== old processors under qemu: left out"
fi
if .ci/need gcc-aarch64-linux-gnu libc6-dev-arm64-cross qemu-user && command -v aarch64-linux-gnu-gcc >/dev/null &&
    command -v qemu-aarch64 >/dev/null; then
    # Only this header of the machine's own: the others are of another C library.
    mkdir -p build/include
    cp "$(sed -n 's/^XXHASH_INCLUDE_DIR:PATH=//p' build/gcc/CMakeCache.txt)/xxhash.h" build/include/
    build aarch64 -DCMAKE_TOOLCHAIN_FILE="$PWD/.ci/aarch64.cmake" -DXXHASH_INCLUDE_DIR="$PWD/build/include" -DKVQ_BUILD_EVAL=OFF
    crosscheck Cortex-A53 portable qemu-aarch64 -cpu cortex-a53 -L /usr/aarch64-linux-gnu build/aarch64/tests/crosscheck &
    a53=$! # which has no dot products
    crosscheck aarch64 neon qemu-aarch64 -L /usr/aarch64-linux-gnu build/aarch64/tests/crosscheck
    wait "$a53" || exit 1
else
    echo "== aarch64 under qemu: left out"
fi
check sanitized -DCMAKE_BUILD_TYPE=RelWithDebInfo -DKVQ_SANITIZE=address,undefined
check clang -DCMAKE_C_COMPILER=clang

# One line per Criterion program says how many tests it ran; every other CTest test counts as one.
awk '/Synthesis: Tested:/ { for (i = 1; i < NF; i++) if ($i == "Passing:") passed += $(i + 1);
                             else if ($i == "Failing:" || $i == "Crashing:") failed += $(i + 1) }
     /Test +#[0-9]+: (install|fuzz_|abi_|includes|completion).* Passed|^== .*: passed/ { passed++ }
     END { printf "%d passed, %d failed\n", passed, failed; exit failed > 0 }' build/gcc.log build/sanitized.log build/clang.log \
    build/crosscheck-*.log build/passing-*.log
