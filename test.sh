#!/bin/sh
# Run ./run.sh, then every test: gcc, clang, and gcc with the address and undefined-behaviour sanitizers, warnings as
# errors in all three. Ends with the count of tests.
set -eu
cd "$(dirname "$0")"
./run.sh
.ci/need g++ libcriterion-dev clang clang-format libomp-dev

fail() {
    echo "FAILED: $*" >&2
    exit 1
}

echo "== format"
git ls-files '*.c' '*.h' | xargs clang-format --dry-run --Werror || fail "clang-format"

# check NAME CMAKE_ARGUMENT...: build in build/NAME and run its tests, keeping their output in build/NAME.log.
check() {
    name=$1
    shift
    echo "== $name: build"
    {
        cmake -S . -B "build/$name" -DKVQ_BUILD_TESTS=ON -DKVQ_WERROR=ON "$@" && cmake --build "build/$name" -j "$(nproc)"
    } >"build/$name.log" 2>&1 || {
        grep -E 'error|warning|Error' "build/$name.log" | head -40 >&2
        fail "$name does not build, see build/$name.log"
    }
    echo "== $name: tests"
    # Tests run one after the other: a Criterion program uses both cores by itself.
    (cd "build/$name" && ctest --verbose >>"../$name.log" 2>&1) || {
        grep -E '\[----\]|\[FAIL\]|\[CRASH\]|ERROR|runtime error|\*\*\*' "build/$name.log" | tail -60 >&2
        fail "$name, see build/$name.log"
    }
    grep -E 'tests passed' "build/$name.log"
}

check gcc
echo "== gcc: the library's tests again, with portable kernels"
(cd build/gcc && KVQ_ISA=portable ctest --verbose -R '^(codec|kernels|cache|attend|bound|snapshot|kivi)$' >>../gcc.log 2>&1) ||
    fail "portable kernels, see build/gcc.log"
check sanitized -DCMAKE_BUILD_TYPE=RelWithDebInfo -DKVQ_SANITIZE=address,undefined
check clang -DCMAKE_C_COMPILER=clang

# One line per Criterion program says how many tests it ran; every other CTest test counts as one.
awk '/Synthesis: Tested:/ { for (i = 1; i < NF; i++) if ($i == "Passing:") passed += $(i + 1);
                             else if ($i == "Failing:" || $i == "Crashing:") failed += $(i + 1) }
     /Test +#[0-9]+: (install|fuzz_).* Passed/ { passed++ }
     END { printf "%d passed, %d failed\n", passed, failed; exit failed > 0 }' build/gcc.log build/sanitized.log build/clang.log
