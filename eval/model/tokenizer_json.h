/* The parts of tokenizer.json that come as a type and its fields. */
#ifndef KVQ_EVAL_MODEL_TOKENIZER_JSON_H
#define KVQ_EVAL_MODEL_TOKENIZER_JSON_H

#include "eval/model/tokenizer_parts.h"

#include <jansson.h>

/* What the steps say of the vocabulary's alphabet. */
typedef struct json_alphabet {
    bool byte_level;
    char space[MAX_NORMALIZER_BYTES + 1]; /* what a space is written as, or "" */
} json_alphabet;

/** The field "type" of an object, which must be one; NULL and an error otherwise. */
const char *json_type_of(const json_t *object, const char *file, const char *key, eval_error *e);

/** normalizer, pre_tokenizer and decoder of `root`; a decoder only has to be one that undoes the others. */
EVAL_MUST_CHECK bool json_load_steps(tokenizer *t, json_alphabet *alphabet, const char *file,
                                     const json_t *root, eval_error *e);

/** *bos_id of the post_processor, if there is one and it puts a token first; else *bos_id stays. */
EVAL_MUST_CHECK bool json_load_post_processor(const char *file, const json_t *root, int32_t *bos_id,
                                              eval_error *e);

#endif
