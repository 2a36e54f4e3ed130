/* Reading JSON from untrusted files: parse, and take typed fields, with errors that name file and field. */
#ifndef KVQ_EVAL_COMMON_JSON_UTIL_H
#define KVQ_EVAL_COMMON_JSON_UTIL_H

#include "eval/common/error.h"

#include <jansson.h>
#include <stddef.h>

/**
 * Parse `size` bytes as one JSON object; NULL and an error otherwise. Duplicate keys, NUL characters and text
 * after the object are errors. `offset` is where the bytes begin in the file, for the error's byte position.
 * The caller gives it back with json_decref.
 */
EVAL_MUST_CHECK json_t *json_parse_object(const char *file, const void *data, size_t size, size_t offset,
                                          eval_error *e);

/* The optional fields below leave *value alone when the key is absent or null. A value of the wrong type or
 * outside [min, max] is an error. */
EVAL_MUST_CHECK bool json_required_size(const json_t *object, const char *file, const char *key, size_t min,
                                        size_t max, size_t *value, eval_error *e);
EVAL_MUST_CHECK bool json_optional_size(const json_t *object, const char *file, const char *key, size_t min,
                                        size_t max, size_t *value, eval_error *e);
EVAL_MUST_CHECK bool json_optional_bool(const json_t *object, const char *file, const char *key, bool *value,
                                        eval_error *e);
/* *value points into the object. */
EVAL_MUST_CHECK bool json_optional_string(const json_t *object, const char *file, const char *key,
                                          const char **value, eval_error *e);

/** Fails with `file: key is <the value as JSON>, wanted`. */
bool json_wrong_value(const json_t *value, const char *file, const char *key, const char *wanted,
                      eval_error *e);

/** An integer in [0, max] as size_t; false (and no message) for anything else. */
EVAL_MUST_CHECK bool json_to_size(const json_t *number, size_t max, size_t *value);

#endif
