/* kvq-eval: what does a quantized KV cache cost on a real decode, and what does it save? */
#define _POSIX_C_SOURCE 200809L

#include "eval/cli/commands.h"
#include "eval/common/exit_status.h"
#include "eval/common/output_file.h"
#include "eval/common/stop.h"

#include <stdio.h>
#include <stdlib.h>
#include <unistd.h>

/* Data may still lie in stdout's buffer when main returns; a full disk must not look like success. */
static void close_stdout(void)
{
    if ((ferror(stdout) || fflush(stdout) != 0) && !output_file_stdout_failed()) {
        fputs("kvq-eval: standard output: write failed\n", stderr);
        _exit(STATUS_BAD_INPUT);
    }
}

/*
 * OpenMP's waiting threads spin, by default for milliseconds; where another program wants the cores, that
 * keeps the very thread they wait for from running, and a run takes many times as long. Both OpenMP libraries
 * read the limit from the environment before main begins, so set it and start again: about 50 microseconds
 * for gcc's, none for clang's, which counts in milliseconds.
 */
static void limit_spinning(char **argv)
{
    if (getenv("OMP_WAIT_POLICY") || getenv("GOMP_SPINCOUNT") || getenv("KMP_BLOCKTIME"))
        return;
    if (setenv("GOMP_SPINCOUNT", "3000", 1) == 0 && setenv("KMP_BLOCKTIME", "0", 1) == 0)
        (void)execv("/proc/self/exe", argv); /* returns only if that fails; then it runs as it is */
}

int main(int argc, char **argv)
{
    limit_spinning(argv);
    if (atexit(close_stdout) != 0)
        return STATUS_BAD_INPUT;
    stop_handle_signals();
    return commands_main(argc, argv);
}
