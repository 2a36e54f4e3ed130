/* The first part of a GGUF file, read from front to back with every length checked (gguf.c's own). */
#ifndef KVQ_EVAL_MODEL_GGUF_HEADER_H
#define KVQ_EVAL_MODEL_GGUF_HEADER_H

#include "eval/common/error.h"
#include "eval/model/tensor.h"

#include <stddef.h>
#include <stdint.h>

/* More than any tokenizer needs. A damaged length must not make us read a whole disk. */
#define GGUF_MAX_HEADER_BYTES ((size_t)256 << 20)

/* `bytes` is a copy of the file's first n_bytes and moves while it grows, so places in it are kept as
 * numbers, which are the file's own. One byte more than n_bytes is allocated. */
typedef struct gguf_header {
    const tensor_source *source;
    uint8_t *bytes;
    size_t n_bytes;
    size_t at;       /* what is before has been taken */
    char where[240]; /* "" or "key 'name': " or "tensor 'name': ", for messages */
} gguf_header;

/** How many bytes may still be taken. */
size_t gguf_left(const gguf_header *h);

/** Step over n bytes, which are in memory then. `what` is a noun with its article, for the message. */
EVAL_MUST_CHECK bool gguf_take(gguf_header *h, size_t n, const char *what, eval_error *e);

EVAL_MUST_CHECK bool gguf_take_u32(gguf_header *h, const char *what, uint32_t *value, eval_error *e);
EVAL_MUST_CHECK bool gguf_take_u64(gguf_header *h, const char *what, uint64_t *value, eval_error *e);

/** A number of things that take at least min_bytes each, checked against what is left. */
EVAL_MUST_CHECK bool gguf_take_count(gguf_header *h, const char *what, size_t min_bytes, size_t *n,
                                     eval_error *e);

/** A string of at most max_bytes: where its first byte is, and how many there are. */
EVAL_MUST_CHECK bool gguf_take_string(gguf_header *h, const char *what, size_t max_bytes, size_t *at,
                                      size_t *n_bytes, eval_error *e);

/** A string that is a name: not empty, no NUL in it. From then on messages say that they are about it. */
EVAL_MUST_CHECK bool gguf_take_name(gguf_header *h, const char *noun, size_t max_bytes, size_t *at,
                                    size_t *n_bytes, eval_error *e);

/** Give back what was read ahead. */
void gguf_header_trim(gguf_header *h);

#endif
