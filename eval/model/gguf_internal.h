/* What gguf.c and gguf_metadata.c share. */
#ifndef KVQ_EVAL_MODEL_GGUF_INTERNAL_H
#define KVQ_EVAL_MODEL_GGUF_INTERNAL_H

#include "eval/model/gguf.h"
#include "eval/model/gguf_header.h"

/* One key with its value, which stays in the header's bytes. */
typedef struct gguf_entry {
    const char *key; /* once the header has stopped moving */
    size_t key_at, n_key;
    size_t at; /* the value's first byte: of a string the first character, of an array the first element */
    size_t n;  /* bytes of a string, elements of an array */
    gguf_kind kind;
    gguf_kind element; /* of an array */
    /* Of an array of strings: n + 1 places. Each is of the first character, and the length before it; the
     * last is where one more string would be. */
    size_t *strings;
} gguf_entry;

typedef struct gguf_entries {
    gguf_entry *entries; /* sorted by key once they have one */
    size_t n, capacity;
} gguf_entries;

struct gguf {
    tensor_source source;
    gguf_header header;
    gguf_entries metadata;
    tensor_list list;
    char (*unknown_types)[16]; /* names of types that have none, by tensor; NULL if there are none */
};

/** Take n keys with their values. */
EVAL_MUST_CHECK bool gguf_take_metadata(gguf *g, size_t n, eval_error *e);

/** Once all of the header was taken: end its strings with NUL, sort the keys, refuse duplicates. */
EVAL_MUST_CHECK bool gguf_seal_metadata(gguf *g, eval_error *e);

void gguf_free_metadata(gguf *g);

/** Fails with "file: byte N: key 'x' is FOUND, expected WANTED". */
bool gguf_wrong_value(const gguf *g, const char *key, const char *wanted, eval_error *e);

#endif
