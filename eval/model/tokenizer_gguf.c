/* The tokenizer inside a GGUF file (tokenizer.h).
 *
 * "gpt2" is byte-level BPE with its merges, split by the pattern that tokenizer.ggml.pre names. "llama" is
 * SentencePiece's BPE: any two neighbours whose text together is a token may be merged, the token of highest
 * score first, the leftmost of equals.
 *
 * Source: ggml, docs/gguf.md, and the behaviour of llama.cpp; patterns from the models' own tokenizer.json.
 */
#include "eval/model/tokenizer_parts.h"

#include "eval/model/utf8.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

#define TOKENS "tokenizer.ggml.tokens"
#define TYPES  "tokenizer.ggml.token_type"
#define SCORES "tokenizer.ggml.scores"
#define MERGES "tokenizer.ggml.merges"

enum { TYPE_NORMAL = 1, TYPE_UNKNOWN, TYPE_CONTROL, TYPE_USER_DEFINED, TYPE_UNUSED, TYPE_BYTE };

enum { LONGEST_PIECE = 1024 }; /* in bytes; every way to cut one is tried */

#define SPACE "\xe2\x96\x81" /* U+2581, as SentencePiece writes it */

typedef struct loader {
    tokenizer *t;
    const gguf *g;
    const char *file;
    size_t n;             /* tokens */
    token_source *tokens; /* [n] */
    int *types;           /* [n] */
    added_token *added;
    size_t n_added;
} loader;

/* ---- tokens ---- */

static bool read_types(loader *l, eval_error *e)
{
    size_t n_types = 0;
    for (size_t i = 0; i < l->n; i++)
        l->types[i] = TYPE_NORMAL;
    if (!gguf_optional_array(l->g, TYPES, GGUF_I32, &n_types, e))
        return false;
    if (n_types != 0 && n_types != l->n)
        return eval_fail(e, "%s: %s has %zu element%s, but there are %zu tokens", l->file, TYPES, n_types,
                         eval_s(n_types), l->n);
    for (size_t i = 0; i < n_types; i++) {
        const int64_t type = gguf_array_integer(l->g, TYPES, i);
        if (type < TYPE_NORMAL || type > TYPE_BYTE)
            return eval_fail(e, "%s: %s: token %zu has type %lld, expected 1 to 6", l->file, TYPES, i,
                             (long long)type);
        l->types[i] = (int)type;
    }
    return true;
}

static bool read_tokens(loader *l, bool byte_level, eval_error *e)
{
    if (!gguf_optional_array(l->g, TOKENS, GGUF_STRING, &l->n, e))
        return false;
    if (l->n == 0 || l->n > MAX_TOKENS)
        return eval_fail(e, "%s: %s has %zu elements, expected 1 to %d", l->file, TOKENS, l->n, MAX_TOKENS);
    l->tokens = calloc(l->n, sizeof *l->tokens);
    l->types = calloc(l->n, sizeof *l->types);
    l->added = calloc(l->n, sizeof *l->added);
    if (!l->tokens || !l->types || !l->added)
        return eval_fail(e, "%s: out of memory for %zu tokens", l->file, l->n);
    if (!read_types(l, e))
        return false;
    for (size_t i = 0; i < l->n; i++) {
        const int type = l->types[i];
        token_source *token = &l->tokens[i];
        token->name = gguf_array_string(l->g, TOKENS, i, &token->n_name);
        token->in_model = type != TYPE_UNUSED;
        token->raw = type != TYPE_NORMAL && type != TYPE_BYTE;
        if (type == TYPE_UNKNOWN || type == TYPE_CONTROL || type == TYPE_USER_DEFINED)
            l->added[l->n_added++] =
                (added_token){.content = token->name, .n = token->n_name, .id = (int32_t)i};
    }
    return vocabulary_build(&l->t->vocab, l->file, l->tokens, l->n, byte_level, byte_level ? "" : SPACE, e) &&
           tokenizer_set_added(l->t, l->file, l->added, l->n_added, e);
}

static bool read_id(const loader *l, const char *key, int32_t *id, eval_error *e)
{
    size_t value = 0;
    if (!gguf_has(l->g, key))
        return true;
    if (!gguf_optional_size(l->g, key, 0, l->n - 1, &value, e))
        return false;
    *id = (int32_t)value;
    return true;
}

static bool read_bos_and_eos(const loader *l, bool add_bos, int32_t bos, int32_t eos, eval_error *e)
{
    tokenizer *t = l->t;
    if (!gguf_optional_bool(l->g, "tokenizer.ggml.add_bos_token", &add_bos, e) ||
        !read_id(l, "tokenizer.ggml.bos_token_id", &bos, e) ||
        !read_id(l, "tokenizer.ggml.eos_token_id", &eos, e))
        return false;
    if (add_bos && bos < 0)
        return eval_fail(e,
                         "%s: tokenizer.ggml.bos_token_id is missing, but tokenizer.ggml.%s puts that token "
                         "before a text",
                         l->file, gguf_has(l->g, "tokenizer.ggml.add_bos_token") ? "add_bos_token" : "pre");
    t->bos_id = add_bos && (size_t)bos < l->n ? bos : -1;
    t->eos_id = (size_t)eos < l->n ? eos : -1;
    return true;
}

/* ---- gpt2 ---- */

#define CONTRACTIONS  "(?i:'s|'t|'re|'ve|'m|'ll|'d)"
#define AFTER_NUMBERS "| ?[^\\s\\p{L}\\p{N}]+[\\r\\n]*|\\s*[\\r\\n]+|\\s+(?!\\S)|\\s+"
#define UPPER         "[\\p{Lu}\\p{Lt}\\p{Lm}\\p{Lo}\\p{M}]"
#define LOWER         "[\\p{Ll}\\p{Lm}\\p{Lo}\\p{M}]"
#define NO_WORD       "[^\\r\\n\\p{L}\\p{N}]?"

/* What a name of tokenizer.ggml.pre stands for: patterns that split one after the other. */
typedef struct pre_type {
    const char *names[4];
    const char *patterns[4];
    bool nfc, ignore_merges, add_bos;
} pre_type;

static const pre_type pre_types[] = {
    {.names = {"gpt-2", "phi-2"}, .patterns = {GPT2_WORDS "|\\s+"}},
    {.names = {"smollm", "starcoder", "refact"}, .patterns = {"\\p{N}", GPT2_WORDS "|\\s+"}},
    {.names = {"llama-bpe", "llama3", "llama-v3"},
     .patterns = {CONTRACTIONS "|" NO_WORD "\\p{L}+|\\p{N}{1,3}" AFTER_NUMBERS},
     .ignore_merges = true,
     .add_bos = true},
    {.names = {"qwen2", "deepseek-r1-qwen"},
     .patterns = {CONTRACTIONS "|" NO_WORD "\\p{L}+|\\p{N}" AFTER_NUMBERS},
     .nfc = true},
    {.names = {"tekken"},
     .patterns = {NO_WORD UPPER "*" LOWER "+|" NO_WORD UPPER "+" LOWER
                                "*|\\p{N}| ?[^\\s\\p{L}\\p{N}]+[\\r\\n/]*"
                                "|\\s*[\\r\\n]+|\\s+(?!\\S)|\\s+"},
     .ignore_merges = true,
     .add_bos = true},
    /* What llama.cpp does if it is told nothing else. */
    {.names = {"default"},
     .patterns = {"[\\p{P}\\$\\+<=>\\^~\\|]+", GPT2_WORDS, "\\p{N}+", "[0-9][0-9][0-9]"}},
};

static const pre_type *find_pre_type(const char *name)
{
    for (size_t i = 0; i < sizeof pre_types / sizeof pre_types[0]; i++)
        for (size_t j = 0; j < 4 && pre_types[i].names[j]; j++)
            if (strcmp(pre_types[i].names[j], name) == 0)
                return &pre_types[i];
    return NULL;
}

static bool read_merges(const loader *l, merge_list *list, eval_error *e)
{
    size_t n = 0;
    if (!gguf_optional_array(l->g, MERGES, GGUF_STRING, &n, e))
        return false;
    if (n >= UINT32_MAX)
        return eval_fail(e, "%s: %s: %zu elements are too many", l->file, MERGES, n);
    for (size_t i = 0; i < n; i++) {
        size_t length;
        const char *m = gguf_array_string(l->g, MERGES, i, &length);
        const char *space = memchr(m, ' ', length);
        const size_t n_left = space ? (size_t)(space - m) : 0, n_right = space ? length - n_left - 1 : 0;
        if (n_left == 0 || n_right == 0 || memchr(space + 1, ' ', n_right))
            return eval_fail(e, "%s: %s: element %zu: expected two tokens with one space between them",
                             l->file, MERGES, i);
        if (!merge_list_add(list, &l->t->vocab, l->file, MERGES " element", (uint32_t)i, m, n_left, space + 1,
                            n_right, e))
            return false;
    }
    return n > 0 || eval_fail(e, "%s: %s is missing or empty", l->file, MERGES);
}

static bool load_gpt2(loader *l, eval_error *e)
{
    tokenizer *t = l->t;
    const char *name = "default";
    merge_list list = {0};
    if (!gguf_optional_string(l->g, "tokenizer.ggml.pre", &name, e))
        return false;
    const pre_type *pre = find_pre_type(name);
    if (!pre)
        return eval_fail(e, "%s: tokenizer.ggml.pre '%.60s' is not supported", l->file, name);
    if (!gguf_has(l->g, "tokenizer.ggml.pre"))
        t->note =
            "tokenizer.ggml.pre is missing: words are split by llama.cpp's default, which is hardly any "
            "model's own";
    t->ignore_merges = pre->ignore_merges;
    if (pre->nfc)
        t->normalizer.steps[t->normalizer.n_steps++].kind = NORMALIZE_NFC;
    for (size_t i = 0; i < 4 && pre->patterns[i]; i++)
        if (!tokenizer_add_split(t, l->file, pre->patterns[i], strlen(pre->patterns[i]), false,
                                 SPLIT_ISOLATED, false, e))
            return false;
    int32_t unknown = -1; /* every byte is known here, but the key must be good */
    if (!read_tokens(l, true, e) || !read_bos_and_eos(l, pre->add_bos, -1, -1, e) ||
        !read_id(l, "tokenizer.ggml.unknown_token_id", &unknown, e))
        return false;
    if (!read_merges(l, &list, e)) {
        merge_list_free(&list);
        return false;
    }
    return merge_list_finish(&list, t, l->file, MERGES " element", e);
}

/* ---- llama ---- */

typedef struct scored {
    double score;
    uint32_t id;
} scored;

static int compare_scores(const void *a, const void *b)
{
    const scored *x = a, *y = b;
    if (x->score != y->score)
        return x->score > y->score ? -1 : 1;
    return (x->id > y->id) - (x->id < y->id);
}

static bool is_normal(const loader *l, int32_t id)
{
    return id >= 0 && l->types[id] == TYPE_NORMAL;
}

/* All the pairs that make this token. */
static bool add_cuts(const loader *l, merge_list *list, uint32_t id, uint32_t rank, eval_error *e)
{
    const vocabulary *v = &l->t->vocab;
    const char *name = l->tokens[id].name;
    const size_t n = l->tokens[id].n_name;
    if (n > LONGEST_PIECE)
        return eval_fail(e, "%s: %s: token %u has %zu bytes, expected at most %d", l->file, TOKENS,
                         (unsigned)id, n, LONGEST_PIECE);
    if (vocabulary_find(v, name, n) != (int32_t)id)
        return true; /* there is another of the same text */
    uint32_t c;
    for (size_t cut = utf8_decode(name, n, &c); cut > 0 && cut < n;) {
        const int32_t left = vocabulary_find(v, name, cut);
        const int32_t right = is_normal(l, left) ? vocabulary_find(v, name + cut, n - cut) : -1;
        if (is_normal(l, right) &&
            !merge_list_add(list, v, l->file, "rank", rank, name, cut, name + cut, n - cut, e))
            return false;
        const size_t length = utf8_decode(name + cut, n - cut, &c);
        if (length == 0)
            break;
        cut += length;
    }
    return true;
}

static bool add_all_cuts(const loader *l, merge_list *list, scored *order, eval_error *e)
{
    size_t n_scores = 0, n = 0;
    uint32_t rank = 0;
    if (!gguf_optional_array(l->g, SCORES, GGUF_F32, &n_scores, e))
        return false;
    if (n_scores != l->n)
        return eval_fail(e, "%s: %s has %zu element%s, but there are %zu tokens", l->file, SCORES, n_scores,
                         eval_s(n_scores), l->n);
    for (size_t i = 0; i < l->n; i++) {
        const double score = gguf_array_float(l->g, SCORES, i);
        if (!isfinite(score))
            return eval_fail(e, "%s: %s: token %zu has a score that is not finite", l->file, SCORES, i);
        if (l->types[i] == TYPE_NORMAL)
            order[n++] = (scored){score, (uint32_t)i};
    }
    if (n > 0)
        qsort(order, n, sizeof *order, compare_scores);
    for (size_t i = 0; i < n; i++) {
        if (i > 0 && order[i].score != order[i - 1].score)
            rank = (uint32_t)i;
        if (!add_cuts(l, list, order[i].id, rank, e))
            return false;
    }
    return true;
}

/* SentencePiece can be told to change the text in ways that are not done here. */
static bool refuse_normalizers(const loader *l, eval_error *e)
{
    bool remove_spaces = false;
    if (!gguf_optional_bool(l->g, "tokenizer.ggml.remove_extra_whitespaces", &remove_spaces, e))
        return false;
    if (remove_spaces)
        return eval_fail(e, "%s: tokenizer.ggml.remove_extra_whitespaces is not supported", l->file);
    return !gguf_has(l->g, "tokenizer.ggml.precompiled_charsmap") ||
           eval_fail(e, "%s: tokenizer.ggml.precompiled_charsmap is not supported", l->file);
}

static bool load_llama(loader *l, eval_error *e)
{
    tokenizer *t = l->t;
    normalizer *z = &t->normalizer;
    bool add_space_prefix = true;
    if (!refuse_normalizers(l, e) ||
        !gguf_optional_bool(l->g, "tokenizer.ggml.add_space_prefix", &add_space_prefix, e))
        return false;
    const size_t n_space = sizeof SPACE - 1;
    if (add_space_prefix) {
        z->steps[z->n_steps++] = (normalizer_step){.kind = NORMALIZE_PREPEND, .to = SPACE, .n_to = n_space};
        t->prepended = PREPEND_ALWAYS;
    }
    z->steps[z->n_steps++] =
        (normalizer_step){.kind = NORMALIZE_REPLACE, .from = " ", .n_from = 1, .to = SPACE, .n_to = n_space};
    t->byte_fallback = t->fuse_unk = true;
    t->unk_id = 0;
    if (!read_tokens(l, false, e) || !read_bos_and_eos(l, true, 1, 2, e) ||
        !read_id(l, "tokenizer.ggml.unknown_token_id", &t->unk_id, e))
        return false;
    merge_list list = {0};
    scored *order = calloc(l->n, sizeof *order);
    const bool ok = order ? add_all_cuts(l, &list, order, e)
                          : eval_fail(e, "%s: out of memory for %zu tokens", l->file, l->n);
    free(order);
    if (!ok) {
        merge_list_free(&list);
        return false;
    }
    return merge_list_finish(&list, t, l->file, "rank", e);
}

/* ---- all ---- */

bool tokenizer_load_gguf(tokenizer **out, const gguf *g, eval_error *e)
{
    loader l = {.t = tokenizer_new(), .g = g, .file = gguf_path(g)};
    const char *model = NULL;
    bool ok = l.t ? gguf_optional_string(g, "tokenizer.ggml.model", &model, e)
                  : eval_fail(e, "%s: out of memory", l.file);
    if (ok && model && strcmp(model, "gpt2") == 0)
        ok = load_gpt2(&l, e);
    else if (ok && model && strcmp(model, "llama") == 0)
        ok = load_llama(&l, e);
    else if (ok)
        ok = model ? eval_fail(e, "%s: tokenizer.ggml.model '%.60s' is not supported, expected gpt2 or llama",
                               l.file, model)
                   : eval_fail(e, "%s: tokenizer.ggml.model is missing, expected gpt2 or llama", l.file);
    free(l.tokens);
    free(l.types);
    free(l.added);
    if (!ok) {
        tokenizer_free(l.t);
        return false;
    }
    *out = l.t;
    return true;
}
