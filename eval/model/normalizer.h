/* What is done to a text before it is split: NFC, a space written as another character, one put before. */
#ifndef KVQ_EVAL_MODEL_NORMALIZER_H
#define KVQ_EVAL_MODEL_NORMALIZER_H

#include "eval/common/error.h"

#include <stddef.h>

/* Bytes that grow; all zero to begin with. */
typedef struct text_buffer {
    char *data;
    size_t n, capacity;
} text_buffer;

EVAL_MUST_CHECK bool text_append(text_buffer *b, const char *text, size_t n, eval_error *e);
void text_buffer_free(text_buffer *b);

typedef enum normalizer_kind { NORMALIZE_NFC, NORMALIZE_PREPEND, NORMALIZE_REPLACE } normalizer_kind;

enum { MAX_NORMALIZERS = 8, MAX_NORMALIZER_BYTES = 16 };

/* Its texts are UTF-8, of at most MAX_NORMALIZER_BYTES. */
typedef struct normalizer_step {
    normalizer_kind kind;
    char from[MAX_NORMALIZER_BYTES]; /* REPLACE; not empty */
    size_t n_from;
    char to[MAX_NORMALIZER_BYTES]; /* REPLACE, PREPEND */
    size_t n_to;
} normalizer_step;

typedef struct normalizer {
    normalizer_step steps[MAX_NORMALIZERS];
    size_t n_steps;
} normalizer;

/**
 * All steps over n bytes of valid UTF-8; the result is *text, *n, which is the text itself or in one of the
 * buffers. Nothing is prepended where `prepend` is false, or to an empty text. Errors: out of memory; a
 * result that is more than a hundred times as long.
 */
EVAL_MUST_CHECK bool normalize(const normalizer *z, bool prepend, text_buffer buffers[2], const char **text,
                               size_t *n, eval_error *e);

#endif
