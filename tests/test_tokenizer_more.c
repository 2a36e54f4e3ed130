/* Tokenizers of files beyond the ids of hard texts: BOS and EOS, directories, patterns of Oniguruma, what
 * GGUF is refused for, tokens found in a text, time on long texts. */
#define _XOPEN_SOURCE 700

#include "eval/model/gguf.h"
#include "eval/model/tokenizer.h"
#include "tests/checkpoint_files.h"
#include "tests/gguf_image.h"

#include <time.h>

#define VECTORS KVQ_SOURCE_DIR "/tests/vectors/tokenizers/"

#define MODEL                                                                                                \
    "\"model\":{\"type\":\"BPE\",\"vocab\":{\"a\":0,\"b\":1,\"ab\":2,\" \":3,\"c\":4,\"1\":5,\"x\":6,"       \
    "\"\\u00e9\":7},\"merges\":[[\"a\",\"b\"]]}"

static bool load(tokenizer **t, const char *json, const char *config, eval_error *e)
{
    return tokenizer_load_json(t, "file.json", json, strlen(json), "config.json", config,
                               config ? strlen(config) : 0, e);
}

/* The ids of a text, as "0,1,2". */
static void encode(const tokenizer *t, const char *text, char *out, size_t size)
{
    int32_t *ids;
    size_t n, at = 0;
    eval_error e;
    cr_assert(tokenizer_encode(t, text, strlen(text), &ids, &n, &e), "%s", e.text);
    out[0] = '\0';
    for (size_t i = 0; i < n; i++)
        at += (size_t)snprintf(out + at, size - at, i ? ",%d" : "%d", (int)ids[i]);
    free(ids);
}

static tokenizer *load_vector(const char *name)
{
    char path[512];
    tokenizer *t;
    eval_error e = {""};
    snprintf(path, sizeof path, VECTORS "%s", name);
    if (strstr(name, ".gguf")) {
        gguf *g;
        cr_assert(gguf_open(&g, path, &e), "%s", e.text);
        cr_assert(tokenizer_load_gguf(&t, g, &e), "%s", e.text);
        gguf_close(g);
        return t;
    }
    static char json[1 << 20];
    FILE *f = fopen(path, "rb");
    cr_assert_not_null(f);
    const size_t size = fread(json, 1, sizeof json, f);
    fclose(f);
    cr_assert(tokenizer_load_json(&t, path, json, size, NULL, NULL, 0, &e), "%s", e.text);
    return t;
}

/* ---- BOS and EOS ---- */

#define ADDED                                                                                                \
    "\"added_tokens\":[{\"id\":20,\"content\":\"<s>\",\"special\":true},{\"id\":30,\"content\":"             \
    "\"<|endoftext|>\",\"special\":true}],"
#define TEMPLATE(pieces)                                                                                     \
    "\"post_processor\":{\"type\":\"TemplateProcessing\",\"single\":[" pieces "],\"pair\":[],"               \
    "\"special_tokens\":{\"<s>\":{\"id\":\"<s>\",\"ids\":[20],\"tokens\":[\"<s>\"]}}},"
#define BOS  "{\"SpecialToken\":{\"id\":\"<s>\",\"type_id\":0}}"
#define TEXT "{\"Sequence\":{\"id\":\"A\",\"type_id\":0}}"

Test(tokenizer_more, bos_and_eos)
{
    static const struct {
        const char *processor, *config;
        int32_t bos, eos;
    } cases[] = {
        {"", NULL, -1, 30},
        {TEMPLATE(BOS "," TEXT), NULL, 20, 30},
        {TEMPLATE(TEXT "," BOS), NULL, -1, 30},
        {"\"post_processor\":null,", "{\"bos_token\":\"<s>\",\"add_bos_token\":true}", 20, 30},
        {"", "{\"bos_token\":{\"content\":\"<s>\"},\"tokenizer_class\":\"LlamaTokenizer\"}", 20, 30},
        {"", "{\"bos_token\":\"<s>\",\"tokenizer_class\":\"LlamaTokenizer\",\"add_bos_token\":false}", -1,
         30},
        {"", "{\"bos_token\":\"<s>\",\"model_max_length\":1000000000000000019884624838656}", -1, 30},
        {TEMPLATE(TEXT), "{\"bos_token\":\"<s>\",\"add_bos_token\":true,\"eos_token\":\"<s>\"}", -1, 20},
        {"\"post_processor\":{\"type\":\"ByteLevel\"},", "{\"eos_token\":\"b\"}", -1, 1},
        {"\"post_processor\":{\"type\":\"RobertaProcessing\",\"sep\":[\"b\",1],\"cls\":[\"<s>\",20]},", NULL,
         20, 30},
        {"\"post_processor\":{\"type\":\"Sequence\",\"processors\":[{\"type\":\"ByteLevel\"},{\"type\":"
         "\"TemplateProcessing\",\"single\":[" BOS "," TEXT
         "],\"special_tokens\":{\"<s>\":{\"ids\":[20]}}}]},",
         NULL, 20, 30},
    };
    for (size_t i = 0; i < sizeof cases / sizeof cases[0]; i++) {
        char json[4096];
        tokenizer *t;
        eval_error e = {""};
        snprintf(json, sizeof json, "{" ADDED "%s" MODEL "}", cases[i].processor);
        cr_assert(load(&t, json, cases[i].config, &e), "case %zu: %s", i, e.text);
        cr_expect_eq(tokenizer_bos_id(t), cases[i].bos, "case %zu: %d", i, (int)tokenizer_bos_id(t));
        cr_expect_eq(tokenizer_eos_id(t), cases[i].eos, "case %zu: %d", i, (int)tokenizer_eos_id(t));
        cr_expect_eq(tokenizer_vocab_size(t), 31);
        tokenizer_free(t);
    }
}

/* ---- tokens found in a text ---- */

Test(tokenizer_more, added_tokens)
{
    static const char json[] =
        "{\"added_tokens\":[{\"id\":10,\"content\":\"<l>\",\"lstrip\":true,\"normalized\":false},"
        "{\"id\":11,\"content\":\"<r>\",\"rstrip\":true,\"normalized\":false},"
        "{\"id\":12,\"content\":\"<w>\",\"single_word\":true,\"normalized\":false},"
        "{\"id\":13,\"content\":\"<w><w>\",\"normalized\":false},{\"id\":14,\"content\":\"e\\u0301!\"}],"
        "\"normalizer\":{\"type\":\"NFC\"}," MODEL "}";
    static const char *const cases[][2] = {
        {"a<l>b", "0,10,1"},
        {"a \t\xe2\x80\x83<l> b", "0,10,3,1"},
        {"a <r> \n b", "0,3,11,1"},
        {"<r>  <l>", "11,10"}, /* the first takes the spaces */
        {"a<w>", "0"},         /* what is no token is left out */
        {"a <w> b", "0,3,12,3,1"},
        {"(<w>)", "12"},
        {"a<w><w>", "0,13"}, /* the longest */
        {"\xc3\xa9!", "14"}, /* looked for normalized, in normalized text */
        {"e\xcc\x81!e\xcc\x81", "14,7"},
        {"<w", ""},
        {"ab<l>ab", "2,10,2"},
    };
    tokenizer *t;
    eval_error e = {""};
    cr_assert(load(&t, json, NULL, &e), "%s", e.text);
    for (size_t i = 0; i < sizeof cases / sizeof cases[0]; i++) {
        char ids[256];
        encode(t, cases[i][0], ids, sizeof ids);
        cr_expect_str_eq(ids, cases[i][1], "'%s': %s, expected %s", cases[i][0], ids, cases[i][1]);
    }
    size_t n;
    const char *hole = tokenizer_token(t, 9, &n);
    cr_expect(hole && n == 0);
    tokenizer_free(t);
}

/* ---- patterns ---- */

static bool load_pattern(tokenizer **t, const char *pattern, eval_error *e)
{
    char json[4096];
    snprintf(json, sizeof json,
             "{\"pre_tokenizer\":{\"type\":\"Split\",\"pattern\":{\"Regex\":\"%s\"},\"behavior\":\"Removed\"}"
             "," MODEL "}",
             pattern);
    return load(t, json, NULL, e);
}

/* What the pattern matches is removed. */
Test(tokenizer_more, patterns_as_oniguruma_has_them)
{
    static const char *const cases[][3] = {
        {"\\\\s", "a\xe1\xa0\x8e\xe2\x80\x83x", "0,6"}, /* U+180E is no space, but no token either */
        {"\\\\w", "a\xcc\x81 c\xc2\xbd", "3"},          /* a mark is of a word */
        {"\\\\p{Han}", "a\xe3\x80\x81\xe4\xb8\xad\xc3\xa9", "0,7"}, /* the script, not its extensions */
        {"[^\\\\s]", "a x\\u00a0", "3"},
        {"[\\\\S]", "a x", "3"},
        {"^a", "a\\na\\n ab", "3,2"}, /* `^` is the beginning of any line */
        {"a$", "ab\\na", "2"},
        {"(?i:x)", "aXx", "0"},
        {"\\\\u0061", "ab", "1"},
        {"\\\\bx", "ax x c", "0,6,3,3,4"},
        {"\\\\p{N}++|\\\\p{^L}", "a1 1", "0"},
        {"[[:digit:]]", "a 1", "0,3"},
    };
    for (size_t i = 0; i < sizeof cases / sizeof cases[0]; i++) {
        tokenizer *t;
        eval_error e = {""};
        char ids[256], text[64];
        cr_assert(load_pattern(&t, cases[i][0], &e), "%s", e.text);
        snprintf(text, sizeof text, "%s", cases[i][1]);
        for (char *newline; (newline = strstr(text, "\\n")) != NULL;) {
            *newline = '\n';
            memmove(newline + 1, newline + 2, strlen(newline + 2) + 1);
        }
        encode(t, text, ids, sizeof ids);
        cr_expect_str_eq(ids, cases[i][2], "%s over '%s': %s, expected %s", cases[i][0], text, ids,
                         cases[i][2]);
        tokenizer_free(t);
    }
}

Test(tokenizer_more, patterns_that_differ_are_refused)
{
    static const char *const cases[] = {"\\\\h", "[a[b]]",      "[a&&b]",      "a{2}+",   "(?m:a)",
                                        "(?x)a", "\\\\R",       "a{,3}",       "(*FAIL)", "[\\\\W]",
                                        "(",     "\\\\p{Nope}", "[a",          "(?~a)",   "\\\\p{InX",
                                        "[]a]",  "\\\\u12",     "[[:alpha:]]", "\\\\k<a>"};
    for (size_t i = 0; i < sizeof cases / sizeof cases[0]; i++) {
        tokenizer *t;
        eval_error e = {""};
        cr_expect_not(load_pattern(&t, cases[i], &e), "%s", cases[i]);
        cr_expect(strstr(e.text, "file.json: pattern '"), "%s: %s", cases[i], e.text);
    }
}

/* Marks are sorted, letters composed; U+11A7 is no trailing consonant, whatever utf8proc thinks. */
Test(tokenizer_more, nfc)
{
    static const char *const cases[][2] = {
        {"a\xcc\x87\xcc\xa3", "\xe1\xba\xa1\xcc\x87"},
        {"\xe1\x84\x80\xe1\x85\xa1\xe1\x86\xa8", "\xea\xb0\x81"},
        {"\xea\xb0\x80\xe1\x86\xa7", "\xea\xb0\x80\xe1\x86\xa7"},
        {"\xe2\x84\xab\xff"
         "e\xcc\x81",
         "\xc3\x85\xff\xc3\xa9"},
    };
    tokenizer *t = load_vector("qwen2.json");
    for (size_t i = 0; i < sizeof cases / sizeof cases[0]; i++) {
        char *text;
        int32_t *ids;
        size_t n_ids, n;
        eval_error e = {""};
        cr_assert(tokenizer_encode(t, cases[i][0], strlen(cases[i][0]), &ids, &n_ids, &e), "%s", e.text);
        cr_assert(tokenizer_decode(t, ids, n_ids, &text, &n, &e), "%s", e.text);
        cr_expect(n == strlen(cases[i][1]) && memcmp(text, cases[i][1], n) == 0, "case %zu: '%s'", i, text);
        free(text);
        free(ids);
    }
    tokenizer_free(t);
}

/* Time that doubles with each letter ends early, with an error. */
Test(tokenizer_more, runaway_pattern)
{
    tokenizer *t;
    eval_error e = {""};
    int32_t *ids;
    size_t n;
    cr_assert(load_pattern(&t, "(?:(?:a|[ab])*)*c", &e), "%s", e.text);
    cr_assert_not(
        tokenizer_encode(t, "abababababababababababababababababababababababababxc", 52, &ids, &n, &e));
    assert_mentions(e, "limit exceeded");
    tokenizer_free(t);
}

/* ---- directories ---- */

Test(tokenizer_more, directories)
{
    char dir[64];
    tokenizer *t;
    eval_error e = {""};
    make_dir(dir);
    cr_assert_not(tokenizer_load(&t, dir, &e));
    assert_mentions(e, "vocab.json");
    write_text(dir, "tokenizer.model", "\n\x0e\n\x05<unk>");
    cr_assert_not(tokenizer_load(&t, dir, &e));
    assert_mentions(e, "tokenizer.model: SentencePiece's own file is not supported, expected tokenizer.json");
    write_text(dir, "tokenizer.json", "{" ADDED MODEL "}");
    cr_assert(tokenizer_load(&t, dir, &e), "%s", e.text);
    cr_assert_eq(tokenizer_bos_id(t), -1);
    tokenizer_free(t);
    write_text(dir, "tokenizer_config.json", "{\"add_bos_token\":true,\"bos_token\":\"<s>\"}");
    cr_assert(tokenizer_load(&t, dir, &e), "%s", e.text);
    cr_assert_eq(tokenizer_bos_id(t), 20);
    tokenizer_free(t);
    write_text(dir, "tokenizer_config.json", "{\"add_bos_token\":");
    cr_assert_not(tokenizer_load(&t, dir, &e));
    assert_mentions(e, "tokenizer_config.json: line 1: bad JSON");
    remove_file(dir, "tokenizer.json");
    remove_file(dir, "tokenizer_config.json");
    remove_file(dir, "tokenizer.model");
    remove_dir(dir);
}

/* ---- GGUF ---- */

/* A file with the tokens a, b, ab; NULL and below 0 leave a key out. */
typedef struct small_gguf {
    const char *model, *pre, *merge, *flag; /* `flag`: a boolean key that is true */
    int type;                               /* of "ab" */
    int n_scores;
    uint32_t score; /* of all, as bits */
} small_gguf;

static bool load_small_gguf(tokenizer **t, const small_gguf *s, eval_error *e)
{
    static const char *const tokens[] = {"a", "b", "ab"};
    const int n_keys = 1 + (s->model != NULL) + (s->pre != NULL) + (s->merge != NULL) + (s->flag != NULL) +
                       (s->type >= 0) + (s->n_scores >= 0);
    gguf_image image = {0};
    gguf *g;
    gguf_put(&image, "Gqq", 0, n_keys);
    gguf_put(&image, "sddqsss", "tokenizer.ggml.tokens", GGUF_ARRAY, GGUF_STRING, 3, tokens[0], tokens[1],
             tokens[2]);
    if (s->model)
        gguf_put(&image, "sds", "tokenizer.ggml.model", GGUF_STRING, s->model);
    if (s->pre)
        gguf_put(&image, "sds", "tokenizer.ggml.pre", GGUF_STRING, s->pre);
    if (s->merge)
        gguf_put(&image, "sddqs", "tokenizer.ggml.merges", GGUF_ARRAY, GGUF_STRING, 1, s->merge);
    if (s->flag)
        gguf_put(&image, "sdb", s->flag, GGUF_BOOL, 1);
    if (s->type >= 0)
        gguf_put(&image, "sddqddd", "tokenizer.ggml.token_type", GGUF_ARRAY, GGUF_I32, 3, 1, 1, s->type);
    if (s->n_scores >= 0)
        gguf_put(&image, "sddq", "tokenizer.ggml.scores", GGUF_ARRAY, GGUF_F32, s->n_scores);
    for (int i = 0; i < s->n_scores; i++)
        gguf_put_number(&image, s->score, 4);
    gguf_put(&image, "p", 32);
    cr_assert(gguf_open_memory(&g, "file.gguf", image.bytes, image.n, e), "%s", e->text);
    const bool good = tokenizer_load_gguf(t, g, e);
    gguf_close(g);
    gguf_image_free(&image);
    return good;
}

Test(tokenizer_more, gguf_that_is_refused)
{
    static const struct {
        small_gguf file;
        const char *mentions;
    } cases[] = {
        {{NULL, NULL, NULL, NULL, -1, -1, 0}, "tokenizer.ggml.model is missing"},
        {{"bert", NULL, NULL, NULL, -1, -1, 0}, "tokenizer.ggml.model 'bert' is not supported"},
        {{"gpt2", "viking", "a b", NULL, -1, -1, 0}, "tokenizer.ggml.pre 'viking' is not supported"},
        {{"gpt2", "gpt-2", NULL, NULL, -1, -1, 0}, "tokenizer.ggml.merges is missing or empty"},
        {{"gpt2", "gpt-2", "a  b", NULL, -1, -1, 0}, "merges: element 0: expected two tokens"},
        {{"gpt2", "gpt-2", "a q", NULL, -1, -1, 0}, "merges element 0: token 'q' is not in the vocabulary"},
        {{"gpt2", "gpt-2", "a b", NULL, 7, -1, 0}, "token 2 has type 7, expected 1 to 6"},
        {{"gpt2", "gpt-2", "a b", "tokenizer.ggml.add_bos_token", -1, -1, 0},
         "tokenizer.ggml.bos_token_id is missing, but tokenizer.ggml.add_bos_token puts that token before a "
         "text"},
        {{"gpt2", "llama-bpe", "a b", NULL, -1, -1, 0},
         "tokenizer.ggml.bos_token_id is missing, but tokenizer.ggml.pre puts that token before a text"},
        {{"gpt2", "gpt-2", "a b", "tokenizer.ggml.unknown_token_id", -1, -1, 0},
         "key 'tokenizer.ggml.unknown_token_id'"},
        {{"llama", NULL, NULL, NULL, -1, 1, 0},
         "tokenizer.ggml.scores has 1 element, but there are 3 tokens"},
        {{"llama", NULL, NULL, NULL, -1, -1, 0},
         "tokenizer.ggml.scores has 0 elements, but there are 3 tokens"},
        {{"llama", NULL, NULL, NULL, -1, 2, 0}, "tokenizer.ggml.scores has 2 elements"},
        {{"llama", NULL, NULL, NULL, -1, 3, 0x7fc00000}, "token 0 has a score that is not finite"},
        {{"llama", NULL, NULL, "tokenizer.ggml.remove_extra_whitespaces", -1, 3, 0},
         "remove_extra_whitespaces is not supported"},
        {{"llama", NULL, NULL, "tokenizer.ggml.precompiled_charsmap", -1, 3, 0},
         "precompiled_charsmap is not supported"},
    };
    for (size_t i = 0; i < sizeof cases / sizeof cases[0]; i++) {
        tokenizer *t;
        eval_error e = {""};
        cr_expect_not(load_small_gguf(&t, &cases[i].file, &e), "case %zu", i);
        cr_expect(strstr(e.text, "file.gguf") && strstr(e.text, cases[i].mentions), "case %zu: %s", i,
                  e.text);
    }
}

Test(tokenizer_more, gguf_without_pre_says_what_is_assumed)
{
    const small_gguf without = {"gpt2", NULL, "a b", NULL, -1, -1, 0},
                     with = {"gpt2", "gpt-2", "a b", NULL, -1, -1, 0};
    tokenizer *t;
    eval_error e = {""};
    cr_assert(load_small_gguf(&t, &without, &e), "%s", e.text);
    cr_assert_not_null(tokenizer_note(t));
    cr_expect(strstr(tokenizer_note(t), "tokenizer.ggml.pre is missing"), "%s", tokenizer_note(t));
    tokenizer_free(t);
    cr_assert(load_small_gguf(&t, &with, &e), "%s", e.text);
    cr_expect_null(tokenizer_note(t));
    tokenizer_free(t);
}

/* The token "ab", by its type: merged, or found in a text, or neither. "llama" puts a space before each text
 * between such tokens, which here is unknown, and so token 0. */
Test(tokenizer_more, gguf_types_of_tokens)
{
    static const struct {
        const char *model;
        int type;
        const char *ids;
    } cases[] = {{"gpt2", 1, "2,1"},    {"gpt2", 3, "2,1"},    {"gpt2", 4, "2,1"},
                 {"llama", 1, "0,2,1"}, {"llama", 3, "2,0,1"}, {"llama", 5, "0,0,1,1"}};
    for (size_t i = 0; i < sizeof cases / sizeof cases[0]; i++) {
        const small_gguf file = {cases[i].model, "gpt-2", "a b", NULL, cases[i].type, 3, 0};
        tokenizer *t;
        eval_error e = {""};
        char ids[64];
        cr_assert(load_small_gguf(&t, &file, &e), "%s", e.text);
        encode(t, "abb", ids, sizeof ids);
        cr_expect_str_eq(ids, cases[i].ids, "case %zu: %s", i, ids);
        tokenizer_free(t);
    }
}

/* ---- time ---- */

/* A million bytes of the same few, for each kind of tokenizer: quadratic time would be minutes or more. */
Test(tokenizer_more, long_texts, .timeout = 600)
{
    static const char *const names[] = {"llama3.json",    "qwen2.json",  "smollm.json",
                                        "splits.json",    "llama2.json", "gemma.json",
                                        "metaspace.json", "unks.json",   "spm.gguf"};
    static const char *const repeated[] = {"a",    " ", "\xcc\x81\xcc\xa3", "<w", "<mask>", " \n", "1",
                                           "\xff", "'", "\xe4\xb8\xad"};
    const size_t n = 1 << 20;
    char *text = malloc(n);
    cr_assert_not_null(text);
    for (size_t i = 0; i < sizeof names / sizeof names[0]; i++) {
        tokenizer *t = load_vector(names[i]);
        for (size_t j = 0; j < sizeof repeated / sizeof repeated[0]; j++) {
            const size_t length = strlen(repeated[j]);
            struct timespec start, end;
            int32_t *ids;
            size_t n_ids;
            eval_error e = {""};
            for (size_t k = 0; k < n; k++)
                text[k] = repeated[j][k % length];
            clock_gettime(CLOCK_MONOTONIC, &start);
            cr_assert(tokenizer_encode(t, text, n, &ids, &n_ids, &e), "%s", e.text);
            clock_gettime(CLOCK_MONOTONIC, &end);
            const double seconds =
                (double)(end.tv_sec - start.tv_sec) + 1e-9 * (double)(end.tv_nsec - start.tv_nsec);
            cr_expect_lt(seconds, 20.0, "%s, '%s': %.1f s", names[i], repeated[j], seconds);
            if (getenv("KVQ_SHOW_TIMES"))
                fprintf(stderr, "%s '%s' %.2f s\n", names[i], repeated[j], seconds);
            free(ids);
        }
        tokenizer_free(t);
    }
    free(text);
}
