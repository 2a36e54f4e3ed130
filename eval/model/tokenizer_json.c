/* Hugging Face's tokenizer.json, with what tokenizer_config.json adds (tokenizer.h).
 *
 * Source: the format is that of the library `tokenizers`; its documentation and behaviour.
 */
#include "eval/model/tokenizer_json.h"

#include "eval/common/json_util.h"

#include <stdlib.h>
#include <string.h>

enum { MAX_JSON_ID = (1 << 22) - 1 }; /* ids need not be dense, but memory goes with the largest */

/* What is collected before the parts are built. */
typedef struct loader {
    tokenizer *t;
    const char *file;
    json_alphabet alphabet;
    const json_t *model, *vocab;
    token_source *tokens; /* [n_tokens], names point into the JSON */
    size_t n_tokens;
    added_token *added;
    size_t n_added;
} loader;

/* ---- tokens ---- */

static bool find_largest(const json_t *value, const char *file, const char *name, size_t *largest,
                         eval_error *e)
{
    size_t id;
    char *found;
    if (json_to_size(value, MAX_JSON_ID, &id)) {
        *largest = id > *largest ? id : *largest;
        return true;
    }
    found = value ? json_dumps(value, JSON_ENCODE_ANY) : NULL;
    (void)eval_fail(e, "%s: token '%.100s' has id %.40s, expected an integer from 0 to %d", file, name,
                    found ? found : "?", MAX_JSON_ID);
    free(found);
    return false;
}

static bool count_tokens(loader *l, const json_t *added, eval_error *e)
{
    size_t largest = 0;
    const char *name;
    const json_t *value;
    json_object_foreach((json_t *)l->vocab, name, value)
    {
        if (!find_largest(value, l->file, name, &largest, e))
            return false;
    }
    for (size_t i = 0; i < json_array_size(added); i++) {
        const json_t *token = json_array_get(added, i);
        const char *content = json_string_value(json_object_get(token, "content"));
        if (!content)
            return json_wrong_value(token, l->file, "an added token", "expected an object with its content",
                                    e);
        if (!find_largest(json_object_get(token, "id"), l->file, content, &largest, e))
            return false;
    }
    l->n_tokens = largest + 1;
    l->tokens = calloc(l->n_tokens, sizeof *l->tokens);
    l->added = calloc(json_array_size(added) + 1, sizeof *l->added);
    return (l->tokens && l->added) || eval_fail(e, "%s: out of memory for %zu tokens", l->file, l->n_tokens);
}

/* The token of the model's vocabulary with this name, or -1. */
static int32_t model_token(const loader *l, const char *name)
{
    const json_t *id = json_object_get(l->vocab, name);
    return id ? (int32_t)json_integer_value(id) : -1;
}

static bool take_token(loader *l, const char *name, size_t id, eval_error *e)
{
    token_source *token = &l->tokens[id];
    if (token->name)
        return eval_fail(e, "%s: tokens '%.100s' and '%.100s' both have id %zu", l->file, token->name, name,
                         id);
    token->name = name;
    token->n_name = strlen(name);
    return true;
}

static bool take_added(loader *l, const json_t *object, eval_error *e)
{
    const char *content = json_string_value(json_object_get(object, "content"));
    const json_int_t id = json_integer_value(json_object_get(object, "id"));
    const int32_t in_model = model_token(l, content);
    bool special = false;
    added_token a = {.content = content, .n = strlen(content), .id = (int32_t)id};
    if (a.n == 0)
        return true; /* as `tokenizers` does */
    if (in_model >= 0 && in_model != a.id)
        return eval_fail(e, "%s: added token '%.100s' has id %d, but %d in the vocabulary", l->file, content,
                         (int)a.id, (int)in_model);
    if (in_model < 0 && !take_token(l, content, (size_t)id, e))
        return false;
    if (!json_optional_bool(object, l->file, "special", &special, e))
        return false;
    a.normalized = !special;
    if (!json_optional_bool(object, l->file, "normalized", &a.normalized, e) ||
        !json_optional_bool(object, l->file, "single_word", &a.single_word, e) ||
        !json_optional_bool(object, l->file, "lstrip", &a.lstrip, e) ||
        !json_optional_bool(object, l->file, "rstrip", &a.rstrip, e))
        return false;
    l->tokens[id].raw = true;
    l->added[l->n_added++] = a;
    return true;
}

static bool load_tokens(loader *l, const json_t *root, eval_error *e)
{
    const json_t *added = json_object_get(root, "added_tokens");
    const char *name;
    const json_t *value;
    if (added && !json_is_null(added) && !json_is_array(added))
        return json_wrong_value(added, l->file, "added_tokens", "expected an array", e);
    if (!count_tokens(l, added, e))
        return false;
    json_object_foreach((json_t *)l->vocab, name, value)
    {
        const size_t id = (size_t)json_integer_value(value);
        if (!take_token(l, name, id, e))
            return false;
        l->tokens[id].in_model = true;
    }
    for (size_t i = 0; i < json_array_size(added); i++)
        if (!take_added(l, json_array_get(added, i), e))
            return false;
    return vocabulary_build(&l->t->vocab, l->file, l->tokens, l->n_tokens, l->alphabet.byte_level,
                            l->alphabet.space, e) &&
           tokenizer_set_added(l->t, l->file, l->added, l->n_added, e);
}

/* ---- the model ---- */

static bool add_merge(const loader *l, merge_list *list, uint32_t number, const json_t *m, eval_error *e)
{
    const char *left = json_string_value(json_is_array(m) ? json_array_get(m, 0) : m), *right = NULL;
    size_t n_left = left ? strlen(left) : 0;
    if (json_is_array(m) && json_array_size(m) == 2) {
        right = json_string_value(json_array_get(m, 1));
    } else if (left && !json_is_array(m)) {
        const char *space = strchr(left, ' ');
        if (space && !strchr(space + 1, ' ')) {
            right = space + 1;
            n_left = (size_t)(space - left);
        }
    }
    if (!left || !right || n_left == 0 || right[0] == '\0')
        return eval_fail(e,
                         "%s: merges entry %u: expected two tokens, as a list or with one space between them",
                         l->file, (unsigned)number);
    return merge_list_add(list, &l->t->vocab, l->file, "merges entry", number, left, n_left, right,
                          strlen(right), e);
}

static bool load_merges(const loader *l, eval_error *e)
{
    const json_t *merges = json_object_get(l->model, "merges");
    merge_list list = {0};
    if (!json_is_array(merges))
        return json_wrong_value(merges, l->file, "model.merges", "expected an array", e);
    if (json_array_size(merges) >= UINT32_MAX)
        return eval_fail(e, "%s: %zu merges are too many", l->file, json_array_size(merges));
    for (size_t i = 0; i < json_array_size(merges); i++)
        if (!add_merge(l, &list, (uint32_t)i, json_array_get(merges, i), e)) {
            merge_list_free(&list);
            return false;
        }
    return merge_list_finish(&list, l->t, l->file, "merges entry", e);
}

/* Fields that would change the encoding and that no byte-level or SentencePiece-like model has. */
static bool refuse_fields(const loader *l, eval_error *e)
{
    static const char *const affixes[] = {"continuing_subword_prefix", "end_of_word_suffix"};
    for (size_t i = 0; i < 2; i++) {
        const char *affix = "";
        if (!json_optional_string(l->model, l->file, affixes[i], &affix, e))
            return false;
        if (affix[0] != '\0')
            return eval_fail(e, "%s: %s '%.40s' is not supported", l->file, affixes[i], affix);
    }
    const json_t *dropout = json_object_get(l->model, "dropout");
    return !dropout || json_is_null(dropout) ||
           (json_is_number(dropout) && json_number_value(dropout) == 0.0) ||
           json_wrong_value(dropout, l->file, "dropout", "which is not supported", e);
}

/* Finds the model, and its vocabulary. */
static bool find_model(loader *l, const json_t *root, eval_error *e)
{
    const char *type = NULL;
    l->model = json_object_get(root, "model");
    l->vocab = json_object_get(l->model, "vocab");
    if (!json_is_object(l->model))
        return json_wrong_value(l->model, l->file, "model", "expected an object", e);
    if (!json_optional_string(l->model, l->file, "type", &type, e))
        return false;
    if (!type && !json_object_get(l->model, "merges"))
        return eval_fail(e, "%s: model has neither a type nor merges, expected one of type BPE", l->file);
    if (type && strcmp(type, "BPE") != 0)
        return eval_fail(e, "%s: model of type %.60s is not supported, expected BPE", l->file, type);
    if (!json_is_object(l->vocab) || json_object_size(l->vocab) == 0)
        return json_wrong_value(l->vocab, l->file, "model.vocab", "expected an object of tokens", e);
    return refuse_fields(l, e);
}

static bool load_model(loader *l, eval_error *e)
{
    const char *unk = NULL;
    tokenizer *t = l->t;
    if (!json_optional_bool(l->model, l->file, "ignore_merges", &t->ignore_merges, e) ||
        !json_optional_bool(l->model, l->file, "byte_fallback", &t->byte_fallback, e) ||
        !json_optional_bool(l->model, l->file, "fuse_unk", &t->fuse_unk, e) ||
        !json_optional_string(l->model, l->file, "unk_token", &unk, e))
        return false;
    if (unk && (t->unk_id = model_token(l, unk)) < 0 && !t->vocab.byte_level)
        return eval_fail(e, "%s: unk_token '%.100s' is not in the vocabulary", l->file, unk);
    return load_merges(l, e);
}

/* ---- tokenizer_config.json ---- */

/* The id of a token that stands as text or as an object with its content; -1 if there is none. */
static int32_t token_of(const loader *l, const json_t *config, const char *key)
{
    const json_t *value = json_object_get(config, key);
    const char *content =
        json_string_value(json_is_object(value) ? json_object_get(value, "content") : value);
    for (size_t i = 0; content && i < l->n_added; i++)
        if (strcmp(l->added[i].content, content) == 0)
            return l->added[i].id;
    return content ? model_token(l, content) : -1;
}

static bool load_bos_and_eos(loader *l, const json_t *root, const char *config_name, const json_t *config,
                             eval_error *e)
{
    tokenizer *t = l->t;
    const json_t *processor = json_object_get(root, "post_processor");
    const char *class = config ? json_string_value(json_object_get(config, "tokenizer_class")) : NULL;
    /* Those of Llama put it there by themselves. */
    bool add_bos = class && (strncmp(class, "Llama", 5) == 0 || strncmp(class, "CodeLlama", 9) == 0);
    if (!json_load_post_processor(l->file, root, &t->bos_id, e) ||
        (config && !json_optional_bool(config, config_name, "add_bos_token", &add_bos, e)))
        return false;
    if ((!processor || json_is_null(processor)) && add_bos)
        t->bos_id = token_of(l, config, "bos_token");
    if (t->bos_id >= 0 && ((size_t)t->bos_id >= l->n_tokens || !l->tokens[t->bos_id].name))
        return eval_fail(e, "%s: post_processor puts the id %d before a text, which no token has", l->file,
                         (int)t->bos_id);
    t->eos_id = token_of(l, config, "eos_token");
    for (size_t i = 0; i < l->n_added && t->eos_id < 0; i++)
        if (strcmp(l->added[i].content, "<|endoftext|>") == 0)
            t->eos_id = l->added[i].id;
    return true;
}

/* transformers writes a model_max_length there that is beyond any integer, so numbers are read as reals. */
static json_t *parse_config(const char *file, const void *data, size_t size, eval_error *e)
{
    json_error_t where;
    json_t *root = json_loadb(data, size, JSON_DECODE_INT_AS_REAL, &where);
    if (json_is_object(root))
        return root;
    (void)eval_fail(e, "%s: line %d: bad JSON: %s", file, root ? 1 : where.line,
                    root ? "expected an object" : where.text);
    json_decref(root);
    return NULL;
}

/* ---- all ---- */

static bool load_all(loader *l, const json_t *root, const char *config_name, const json_t *config,
                     eval_error *e)
{
    return find_model(l, root, e) && json_load_steps(l->t, &l->alphabet, l->file, root, e) &&
           load_tokens(l, root, e) && load_model(l, e) && load_bos_and_eos(l, root, config_name, config, e);
}

bool tokenizer_load_json(tokenizer **out, const char *name, const void *data, size_t size,
                         const char *config_name, const void *config, size_t config_size, eval_error *e)
{
    json_t *config_root = NULL, *root = json_parse_object(name, data, size, 0, e);
    if (!root)
        return false;
    loader l = {.file = name, .t = tokenizer_new()};
    bool ok = l.t || eval_fail(e, "%s: out of memory", name);
    if (ok && config)
        ok = (config_root = parse_config(config_name, config, config_size, e)) != NULL;
    ok = ok && load_all(&l, root, config_name, config_root, e);
    free(l.tokens);
    free(l.added);
    json_decref(root);
    json_decref(config_root);
    if (!ok) {
        tokenizer_free(l.t);
        return false;
    }
    *out = l.t;
    return true;
}
