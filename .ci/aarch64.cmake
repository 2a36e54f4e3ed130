# Toolchain file: cross compile for AArch64 with Debian's gcc-aarch64-linux-gnu; test.sh runs what comes out under qemu.
# Needs -DXXHASH_INCLUDE_DIR=: a folder with xxhash.h and nothing of this machine's C library (test.sh makes one).
set(CMAKE_SYSTEM_NAME Linux)
set(CMAKE_SYSTEM_PROCESSOR aarch64)
set(CMAKE_C_COMPILER aarch64-linux-gnu-gcc)
