/* Normalizers, pre-tokenizers and decoders of tokenizer.json (tokenizer_json.h). */
#include "eval/model/tokenizer_json.h"

#include "eval/common/json_util.h"

#include <string.h>

/* Where we are: errors name it. */
typedef struct steps {
    tokenizer *t;
    json_alphabet *alphabet;
    const char *file;
    int depth; /* of sequences */
} steps;

enum { DEEPEST_SEQUENCE = 8 };

const char *json_type_of(const json_t *object, const char *file, const char *key, eval_error *e)
{
    const char *type = json_string_value(json_object_get(object, "type"));
    if (!type)
        (void)json_wrong_value(object, file, key, "expected an object with a type", e);
    return type;
}

/* Calls `each` for the elements of object's array `key`. */
static bool sequence(steps *s, const json_t *object, const char *key,
                     bool (*each)(steps *s, const json_t *object, eval_error *e), eval_error *e)
{
    const json_t *elements = json_object_get(object, key);
    if (!json_is_array(elements) || s->depth == DEEPEST_SEQUENCE)
        return json_wrong_value(elements, s->file, key, "expected an array, nested at most eight deep", e);
    s->depth++;
    for (size_t i = 0; i < json_array_size(elements); i++)
        if (!each(s, json_array_get(elements, i), e))
            return false;
    s->depth--;
    return true;
}

static bool unknown_type(const steps *s, const char *key, const char *type, eval_error *e)
{
    return eval_fail(e, "%s: %s of type %.60s is not supported", s->file, key, type);
}

/* ---- normalizers ---- */

/* A short text of a field. */
static bool short_text(const steps *s, const json_t *value, const char *key, char out[MAX_NORMALIZER_BYTES],
                       size_t *n, eval_error *e)
{
    *n = json_string_length(value);
    if (!json_is_string(value) || *n > MAX_NORMALIZER_BYTES)
        return json_wrong_value(value, s->file, key, "expected a string of at most 16 bytes", e);
    memcpy(out, json_string_value(value), *n);
    return true;
}

static void set_space(const steps *s, const char *space, size_t n)
{
    memcpy(s->alphabet->space, space, n);
    s->alphabet->space[n] = '\0';
}

static bool replace(const steps *s, const json_t *object, normalizer_step *step, eval_error *e)
{
    const json_t *pattern = json_object_get(object, "pattern"), *text = json_object_get(pattern, "String");
    if (!text)
        return json_wrong_value(pattern, s->file, "pattern of a Replace normalizer",
                                "supported is only {\"String\": ...}", e);
    if (!short_text(s, text, "pattern of a Replace normalizer", step->from, &step->n_from, e) ||
        !short_text(s, json_object_get(object, "content"), "content of a Replace normalizer", step->to,
                    &step->n_to, e))
        return false;
    if (step->n_from == 0)
        return eval_fail(e, "%s: the pattern of a Replace normalizer is empty", s->file);
    if (step->n_from == 1 && step->from[0] == ' ')
        set_space(s, step->to, step->n_to);
    return true;
}

static bool load_normalizer(steps *s, const json_t *object, eval_error *e)
{
    const char *type = json_type_of(object, s->file, "normalizer", e);
    if (!type)
        return false;
    if (strcmp(type, "Sequence") == 0)
        return sequence(s, object, "normalizers", load_normalizer, e);
    normalizer *z = &s->t->normalizer;
    if (z->n_steps == MAX_NORMALIZERS)
        return eval_fail(e, "%s: more than %d normalizers", s->file, MAX_NORMALIZERS);
    normalizer_step *step = &z->steps[z->n_steps++];
    if (strcmp(type, "NFC") == 0) {
        step->kind = NORMALIZE_NFC;
        return true;
    }
    if (strcmp(type, "Prepend") == 0) {
        step->kind = NORMALIZE_PREPEND;
        return short_text(s, json_object_get(object, "prepend"), "prepend", step->to, &step->n_to, e);
    }
    if (strcmp(type, "Replace") == 0) {
        step->kind = NORMALIZE_REPLACE;
        return replace(s, object, step, e);
    }
    return unknown_type(s, "normalizer", type, e);
}

/* Decoding takes away again what was put before a text, if it is a space. */
static void note_prepended_space(const steps *s)
{
    const normalizer *z = &s->t->normalizer;
    const char *space = s->alphabet->space;
    for (size_t i = 0; i < z->n_steps; i++) {
        const normalizer_step *step = &z->steps[i];
        if (step->kind == NORMALIZE_PREPEND && step->n_to > 0 && step->n_to == strlen(space) &&
            memcmp(step->to, space, step->n_to) == 0)
            s->t->prepended = PREPEND_ALWAYS;
    }
}

/* ---- pre-tokenizers ---- */

static bool split_behavior_of(const steps *s, const json_t *object, split_behavior *behavior, eval_error *e)
{
    static const char *const names[] = {"Removed", "Isolated", "MergedWithPrevious", "MergedWithNext",
                                        "Contiguous"};
    const json_t *value = json_object_get(object, "behavior");
    if (!value)
        return true;
    for (size_t i = 0; json_is_string(value) && i < sizeof names / sizeof names[0]; i++)
        if (strcmp(json_string_value(value), names[i]) == 0) {
            *behavior = (split_behavior)i;
            return true;
        }
    return json_wrong_value(value, s->file, "behavior", "which is not supported", e);
}

static bool load_split(steps *s, const json_t *object, eval_error *e)
{
    const json_t *pattern = json_object_get(object, "pattern");
    const json_t *expression = json_object_get(pattern, "Regex");
    const json_t *text = expression ? expression : json_object_get(pattern, "String");
    split_behavior behavior = SPLIT_ISOLATED;
    bool invert = false;
    if (!json_is_string(text))
        return json_wrong_value(pattern, s->file, "pattern of a Split pre-tokenizer",
                                "expected {\"Regex\": ...} or {\"String\": ...}", e);
    return split_behavior_of(s, object, &behavior, e) &&
           json_optional_bool(object, s->file, "invert", &invert, e) &&
           tokenizer_add_split(s->t, s->file, json_string_value(text), json_string_length(text), !expression,
                               behavior, invert, e);
}

static bool load_digits(steps *s, const json_t *object, eval_error *e)
{
    bool individual = false;
    return json_optional_bool(object, s->file, "individual_digits", &individual, e) &&
           tokenizer_add_split(s->t, s->file, "\\p{N}", 5, false,
                               individual ? SPLIT_ISOLATED : SPLIT_CONTIGUOUS, false, e);
}

/* ASCII's and Unicode's punctuation, of the version of Unicode that `tokenizers` has for it: without what
 * came later, and with two that were punctuation then. */
#define LATER_PUNCTUATION                                                                                    \
    "\\x{61d}\\x{9fd}\\x{a76}\\x{c77}\\x{c84}\\x{1b7d}\\x{1b7e}\\x{2e43}-\\x{2e4f}\\x{2e52}-\\x{2e5d}"       \
    "\\x{10ead}\\x{10f55}-\\x{10f59}\\x{10f86}-\\x{10f89}\\x{1144b}-\\x{1144f}\\x{1145a}\\x{1145b}\\x{"      \
    "1145d}"                                                                                                 \
    "\\x{11660}-\\x{1166c}\\x{116b9}\\x{1183b}\\x{11944}-\\x{11946}\\x{119e2}\\x{11a3f}-\\x{11a46}"          \
    "\\x{11a9a}-\\x{11a9c}\\x{11a9e}-\\x{11aa2}\\x{11c41}-\\x{11c45}\\x{11c70}\\x{11c71}"                    \
    "\\x{11ef7}\\x{11ef8}\\x{11fff}\\x{12ff1}\\x{12ff2}\\x{16e97}-\\x{16e9a}\\x{16fe2}\\x{1e95e}\\x{1e95f}"

static bool load_punctuation(steps *s, const json_t *object, eval_error *e)
{
    static const char pattern[] = "(?![" LATER_PUNCTUATION "])[!-/:-@\\[-`{-~\\p{P}\\x{166d}\\x{111c9}]";
    split_behavior behavior = SPLIT_ISOLATED;
    return split_behavior_of(s, object, &behavior, e) &&
           tokenizer_add_split(s->t, s->file, pattern, sizeof pattern - 1, false, behavior, false, e);
}

static bool load_byte_level(steps *s, const json_t *object, eval_error *e)
{
    bool add_prefix_space = true, use_regex = true;
    s->alphabet->byte_level = true;
    return json_optional_bool(object, s->file, "add_prefix_space", &add_prefix_space, e) &&
           json_optional_bool(object, s->file, "use_regex", &use_regex, e) &&
           (!add_prefix_space || tokenizer_add_respace(s->t, s->file, " ", PREPEND_ALWAYS, e)) &&
           (!use_regex || tokenizer_add_gpt2_split(s->t, s->file, e));
}

static bool prepend_scheme_of(const steps *s, const json_t *object, prepend_scheme *scheme, eval_error *e)
{
    static const char *const names[] = {"always", "first", "never"};
    const json_t *value = json_object_get(object, "prepend_scheme");
    bool add_prefix_space = true; /* as it was called before */
    if (!json_optional_bool(object, s->file, "add_prefix_space", &add_prefix_space, e))
        return false;
    *scheme = add_prefix_space ? PREPEND_ALWAYS : PREPEND_NEVER;
    if (!value)
        return true;
    for (size_t i = 0; json_is_string(value) && i < 3; i++)
        if (strcmp(json_string_value(value), names[i]) == 0) {
            *scheme = (prepend_scheme)i;
            return true;
        }
    return json_wrong_value(value, s->file, "prepend_scheme", "expected always, first or never", e);
}

static bool load_metaspace(steps *s, const json_t *object, eval_error *e)
{
    char space[MAX_NORMALIZER_BYTES];
    size_t n;
    bool split = true;
    prepend_scheme scheme;
    if (!short_text(s, json_object_get(object, "replacement"), "replacement", space, &n, e) ||
        !prepend_scheme_of(s, object, &scheme, e) || !json_optional_bool(object, s->file, "split", &split, e))
        return false;
    if (n > MAX_NORMALIZER_BYTES - 1 || n == 0)
        return eval_fail(e, "%s: replacement has %zu bytes, expected one character", s->file, n);
    set_space(s, space, n);
    s->t->prepended = scheme;
    return tokenizer_add_respace(s->t, s->file, s->alphabet->space, scheme, e) &&
           (!split || tokenizer_add_split(s->t, s->file, space, n, true, SPLIT_MERGED_WITH_NEXT, false, e));
}

static bool load_pre_tokenizer(steps *s, const json_t *object, eval_error *e)
{
    static const struct {
        const char *type;
        bool (*load)(steps *s, const json_t *object, eval_error *e);
    } known[] = {{"Split", load_split},
                 {"Digits", load_digits},
                 {"Punctuation", load_punctuation},
                 {"ByteLevel", load_byte_level},
                 {"Metaspace", load_metaspace}};
    const char *type = json_type_of(object, s->file, "pre_tokenizer", e);
    if (!type)
        return false;
    if (strcmp(type, "Sequence") == 0)
        return sequence(s, object, "pretokenizers", load_pre_tokenizer, e);
    if (s->alphabet->byte_level)
        return eval_fail(e, "%s: pre_tokenizer %.60s stands after ByteLevel, which must be the last", s->file,
                         type);
    for (size_t i = 0; i < sizeof known / sizeof known[0]; i++)
        if (strcmp(type, known[i].type) == 0)
            return known[i].load(s, object, e);
    return unknown_type(s, "pre_tokenizer", type, e);
}

/* ---- decoders ---- */

static bool check_decoder(steps *s, const json_t *object, eval_error *e)
{
    static const char *const known[] = {"ByteLevel", "Metaspace", "Replace", "ByteFallback", "Fuse", "Strip"};
    const char *type = json_type_of(object, s->file, "decoder", e);
    if (!type)
        return false;
    if (strcmp(type, "Sequence") == 0)
        return sequence(s, object, "decoders", check_decoder, e);
    for (size_t i = 0; i < sizeof known / sizeof known[0]; i++)
        if (strcmp(type, known[i]) == 0)
            return true;
    return unknown_type(s, "decoder", type, e);
}

bool json_load_steps(tokenizer *t, json_alphabet *alphabet, const char *file, const json_t *root,
                     eval_error *e)
{
    steps s = {.t = t, .alphabet = alphabet, .file = file};
    const json_t *n = json_object_get(root, "normalizer"), *p = json_object_get(root, "pre_tokenizer");
    const json_t *d = json_object_get(root, "decoder");
    memset(alphabet, 0, sizeof *alphabet);
    if ((n && !json_is_null(n) && !load_normalizer(&s, n, e)) ||
        (p && !json_is_null(p) && !load_pre_tokenizer(&s, p, e)) ||
        (d && !json_is_null(d) && !check_decoder(&s, d, e)))
        return false;
    note_prepended_space(&s);
    return true;
}

/* ---- the token that comes first ---- */

/* The ids of a template's special token; HF allows several. */
static bool template_token(const char *file, const json_t *processor, const json_t *piece, int32_t *bos_id,
                           eval_error *e)
{
    const char *name = json_string_value(json_object_get(piece, "id"));
    const json_t *ids = json_object_get(
        json_object_get(json_object_get(processor, "special_tokens"), name ? name : ""), "ids");
    size_t id;
    if (json_array_size(ids) != 1 || *bos_id >= 0)
        return eval_fail(e,
                         "%s: post_processor puts several tokens before a text, or one that is not among its "
                         "special_tokens; expected one id",
                         file);
    if (!json_to_size(json_array_get(ids, 0), MAX_TOKENS, &id))
        return json_wrong_value(ids, file, "ids of a special token", "expected an id", e);
    *bos_id = (int32_t)id;
    return true;
}

static bool load_template(const char *file, const json_t *processor, int32_t *bos_id, eval_error *e)
{
    const json_t *single = json_object_get(processor, "single");
    if (!json_is_array(single))
        return json_wrong_value(single, file, "single", "expected an array", e);
    for (size_t i = 0; i < json_array_size(single); i++) {
        const json_t *piece = json_object_get(json_array_get(single, i), "SpecialToken");
        if (!piece)
            return true; /* the text; what comes behind it is not put there */
        if (!template_token(file, processor, piece, bos_id, e))
            return false;
    }
    return true;
}

static bool load_processor(const char *file, const json_t *processor, int depth, int32_t *bos_id,
                           eval_error *e)
{
    const char *type = json_type_of(processor, file, "post_processor", e);
    if (!type)
        return false;
    if (strcmp(type, "ByteLevel") == 0)
        return true;
    if (strcmp(type, "TemplateProcessing") == 0)
        return load_template(file, processor, bos_id, e);
    if (strcmp(type, "RobertaProcessing") == 0 || strcmp(type, "BertProcessing") == 0) {
        const json_t *cls = json_object_get(processor, "cls");
        size_t id;
        if (!json_to_size(json_array_get(cls, 1), MAX_TOKENS, &id))
            return json_wrong_value(cls, file, "cls", "expected a token and its id", e);
        *bos_id = (int32_t)id;
        return true;
    }
    if (strcmp(type, "Sequence") != 0)
        return eval_fail(e, "%s: post_processor of type %.60s is not supported", file, type);
    const json_t *processors = json_object_get(processor, "processors");
    if (!json_is_array(processors) || depth == DEEPEST_SEQUENCE)
        return json_wrong_value(processors, file, "processors",
                                "expected an array, nested at most eight deep", e);
    for (size_t i = 0; i < json_array_size(processors); i++)
        if (!load_processor(file, json_array_get(processors, i), depth + 1, bos_id, e))
            return false;
    return true;
}

bool json_load_post_processor(const char *file, const json_t *root, int32_t *bos_id, eval_error *e)
{
    const json_t *processor = json_object_get(root, "post_processor");
    return !processor || json_is_null(processor) || load_processor(file, processor, 0, bos_id, e);
}
