/* A recorded cache: the queries, keys and values of sequences that some model has run, from a file. It stands
 * where a model stands when only what happens inside attention is measured.
 *
 * L layers, B sequences of T tokens, H query heads, Hkv heads of keys and values, D numbers each. Files:
 *
 *     FILE.safetensors   q, k, v         [L][B][heads][T][D] or, for one sequence, [L][heads][T][D]
 *     FILE.safetensors   past_key_values [L][2][B][Hkv][T][D] or [L][2][Hkv][T][D], and perhaps q as above
 *     FILE.npy           one array as past_key_values
 *     DIRECTORY          k.npy, v.npy and perhaps q.npy, as k, v and q above
 *
 * Without q there are no queries, and then H = Hkv. Strings in a safetensors file's metadata: `scale`, the
 * factor on q.k (1 / sqrt(D) if there is none); `windows`, for each layer how many tokens a token attends to,
 * itself the last of them, 0 for all, with commas between; `model` and `text`, names for reports.
 * What is there must be F32, F16 or BF16.
 */
#ifndef KVQ_EVAL_MODEL_RECORDING_H
#define KVQ_EVAL_MODEL_RECORDING_H

#include "eval/common/error.h"
#include "eval/model/model.h"

#include <stdbool.h>
#include <stddef.h>

typedef struct recording recording;

/**
 * Open a file or directory as above. The headers are read and checked, no data. Errors name the file, the
 * tensor, and what was found and expected. On failure *out is untouched.
 */
EVAL_MUST_CHECK bool recording_open(recording **out, const char *path, eval_error *e);

/** Open one file held in memory, which must outlive the handle: a .npy by its first bytes, or a safetensors
 * file. `name` is used in messages. */
EVAL_MUST_CHECK bool recording_open_memory(recording **out, const char *name, const void *data, size_t size,
                                           eval_error *e);

void recording_close(recording *r); /* NULL is fine */

/** architecture "recorded"; n_ctx = T; n_embd and vocab_size 0. */
const model_shape *recording_shape(const recording *r);

size_t recording_n_sequences(const recording *r); /* B */

bool recording_has_queries(const recording *r);

/** The factor on q.k before the softmax. */
float recording_scale(const recording *r);

/** How many tokens, itself the last of them, a token of this layer attends to; 0: all. */
size_t recording_window(const recording *r, size_t layer);

/** Names of the model and the text it comes from, one line each of valid UTF-8; "" if it does not say. */
const char *recording_model(const recording *r);
const char *recording_text(const recording *r);

/** What a user should know of what the file does not say, as a sentence; NULL if there is nothing to say. */
const char *recording_note(const recording *r);

/** The type its keys are stored in, such as "F16". */
const char *recording_type(const recording *r);

/**
 * The first n <= T tokens of one layer of one sequence: q [n][H][D], k and v [n][Hkv][D] float32, row-major,
 * the caller's. q may be NULL, and is untouched if there are no queries. Several threads may read at a time.
 * Errors: a read that fails, a file that has become shorter, numbers that are not finite (with their place).
 */
EVAL_MUST_CHECK bool recording_read(const recording *r, size_t layer, size_t sequence, size_t n, float *q,
                                    float *k, float *v, eval_error *e);

/** XXH3-64 of scale and windows, then of all numbers as little-endian float32, layer by layer, sequence by
 * sequence: q, k, v. Errors as of recording_read. */
EVAL_MUST_CHECK bool recording_checksum(const recording *r, uint64_t *checksum, eval_error *e);

#endif
