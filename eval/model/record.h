/* Records what a model's fp32 run gives attention: the files that recording.h reads. */
#ifndef KVQ_EVAL_MODEL_RECORD_H
#define KVQ_EVAL_MODEL_RECORD_H

#include "eval/common/error.h"
#include "eval/model/model.h"
#include "eval/model/tensor_type.h"

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>

typedef struct record_config {
    const model *model;
    const int32_t *ids; /* [n_windows][n_tokens] */
    size_t n_windows, n_tokens;
    const char *model_name, *text_name; /* kept in the file's metadata */
    tensor_type type;                   /* F32, F16 or BF16 */
    /* True: .npy, one array as past_key_values, keys and values only, F32 or F16. False: safetensors with q,
     * k, v and the metadata scale, windows (if a layer has one), model and text. */
    bool npy;
    void (*progress)(void *ctx, double fraction); /* may be NULL */
    void *progress_ctx;
} record_config;

/**
 * Run all windows with exact attention over all tokens, and write. The stream must be able to seek; `name` is
 * its file's, for messages. Errors: out of memory; a write that fails; a model whose factor on q.k is not the
 * same in all layers, which the format has no place for; numbers that are not finite, or too large for the
 * type, with their layer and window.
 */
EVAL_MUST_CHECK bool record_write(FILE *f, const char *name, const record_config *c, eval_error *e);

/** Bytes of the data of the file. */
uint64_t record_bytes(const record_config *c);

#endif
