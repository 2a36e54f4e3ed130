#!/bin/sh
# Usage: install_test.sh BUILD_DIR SOURCE_DIR C_COMPILER
# Installs into a scratch prefix and uses what is there as a stranger would: the header alone in C and C++, the example
# engine through pkg-config (shared and static) and through find_package, the tool, the man page.
set -eu
build=$1 source=$2 cc=$3 # the static library brings the OpenMP of the compiler that built it
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
cmake --install "$build" --prefix "$work/usr" >/dev/null
lib=$(dirname "$(find "$work/usr" -name libkvq.a)")
export PKG_CONFIG_PATH="$lib/pkgconfig" LD_LIBRARY_PATH="$lib"

printf '#include <kvq.h>\nint main(void) { return kvq_version()[0] == 0; }\n' >"$work/header.c"
cp "$work/header.c" "$work/header.cpp"
sed -i 's/(void)/()/' "$work/header.cpp"
flags="-Wall -Wextra -Werror -pedantic"
# shellcheck disable=SC2046,SC2086 # flags are meant to be split
{
    "$cc" -std=c11 $flags "$work/header.c" $(pkg-config --cflags --libs kvq) -o "$work/header_c"
    c++ -std=c++11 $flags "$work/header.cpp" $(pkg-config --cflags --libs kvq) -o "$work/header_cpp"
    "$cc" -std=c11 -O2 $flags "$source/examples/engine.c" $(pkg-config --cflags --libs kvq) -lm -o "$work/shared"
    "$cc" -std=c11 -O2 $flags "$source/examples/engine.c" $(pkg-config --cflags kvq) "$lib/libkvq.a" \
        $(pkg-config --static --libs-only-other kvq) -lm -o "$work/static"
    "$cc" -std=c11 -O2 $flags "$source/examples/past_key_values.c" $(pkg-config --cflags --libs kvq) -o "$work/past"
    "$cc" -std=c11 -O2 $flags "$source/examples/parallel.c" $(pkg-config --cflags --libs kvq) -lm -lpthread \
        -o "$work/parallel"
}
"$work/header_c"
"$work/header_cpp"
"$work/shared" >"$work/shared.txt"
"$work/static" >"$work/static.txt"
cmp "$work/shared.txt" "$work/static.txt"
"$work/past" >"$work/past.txt" || { cat "$work/past.txt" >&2; exit 1; }
test "$(grep -c ' bytes, ' "$work/past.txt")" -eq 3
"$work/parallel"

mkdir "$work/project"
cat >"$work/project/CMakeLists.txt" <<'CMAKE'
cmake_minimum_required(VERSION 3.25)
project(engine C)
find_package(kvq REQUIRED)
add_executable(engine engine.c)
target_link_libraries(engine PRIVATE kvq::kvq m)
CMAKE
cp "$source/examples/engine.c" "$work/project/"
cmake -S "$work/project" -B "$work/project/build" -DCMAKE_C_COMPILER="$cc" -DCMAKE_PREFIX_PATH="$work/usr" >/dev/null
cmake --build "$work/project/build" >/dev/null
"$work/project/build/engine" | cmp - "$work/shared.txt"

mkdir "$work/cxx"
cat >"$work/cxx/CMakeLists.txt" <<'CMAKE'
cmake_minimum_required(VERSION 3.25)
project(header CXX)
find_package(kvq REQUIRED)
add_executable(header header.cpp)
target_link_libraries(header PRIVATE kvq::kvq)
CMAKE
cp "$work/header.cpp" "$work/cxx/"
cmake -S "$work/cxx" -B "$work/cxx/build" -DCMAKE_PREFIX_PATH="$work/usr" >/dev/null
cmake --build "$work/cxx/build" >/dev/null
"$work/cxx/build/header"

# Nothing but the public names leaves the shared library, and the static one keeps to the prefix.
nm -D --defined-only "$lib/libkvq.so" | awk '{ print $3 }' | sort >"$work/exported"
grep -oh 'kvq_[a-z0-9_]*(' "$work/usr/include/kvq.h" "$work/usr/include/kvq_experimental.h" | tr -d '(' | sort -u >"$work/declared"
comm -23 "$work/exported" "$work/declared" | grep . && { echo "exported, but in neither header" >&2; exit 1; }
nm -g --defined-only "$lib/libkvq.a" | awk 'NF == 3 && $3 !~ /^kvq_/ { print $3; bad = 1 } END { exit bad }' ||
    { echo "global names without the prefix" >&2; exit 1; }
readelf -d "$lib/libkvq.so" | grep -q 'SONAME.*libkvq.so.1' || { echo "no SONAME" >&2; exit 1; }

"$work/usr/bin/kvq-eval" --version | grep -q .
test -s "$work/usr/share/man/man1/kvq-eval.1"
"$work/usr/bin/kvq-eval" completion bash | cmp - "$work/usr/share/bash-completion/completions/kvq-eval"
cat "$work/shared.txt"
