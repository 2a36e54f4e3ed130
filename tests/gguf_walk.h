/* Opens GGUF files in memory for the tests and touches all that is in them. */
#ifndef KVQ_TESTS_GGUF_WALK_H
#define KVQ_TESTS_GGUF_WALK_H

#include "eval/model/gguf.h"

#include <criterion/criterion.h>
#include <stdlib.h>
#include <string.h>

/* Touches everything a user could touch. */
static inline void gguf_walk(const gguf *g)
{
    eval_error e = {""};
    gguf_kind kind, element;
    const char *key;
    const tensor_list *list = gguf_tensors(g);
    for (size_t i = 0; (key = gguf_key(g, i, &kind, &element)) != NULL; i++) {
        size_t n, n_bytes, size = 0;
        const char *text = "";
        cr_assert(gguf_has(g, key));
        if (kind != GGUF_ARRAY) {
            if (gguf_optional_string(g, key, &text, &e) && gguf_optional_size(g, key, 0, SIZE_MAX, &size, &e))
                cr_assert(strlen(text) < SIZE_MAX);
            continue;
        }
        cr_assert(gguf_optional_array(g, key, element, &n, &e), "%s", e.text);
        for (size_t j = 0; j < n; j++)
            if (element == GGUF_STRING)
                cr_assert_eq(gguf_array_string(g, key, j, &n_bytes)[n_bytes], '\0');
            else if (element == GGUF_F32 || element == GGUF_F64)
                (void)gguf_array_float(g, key, j);
            else
                (void)gguf_array_integer(g, key, j);
    }
    for (size_t i = 0; i < list->n; i++) {
        const tensor *t = &list->tensors[i];
        cr_assert_eq(tensor_find(list, t->name), t);
        if (t->type == TENSOR_UNREADABLE)
            continue;
        float *values = malloc(t->n_elems * sizeof *values + 1);
        cr_assert(tensor_read_f32(t, 0, t->n_elems, values, &e), "%s", e.text);
        free(values);
    }
}

/* Opens an exact-size copy, so that the sanitizer sees every read past the end. */
static inline bool gguf_open_copy(const uint8_t *bytes, size_t n, eval_error *e)
{
    gguf *g = NULL;
    uint8_t *copy = malloc(n ? n : 1);
    cr_assert_not_null(copy);
    if (n > 0)
        memcpy(copy, bytes, n);
    const bool good = gguf_open_memory(&g, "test", copy, n, e);
    if (good)
        gguf_walk(g);
    else
        cr_assert_null(g, "untouched on failure");
    gguf_close(g);
    free(copy);
    return good;
}

#endif
