/* The tokens of a vocabulary: what the encoder matches, what they decode to, and finding one by its bytes. */
#ifndef KVQ_EVAL_MODEL_VOCABULARY_H
#define KVQ_EVAL_MODEL_VOCABULARY_H

#include "eval/common/error.h"

#include <stddef.h>
#include <stdint.h>

/* One token as a file gives it. A name of NULL: no token has this id. */
typedef struct token_source {
    const char *name;
    size_t n_name;
    bool in_model; /* the encoder may make it */
    bool raw;      /* an added token: its name is text, whatever the vocabulary's alphabet */
} token_source;

typedef struct string_table {
    size_t *start; /* [n + 1], into bytes */
    char *bytes;
} string_table;

/* By its first eight bytes, big-endian, then by all of them, then by id. */
typedef struct vocabulary_entry {
    uint64_t prefix;
    int32_t id;
} vocabulary_entry;

typedef struct vocabulary {
    size_t n_tokens; /* the largest id is n_tokens - 1 */
    bool byte_level; /* names write each byte as one character; else they are text with "<0x0A>" for bytes */
    string_table text;       /* what the encoder matches */
    string_table decoded;    /* what a token decodes to; the same memory as text if byte_level */
    int32_t byte_token[256]; /* -1: none */
    bool *raw;               /* [n_tokens]: added tokens */
    vocabulary_entry *index;
    size_t n_index;
} vocabulary;

enum { MAX_TOKENS = 1 << 24 };

/**
 * Copies the n tokens, `space` (may be empty) being the string of text that stands for a space in a
 * vocabulary that is not byte_level. On failure v needs vocabulary_free all the same.
 */
EVAL_MUST_CHECK bool vocabulary_build(vocabulary *v, const char *file, const token_source *tokens, size_t n,
                                      bool byte_level, const char *space, eval_error *e);
void vocabulary_free(vocabulary *v);

/** The id of the model's token of these bytes, or -1; the largest if there are several. */
int32_t vocabulary_find(const vocabulary *v, const char *text, size_t n);

/**
 * Writes the bytes a byte-level name stands for and returns how many. A name with a character that stands for
 * no byte was added by hand and means itself: *by_hand (may be NULL). `out` has room for n bytes.
 */
size_t byte_level_bytes(const char *name, size_t n, char *out, bool *by_hand);

/** The byte that a name such as "<0x0A>" stands for, or -1. */
int byte_of_name(const char *name, size_t n);

#endif
