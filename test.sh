#!/bin/sh
# Usage: ./test.sh [--all]   Ends with the count of tests.
# Formatting; build with gcc, warnings as errors; what ./run.sh shows; every test once; the library's tests again on every
# plainer instruction set; saved caches under valgrind; the ABI. Some ten minutes on two cores. With --all, as CI does it, kernels
# and caches on emulated processors, and every test again with the address and undefined-behaviour sanitizers and with clang.
set -eu
cd "$(dirname "$0")"
all=
case $#,${1-} in
    0,) ;;
    1,--all) all=1 ;;
    *)
        echo "usage: ./test.sh [--all]" >&2
        exit 2
        ;;
esac
KVQ_BUILD_DIR=build/gcc # one build for what run.sh shows and for the tests
export KVQ_BUILD_DIR
.ci/need gcc libc6-dev make cmake pkg-config libopenblas-openmp-dev libjansson-dev libpcre2-dev libutf8proc-dev libxxhash-dev \
    g++ libcriterion-dev clang libomp-dev valgrind abigail-tools
mkdir -p build

fail() {
    echo "FAILED: $*" >&2
    exit 1
}

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

# tests NAME CTEST_ARGUMENT...: run tests of build/NAME, as many programs side by side as there are cores; each runs its own
# tests one after the other.
tests() {
    name=$1
    shift
    (cd "build/$name" && ctest --verbose -j "$(nproc)" "$@" >>"../$name.log" 2>&1) || {
        grep -E '\[----\]|\[FAIL\]|\[CRASH\]|ERROR|runtime error|\*\*\*' "build/$name.log" | tail -60 >&2
        fail "$name, see build/$name.log"
    }
}

# check NAME CMAKE_ARGUMENT...: build, and run the tests.
check() {
    build "$@"
    echo "== $name: tests"
    tests "$name"
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

# emulate: the same beside what follows, until `wait_for_emulators`.
emulators=
emulate() {
    crosscheck "$@" &
    emulators="$emulators $!"
}
wait_for_emulators() {
    for process in $emulators; do
        wait "$process" || exit 1
    done
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

# Kernels and caches on emulated processors, if the emulator can be had.
other_processors() {
    if .ci/need qemu-user && [ "$(uname -m)" = x86_64 ] && command -v qemu-x86_64 >/dev/null; then
        # Nehalem checks the portable kernels, which are the same code on Haswell.
        emulate Haswell avx2 qemu-x86_64 -cpu Haswell build/gcc/tests/crosscheck --best-only --readable-ends
        emulate Nehalem portable qemu-x86_64 -cpu Nehalem build/gcc/tests/crosscheck
    else
        echo "== old processors under qemu: left out"
    fi
    if .ci/need gcc-aarch64-linux-gnu libc6-dev-arm64-cross qemu-user && command -v aarch64-linux-gnu-gcc >/dev/null &&
        command -v qemu-aarch64 >/dev/null; then
        # Only this header of the machine's own: the others are of another C library.
        mkdir -p build/include
        cp "$(sed -n 's/^XXHASH_INCLUDE_DIR:PATH=//p' build/gcc/CMakeCache.txt)/xxhash.h" build/include/
        build aarch64 -DCMAKE_TOOLCHAIN_FILE="$PWD/.ci/aarch64.cmake" -DXXHASH_INCLUDE_DIR="$PWD/build/include" -DKVQ_BUILD_EVAL=OFF
        emulate Cortex-A53 portable qemu-aarch64 -cpu cortex-a53 -L /usr/aarch64-linux-gnu build/aarch64/tests/crosscheck
        # The one before, without dot products, checks the portable kernels.
        emulate aarch64 neon qemu-aarch64 -L /usr/aarch64-linux-gnu build/aarch64/tests/crosscheck --best-only
    else
        echo "== aarch64 under qemu: left out"
    fi
    wait_for_emulators
}

echo "== format"
.ci/format
rm -f build/crosscheck-*.log build/passing-*.log
build gcc
./run.sh
echo "== gcc: tests"
tests gcc
grep -E 'tests passed' build/gcc.log
best=$(build/gcc/tests/crosscheck --list | tail -n 1)
for isa in $(build/gcc/tests/crosscheck --list | grep -vx "$best"); do
    echo "== gcc: the library's tests again, with $isa kernels"
    KVQ_ISA=$isa tests gcc -R '^(codec|cache|attend|fast|bound|snapshot|step|toy|evidence|kivi)$'
done
# Saved caches once more where a read of memory that nobody has written shows.
passing valgrind-snapshot env OMP_NUM_THREADS=1 KVQ_ISA=portable valgrind -q --error-exitcode=9 \
    build/gcc/tests/replay_snapshot tests/corpus/snapshot
# What abidiff knows was recorded on x86-64.
[ "$(uname -m)" != x86_64 ] || passing abidiff tests/abi/abidiff.sh

crosscheck here "$best" build/gcc/tests/crosscheck
suites=build/gcc.log
if [ -n "$all" ]; then
    other_processors
    # clang's sanitizers see more than gcc's: offsets to null pointers, for one. Its OpenMP leaves memory behind in a fork.
    echo 'leak:libomp.so' >build/leaks
    export LSAN_OPTIONS="suppressions=$PWD/build/leaks:print_suppressions=0"
    check sanitized -DCMAKE_C_COMPILER=clang -DCMAKE_BUILD_TYPE=RelWithDebInfo -DKVQ_SANITIZE=address,undefined
    check clang -DCMAKE_C_COMPILER=clang
    suites="$suites build/sanitized.log build/clang.log"
fi

# One line per Criterion program says how many tests it ran; every other CTest test counts as one.
# shellcheck disable=SC2086 # the list is meant to be split
awk '/Synthesis: Tested:/ { for (i = 1; i < NF; i++) if ($i == "Passing:") passed += $(i + 1);
                             else if ($i == "Failing:" || $i == "Crashing:") failed += $(i + 1) }
     /Test +#[0-9]+: (install|fuzz_|abi_|includes|bench_assembly|page_browser|sweep_|record_kv).* Passed|^== .*: passed/ { passed++ }
     END { printf "%d passed, %d failed\n", passed, failed; exit failed > 0 }' $suites build/crosscheck-*.log build/passing-*.log
