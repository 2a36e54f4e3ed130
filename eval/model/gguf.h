/* GGUF files (versions 2 and 3, little-endian): metadata and tensors, validated when opened.
 *
 * Source: the format's specification (ggml, docs/gguf.md).
 */
#ifndef KVQ_EVAL_MODEL_GGUF_H
#define KVQ_EVAL_MODEL_GGUF_H

#include "eval/common/error.h"
#include "eval/model/tensor.h"

#include <stddef.h>
#include <stdint.h>

typedef struct gguf gguf;

/* Of a metadata value; the numbers are the file's. */
typedef enum gguf_kind {
    GGUF_U8 = 0,
    GGUF_I8 = 1,
    GGUF_U16 = 2,
    GGUF_I16 = 3,
    GGUF_U32 = 4,
    GGUF_I32 = 5,
    GGUF_F32 = 6,
    GGUF_BOOL = 7,
    GGUF_STRING = 8,
    GGUF_ARRAY = 9,
    GGUF_U64 = 10,
    GGUF_I64 = 11,
    GGUF_F64 = 12,
} gguf_kind;

/**
 * Open a file. On failure *out is untouched and the message names file, key or tensor, byte and what was
 * expected.
 */
EVAL_MUST_CHECK bool gguf_open(gguf **out, const char *path, eval_error *e);

/** Open one held in memory, which must outlive the handle. `name` is used in messages. */
EVAL_MUST_CHECK bool gguf_open_memory(gguf **out, const char *name, const void *data, size_t size,
                                      eval_error *e);

void gguf_close(gguf *g); /* NULL is fine */

const char *gguf_path(const gguf *g);
const tensor_list *gguf_tensors(const gguf *g);

/* ---- metadata ----
 *
 * As json_util.h: the optional ones leave *value alone when the key is absent; a value of the wrong kind or
 * outside [min, max] is an error that names file, key, byte and what was expected. Any integer kind is a
 * size. Strings need not end with NUL in the file, but do here; one with a NUL inside is an error.
 */
bool gguf_has(const gguf *g, const char *key);

/** Key number i, sorted, or NULL beyond the last; its value's kind, and that of an array's elements. */
const char *gguf_key(const gguf *g, size_t i, gguf_kind *kind, gguf_kind *element);

EVAL_MUST_CHECK bool gguf_required_size(const gguf *g, const char *key, size_t min, size_t max, size_t *value,
                                        eval_error *e);
EVAL_MUST_CHECK bool gguf_optional_size(const gguf *g, const char *key, size_t min, size_t max, size_t *value,
                                        eval_error *e);
EVAL_MUST_CHECK bool gguf_optional_float(const gguf *g, const char *key, double min, double max,
                                         double *value, eval_error *e);
EVAL_MUST_CHECK bool gguf_optional_bool(const gguf *g, const char *key, bool *value, eval_error *e);
EVAL_MUST_CHECK bool gguf_optional_string(const gguf *g, const char *key, const char **value, eval_error *e);

/**
 * The array of that key, all of whose elements are of `kind`: *n of them. Absent: *n is 0. Its elements, by
 * number below *n: a string with its length in bytes (which may hold any bytes), an integer or bool (one
 * beyond int64 is INT64_MAX), a float. Each takes the time of one look-up of the key.
 */
EVAL_MUST_CHECK bool gguf_optional_array(const gguf *g, const char *key, gguf_kind kind, size_t *n,
                                         eval_error *e);
const char *gguf_array_string(const gguf *g, const char *key, size_t i, size_t *n_bytes);
int64_t gguf_array_integer(const gguf *g, const char *key, size_t i);
double gguf_array_float(const gguf *g, const char *key, size_t i);

#endif
