/* A whole file mapped into memory, read-only. */
#ifndef KVQ_EVAL_MODEL_MAPPED_FILE_H
#define KVQ_EVAL_MODEL_MAPPED_FILE_H

#include "eval/common/error.h"

#include <stddef.h>
#include <stdint.h>

typedef struct mapped_file {
    const uint8_t *data; /* size bytes; never NULL, also for an empty file */
    size_t size;
    char path[4096]; /* as opened, for error messages */
    void *mapping;   /* NULL for an empty file and after mapped_file_close */
} mapped_file;

/**
 * Map `dir`/`name`, or just `name` if dir is NULL. The file must be a regular file; an empty one gives size
 * 0.
 *
 * The mapping is private and read-only. If another program truncates the file while it is mapped, reading the
 * lost part raises SIGBUS, as with every mapped file.
 * On failure f needs no close. Errors: cannot open (with the system's reason), not a regular file, path too
 * long.
 */
EVAL_MUST_CHECK bool mapped_file_open(mapped_file *f, const char *dir, const char *name, eval_error *e);

/** Unmap; f may be closed twice, or closed when it is all zero. */
void mapped_file_close(mapped_file *f);

#endif
