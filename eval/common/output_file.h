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
 * Call once, before any file is opened. From then on SIGINT, SIGTERM and SIGHUP, unless ignored, remove the
 * temporary files before they end the process as they always do, and a file that outgrows the process's limit
 * is a failed write instead of SIGXFSZ.
 */
void output_file_handle_signals(void);

/**
 * Start writing `path`; "-" means standard output. The old file stays as it is until output_file_commit.
 * On failure nothing needs closing. *f must not move while it is open.
 */
EVAL_MUST_CHECK bool output_file_open(output_file *f, const char *path, eval_error *e);

/**
 * Flush, sync and rename over `path`. On failure the temporary file is removed, the old file is kept, and the
 * error names the file. Closes f in every case.
 */
EVAL_MUST_CHECK bool output_file_commit(output_file *f, eval_error *e);

/** Could output_file_open probably write `path`? Touches nothing; for telling the user before long work. */
EVAL_MUST_CHECK bool output_file_check(const char *path, eval_error *e);

/** Do both paths name one file? Told by the text but for a leading ./, and where both exist, by the file. */
bool output_file_same(const char *a, const char *b);

/** Give up: remove the temporary file. Does nothing after a commit or on an all-zero struct. */
void output_file_discard(output_file *f);

#endif
