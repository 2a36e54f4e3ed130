/* Putting a tokenizer together from what its files say (tokenizer_parts.h). */
#include "eval/model/tokenizer_parts.h"

#include <stdlib.h>
#include <string.h>

bool tokenizer_set_added(tokenizer *t, const char *file, const added_token *tokens, size_t n, eval_error *e)
{
    return added_tokens_build(&t->plain, file, tokens, n, false, &t->normalizer, e) &&
           added_tokens_build(&t->normalized, file, tokens, n, true, &t->normalizer, e);
}

/* ---- splitting ---- */

static split_step *new_step(tokenizer *t, const char *file, eval_error *e)
{
    if (t->splitter.n_steps == MAX_SPLIT_STEPS) {
        (void)eval_fail(e, "%s: more than %d steps of pre-tokenizers", file, MAX_SPLIT_STEPS);
        return NULL;
    }
    return &t->splitter.steps[t->splitter.n_steps++];
}

bool tokenizer_add_split(tokenizer *t, const char *file, const char *pattern, size_t n, bool literal,
                         split_behavior behavior, bool invert, eval_error *e)
{
    split_step *step = new_step(t, file, e);
    if (!step)
        return false;
    step->behavior = behavior;
    step->invert = invert;
    return regex_compile(&step->pattern, file, pattern, n, literal, e);
}

bool tokenizer_add_gpt2_split(tokenizer *t, const char *file, eval_error *e)
{
    static const char pattern[] = GPT2_WORDS "|\\s+";
    return tokenizer_add_split(t, file, pattern, sizeof pattern - 1, false, SPLIT_ISOLATED, false, e);
}

bool tokenizer_add_respace(tokenizer *t, const char *file, const char *space, prepend_scheme scheme,
                           eval_error *e)
{
    split_step *step = new_step(t, file, e);
    if (!step)
        return false;
    step->n_space = strlen(space);
    if (step->n_space == 0 || step->n_space > MAX_NORMALIZER_BYTES)
        return eval_fail(e, "%s: a replacement of %zu bytes for a space, expected 1 to %d", file,
                         step->n_space, MAX_NORMALIZER_BYTES);
    memcpy(step->space, space, step->n_space);
    step->scheme = scheme;
    return true;
}

/* ---- merges ---- */

/* The id of a token by its name in the file, or -1. `bytes` has room for n. */
static int32_t find_name(const vocabulary *v, const char *name, size_t n, char *bytes)
{
    bool by_hand = false;
    if (!v->byte_level)
        return vocabulary_find(v, name, n);
    const size_t n_bytes = byte_level_bytes(name, n, bytes, &by_hand);
    return by_hand ? -1 : vocabulary_find(v, bytes, n_bytes);
}

static bool reserve(merge_list *list, size_t n_joined)
{
    if (list->n == list->capacity) {
        const size_t capacity = list->capacity + list->capacity / 2 + 1024;
        merge *merges = realloc(list->merges, capacity * sizeof *merges);
        if (!merges)
            return false;
        list->merges = merges;
        list->capacity = capacity;
    }
    if (2 * n_joined > list->joined_capacity) {
        char *joined = realloc(list->joined, 4 * n_joined);
        if (!joined)
            return false;
        list->joined = joined;
        list->joined_capacity = 4 * n_joined;
    }
    return true;
}

bool merge_list_add(merge_list *list, const vocabulary *v, const char *file, const char *unit, uint32_t rank,
                    const char *left, size_t n_left, const char *right, size_t n_right, eval_error *e)
{
    const size_t n = n_left + n_right;
    if (!reserve(list, n))
        return eval_fail(e, "%s: out of memory for %zu merges", file, list->n);
    char *joined = list->joined, *bytes = list->joined + n;
    memcpy(joined, left, n_left);
    memcpy(joined + n_left, right, n_right);
    const merge m = {find_name(v, left, n_left, bytes), find_name(v, right, n_right, bytes),
                     find_name(v, joined, n, bytes), rank};
    if (m.left < 0 || m.right < 0 || m.result < 0) {
        const char *unknown = m.left < 0 ? left : m.right < 0 ? right : joined;
        const size_t length = m.left < 0 ? n_left : m.right < 0 ? n_right : n;
        return eval_fail(e, "%s: %s %u: token '%.*s' is not in the vocabulary", file, unit, (unsigned)rank,
                         (int)(length < 100 ? length : 100), unknown);
    }
    list->merges[list->n++] = m;
    return true;
}

bool merge_list_finish(merge_list *list, tokenizer *t, const char *file, const char *unit, eval_error *e)
{
    merge twice;
    uint32_t before = 0;
    const bool ok = merge_table_build(&t->merges, list->merges, list->n, t->vocab.n_tokens, &twice, &before);
    list->merges = NULL;
    merge_list_free(list);
    if (!ok)
        return eval_fail(e, "%s: out of memory", file);
    return twice.left < 0 || eval_fail(e, "%s: %s %u: the same merge as %s %u", file, unit,
                                       (unsigned)twice.rank, unit, (unsigned)before);
}

void merge_list_free(merge_list *list)
{
    free(list->merges);
    free(list->joined);
    memset(list, 0, sizeof *list);
}
