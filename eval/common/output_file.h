/* A file that appears whole or not at all: written under a temporary name, synced, then renamed. */
#ifndef KVQ_EVAL_COMMON_OUTPUT_FILE_H
#define KVQ_EVAL_COMMON_OUTPUT_FILE_H

#include "eval/common/error.h"

#include <stdio.h>

typedef struct output_file {
    FILE *stream; /* write here; NULL once closed */
    char path[4096];
    char temporary[4096];
    bool is_stdout;
} output_file;

/**
 * Start writing `path`; "-" means standard output. The old file stays as it is until output_file_commit; if
 * it is one that input_file.h has opened, that is an error.
 * Where `path` is a symbolic link, the file it leads to is the one that is written or replaced. On failure
 * nothing needs closing. *f must not move while it is open.
 */
EVAL_MUST_CHECK bool output_file_open(output_file *f, const char *path, eval_error *e);

/**
 * Flush, sync and rename over `path`. On failure the temporary file is removed, the old file is kept, and
 * the error names the file. Closes f in every case.
 */
EVAL_MUST_CHECK bool output_file_commit(output_file *f, eval_error *e);

/** Could output_file_open probably write `path`? Touches nothing; for telling the user before long work. */
EVAL_MUST_CHECK bool output_file_check(const char *path, eval_error *e);

/**
 * Do both paths name one file, symbolic links followed? Told by the files themselves where both exist, else
 * by their directories and names. Devices and pipes take several reports and count as different.
 */
bool output_file_same(const char *a, const char *b);

/** Give up: remove the temporary file. Does nothing after a commit or on an all-zero struct. */
void output_file_discard(output_file *f);

/** Has an output file on standard output failed? Then its user has been told, and need not be told again at
 * the end. */
bool output_file_stdout_failed(void);

/** Remove the temporary files of all open output files; a signal handler may call it. */
void output_file_remove_temporaries(void);

#endif
