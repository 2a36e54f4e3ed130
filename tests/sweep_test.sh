#!/bin/sh
# Usage: sweep_test.sh KVQ_EVAL [mpi]
# Sweeps that are killed and go on, that are shared out, and that are repeated give what one unbroken run gives, but for
# seconds. With mpi: ranks of Open MPI do; exits with 77, loudly, where mpirun is not installed.
set -eu
kvq_eval=$1
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
cd "$work"
small="--tokens 128 --windows 2 --threads 2 --scheme kivi2,r=32 --scheme kivi4,r=32 --scheme k=4@token,v=4,r=32"

fail() {
    echo "FAILED: $*" >&2
    cat err >&2 2>/dev/null || true
    exit 1
}

# The whole lines of a file without what differs from run to run, in one order.
cells() {
    grep -a '}$' "$1" | sed 's/"seconds":[^,]*,//' | sort
}

same_as_unbroken() {
    cells "$1" >found
    cmp -s found expected || {
        wc -l found expected >&2
        fail "$2: other cells than in an unbroken run"
    }
}

# shellcheck disable=SC2086 # the options are meant to be split
sweep() {
    "$kvq_eval" sweep $small "$@" >table 2>err
}

sweep --out whole.jsonl || fail "an unbroken run"
cells whole.jsonl >expected
[ "$(wc -l <expected)" -eq 8 ] || fail "$(wc -l <expected) cells instead of 4 schemes by 2 windows"
grep -q '^\* ' table || fail "no scheme is on the front"

if [ "${2-}" = mpi ]; then
    command -v mpirun >/dev/null 2>&1 || {
        echo "SKIPPED: no mpirun. Not tested: sweeps by ranks of Open MPI." >&2
        exit 77
    }
    # shellcheck disable=SC2086
    OMPI_ALLOW_RUN_AS_ROOT=1 OMPI_ALLOW_RUN_AS_ROOT_CONFIRM=1 timeout 300 mpirun --oversubscribe -n 2 \
        "$kvq_eval" sweep $small --out mpi.jsonl >table 2>err </dev/null || fail "mpirun"
    grep -q 'part 2 of 2 of the cells (OMPI_COMM_WORLD_RANK)' err || fail "ranks are not told apart"
    same_as_unbroken mpi.jsonl "two ranks"
    exit 0
fi

# Again: nothing is measured, nothing written.
cp whole.jsonl before.jsonl
cp table before.table
sweep --out whole.jsonl || fail "a repeated run"
cmp -s whole.jsonl before.jsonl || fail "a repeated run has written"
cmp -s table before.table || fail "a repeated run has another table"
grep -q '8 of 8 cells, 0 of them measured now' err || fail "a repeated run has measured"

# Killed without warning, at moments all over the run and once within a line, until it is done.
n_kills=0
for delay in 0.02 0.05 0.1 0.15 0.2 0.25 0.3 0.35 0.4 0.45 0.5 0.55 0.6; do
    # shellcheck disable=SC2086
    "$kvq_eval" sweep $small --group 1 --out killed.jsonl >table 2>err &
    pid=$!
    sleep "$delay"
    kill -9 "$pid" 2>/dev/null && n_kills=$((n_kills + 1))
    wait "$pid" 2>/dev/null || true
    if [ -s killed.jsonl ] && [ "$(wc -l <killed.jsonl)" -ge 3 ] && [ ! -e cut ]; then
        size=$(wc -c <killed.jsonl)
        head -c $((size - 700)) killed.jsonl >cut
        cp cut killed.jsonl
    fi
done
[ "$n_kills" -ge 2 ] || fail "only $n_kills kills came before the end"
sweep --out killed.jsonl || fail "the run after kills"
same_as_unbroken killed.jsonl "killed $n_kills times"
[ "$("$kvq_eval" merge killed.jsonl --quiet | wc -l)" -eq 8 ] || fail "merging what was killed"

# Asked to end.
# shellcheck disable=SC2086
"$kvq_eval" sweep $small --windows 4 --threads 1 --group 1 --out asked.jsonl >table 2>err &
pid=$!
tries=0
while [ ! -s asked.jsonl ] && [ "$tries" -lt 600 ]; do
    sleep 0.05
    tries=$((tries + 1))
done
kill -TERM "$pid"
status=0
wait "$pid" || status=$?
[ "$status" -eq 143 ] || fail "status $status after SIGTERM"
grep -q 'interrupted: [0-9]* of 16 cells' err || fail "what it says after SIGTERM"
[ -s asked.jsonl ] && [ "$(tail -c 1 asked.jsonl)" = "" ] || fail "what it leaves after SIGTERM"

# Shared out.
sweep --shard 1/2 --out one.jsonl || fail "part 1 of 2"
grep -q '4 of 8 cells' err || fail "part 1 of 2"
[ ! -s table ] || fail "a part has no table"
SLURM_ARRAY_TASK_ID=8 SLURM_ARRAY_TASK_MIN=7 SLURM_ARRAY_TASK_COUNT=2 sweep --out two.jsonl || fail "an array's task"
grep -q 'part 2 of 2 of the cells (SLURM_ARRAY_TASK_ID)' err || fail "an array's task"
"$kvq_eval" merge one.jsonl two.jsonl whole.jsonl --out both.jsonl 2>err || fail "merge"
grep -q '8 cells of 1 experiment; 8 repeated, 0 cut short' err || fail "merge"
same_as_unbroken both.jsonl "two parts"
sed 's/"seconds":[^,]*,//' both.jsonl >first
"$kvq_eval" merge both.jsonl --out both.jsonl 2>err || fail "merging into the file that is read"
sed 's/"seconds":[^,]*,//' both.jsonl | cmp -s - first || fail "merging once more changes the order"
sweep --jobs 2 --out jobs.jsonl || fail "--jobs 2"
same_as_unbroken jobs.jsonl "--jobs 2"
cmp -s table before.table || fail "--jobs 2 has another table"
