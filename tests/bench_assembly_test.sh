#!/bin/sh
# Usage: bench_assembly_test.sh SOURCE_DIR COMPILER [INCLUDE_DIR...]
# The yardsticks of `kvq-eval bench` are C loops that the compiler has to turn into vectors: a slow yardstick flatters
# what is measured with it. A test of times would fail on a busy machine; this one reads the assembly of -O3: vectors of
# the full width, and none that go by way of the stack. For the loops of BENCH_CLONES, so on x86-64 only.
set -eu
source_dir=$1 compiler=$2
shift 2
for dir; do
    set -- "$@" -I "$dir"
    shift
done
case $("$compiler" -dumpmachine) in
    x86_64*) ;;
    *) echo "no clones for this processor"; exit 77 ;;
esac
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT

# expect FILE FUNCTION REGISTER INSTRUCTIONS LEAST SPILLS: so many of these instructions on registers of this kind, and at
# most so many of those stored to the stack.
expect() {
    awk -v name="$2" -v on="%$3" -v operation="^($4)" -v least="$5" -v most="$6" '
        /^[A-Za-z_]/ { inside = index($1, name) == 1; found = found || inside }
        !inside { next }
        $1 ~ operation && index($0, on) { n++ }
        /mm[0-9]+, *-?[0-9]*\(%r[sb]p/ && index($0, on) { spilled++ }
        END {
            if (!found) print name ": not there"
            else if (n < least) print name ": " n + 0 " of " operation " on " on ", expected " least " or more"
            else if (spilled > most) print name ": " spilled " stores of " on " to the stack"
            else exit 0
            exit 1
        }' "$work/$1.s" >&2 || bad=1
}

bad=0
for file in bandwidth blas; do
    "$compiler" -std=c11 -O3 -ffp-contract=off -fno-math-errno -fopenmp -I "$source_dir" "$@" -S \
        "$source_dir/eval/bench/$file.c" -o "$work/$file.s"
done
expect bandwidth read_all_avx2 ymm 'vpxor|vxorps' 4 0
expect bandwidth read_all_avx512 zmm 'vpxor|vxorps|vpternlog' 4 0
# Exponentials have the only conversions to whole numbers; what goes to the stack is outside of the loops.
expect blas softmax_rows_avx2 ymm vcvttps2dq 1 8
expect blas softmax_rows_avx512 zmm vcvttps2dq 1 8
[ "$bad" = 0 ]
