#!/bin/sh
# Usage: includes_test.sh SOURCE_DIR
# Who may include whom: quant <- lib <- eval, and between the rooms of eval/ (eval/README.md has the map). Prints every
# include that goes the wrong way. The exceptions: eval/bench/kernels.c and phases.c measure quant/ itself.
set -eu
cd "$1"

# may FOLDER: what a file there may include, as one extended regular expression.
may() {
    case $1 in
        quant) echo 'quant/.*' ;;
        lib) echo '(lib|quant)/.*|kvq\.h' ;; # kvq_experimental.h finds its neighbour wherever it is installed
        eval/common) echo 'eval/common/.*' ;;
        eval/model) echo 'eval/(common|model)/.*' ;;
        eval/results) echo 'eval/(common|results)/.*|lib/kvq\.h' ;;
        eval/measure) echo 'eval/(common|model|results|measure)/.*|lib/kvq(_experimental)?\.h' ;;
        eval/sweep | eval/tune) echo 'eval/(common|model|results|measure|sweep|tune)/.*|lib/kvq(_experimental)?\.h' ;;
        eval/plan) echo 'eval/(common|model|measure|report|plan)/.*|lib/kvq(_experimental)?\.h' ;;
        eval/page) echo 'eval/(common|model|results|measure|page)/.*|lib/kvq(_experimental)?\.h' ;;
        eval/report) echo 'eval/(common|model|results|measure|report)/.*|lib/kvq(_experimental)?\.h' ;;
        eval/bench) echo 'eval/(common|model|bench)/.*|lib/kvq(_experimental)?\.h' ;;
        eval/cli) echo 'eval/(common|model|results|measure|report|sweep|tune|plan|page|bench|cli)/.*|lib/kvq(_experimental)?\.h' ;;
        *) echo 'nothing: this folder is not in includes_test.sh' ;;
    esac
}

bad=0
n=0
for file in $(find quant lib eval -name '*.[ch]' | sort); do
    n=$((n + 1))
    allowed=$(may "$(dirname "$file")")
    case $file in
        eval/bench/kernels.c | eval/bench/phases.c) allowed="$allowed|quant/.*" ;;
    esac
    grep -nE '^ *# *include *"' "$file" | grep -vE "\"($allowed)\"" | sed "s|^|$file:|" | grep . && bad=1
done
[ "$n" -gt 50 ] || { echo "only $n files found in $1" >&2; exit 1; }
[ "$bad" = 0 ] || { echo "these includes go the wrong way" >&2; exit 1; }
echo "$n files include what they may"
