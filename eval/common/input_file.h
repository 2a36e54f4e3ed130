/* A whole file read into memory: a copy, which stays as it is whatever happens to the file. */
#ifndef KVQ_EVAL_COMMON_INPUT_FILE_H
#define KVQ_EVAL_COMMON_INPUT_FILE_H

#include "eval/common/error.h"

#include <stddef.h>
#include <stdint.h>

typedef struct input_file {
    uint8_t *data; /* size bytes; not NULL even if there are none */
    size_t size;
    char path[4096]; /* as opened, for error messages */
} input_file;

/**
 * Read `dir`/`name`, or just `name` if dir is NULL. It must be a regular file: to a FIFO without a writer
 * this says no, and does not wait. On failure f needs no input_file_free. Errors: cannot open or read (with
 * the system's reason), not a regular file, path too long, longer than INPUT_FILE_MAX_BYTES, out of memory.
 */
EVAL_MUST_CHECK bool input_file_read(input_file *f, const char *dir, const char *name, eval_error *e);

/** The same for pipes, terminals and devices too, up to their end; "-" is standard input. */
EVAL_MUST_CHECK bool input_file_read_stream(input_file *f, const char *name, eval_error *e);

/** f may be freed twice, or when it is all zero. */
void input_file_free(input_file *f);

/**
 * Open `dir`/`name`, a regular file, for reading; its path goes to path[4096] and its present size to
 * *size. The caller closes *fd.
 */
EVAL_MUST_CHECK bool input_file_open(int *fd, size_t *size, char path[4096], const char *dir,
                                     const char *name, eval_error *e);

/**
 * Fill dst with n_bytes from byte `at` of fd. If the file ends before, because it has become shorter since
 * its size was taken, the error says so.
 */
EVAL_MUST_CHECK bool input_file_read_at(int fd, const char *path, void *dst, size_t n_bytes, size_t at,
                                        eval_error *e);

/** Has the file that `path` leads to, a regular one, been opened by any of these, or noted? */
bool input_file_was_opened(const char *path);

/** Forget them: what was read may be replaced now. */
void input_file_forget_all(void);

/** Note an input that others open, such as a shared object; does nothing if it is no regular file. */
void input_file_note(const char *path);

/** Does the name end like this, with something before it? */
bool input_file_has_suffix(const char *name, const char *suffix);

#define INPUT_FILE_MAX_BYTES ((size_t)1 << 30)

#endif
