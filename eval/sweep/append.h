/* A results file that lines are appended to, by one process or several at once. */
#ifndef KVQ_EVAL_SWEEP_APPEND_H
#define KVQ_EVAL_SWEEP_APPEND_H

#include "eval/common/error.h"

#include <stddef.h>

/**
 * Can lines be appended to `path` and read again? Not where it is there and no regular file. It is not
 * opened, which would wait for the other end of a pipe.
 */
EVAL_MUST_CHECK bool append_check(const char *path, eval_error *e);

/** Open `path` for appending, and make it if it is not there. -1 on failure. */
EVAL_MUST_CHECK int append_open(const char *path, eval_error *e);

/**
 * Append lines, each with its newline, by one write() each, then bring the file to disk. Where the file's
 * last line was cut short, a newline comes first. Other processes that append so wait meanwhile.
 */
EVAL_MUST_CHECK bool append_lines(int fd, const char *path, const char *const *lines, size_t n,
                                  eval_error *e);

#endif
