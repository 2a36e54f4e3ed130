/* A file that appears whole or not at all: written under a temporary name, synced, then renamed. */
#ifndef KVQ_EVAL_OUTPUT_FILE_H
#define KVQ_EVAL_OUTPUT_FILE_H

#include "eval/error.h"

#include <stdio.h>

typedef struct output_file {
    FILE *stream; /* write here; NULL once closed */
    char path[4096];
    char temporary[4096];
    bool is_stdout;
} output_file;

/**
 * Start writing `path`; "-" means standard output. The old file stays as it is until output_file_commit.
 * On failure nothing needs closing.
 */
EVAL_MUST_CHECK bool output_file_open(output_file *f, const char *path, eval_error *e);

/**
 * Flush, sync and rename over `path`. On failure the temporary file is removed, the old file is kept, and the
 * error names the file. Closes f in every case.
 */
EVAL_MUST_CHECK bool output_file_commit(output_file *f, eval_error *e);

/** Could output_file_open probably write `path`? Touches nothing; for telling the user before long work. */
EVAL_MUST_CHECK bool output_file_check(const char *path, eval_error *e);

/** Give up: remove the temporary file. Does nothing after a commit or on an all-zero struct. */
void output_file_discard(output_file *f);

#endif
