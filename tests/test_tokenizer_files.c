/* Tokenizers of every kind that Hugging Face's tokenizer.json and GGUF bring, on texts made to be hard,
 * against the ids that Hugging Face's own package gives (vectors/tokenizers); what is refused; arbitrary
 * bytes. */
#include "eval/common/splitmix.h"
#include "eval/model/gguf.h"
#include "eval/model/tokenizer.h"

#include <criterion/criterion.h>
#include <jansson.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define VECTORS KVQ_SOURCE_DIR "/tests/vectors/tokenizers/"

/* Does decoding give every text back? Not where the tokenizer by its design says less (tokenizer.h). */
typedef struct kind {
    const char *name; /* NAME.json or NAME.gguf, with NAME.ids.json or NAME.gguf.ids.json */
    bool is_gguf, reversible;
} kind;

static const kind kinds[] = {
    {"gpt2", false, true},       {"gpt2_prefix", false, false}, {"llama3", false, true},
    {"qwen2", false, false},     {"smollm", false, true},       {"splits", false, false},
    {"holes", false, false},     {"llama2", false, false},      {"mistral", false, false},
    {"metaspace", false, false}, {"gemma", false, false},       {"unk", false, false},
    {"unks", false, false},      {"gpt2", true, true},          {"llama3", true, true},
    {"qwen2", true, false},      {"smollm", true, true},        {"spm", true, false},
};
enum { N_KINDS = sizeof kinds / sizeof kinds[0] };

static char *read_all(const char *path, size_t *size)
{
    FILE *f = fopen(path, "rb");
    cr_assert_not_null(f, "%s", path);
    char *data = malloc(1 << 20);
    cr_assert_not_null(data);
    *size = fread(data, 1, 1 << 20, f);
    cr_assert(*size < 1 << 20);
    fclose(f);
    return data;
}

static json_t *load_json(const char *name)
{
    char path[512];
    json_error_t why;
    snprintf(path, sizeof path, VECTORS "%s", name);
    json_t *root = json_load_file(path, JSON_ALLOW_NUL, &why);
    cr_assert_not_null(root, "%s: %s", path, why.text);
    return root;
}

static tokenizer *load(const kind *k)
{
    char path[512];
    tokenizer *t = NULL;
    eval_error e = {""};
    snprintf(path, sizeof path, VECTORS "%s.%s", k->name, k->is_gguf ? "gguf" : "json");
    if (k->is_gguf) {
        gguf *g = NULL;
        cr_assert(gguf_open(&g, path, &e), "%s", e.text);
        cr_assert(tokenizer_load_gguf(&t, g, &e), "%s", e.text);
        gguf_close(g);
        return t;
    }
    size_t size;
    char *data = read_all(path, &size);
    cr_assert(tokenizer_load_json(&t, path, data, size, NULL, NULL, 0, &e), "%s", e.text);
    free(data);
    return t;
}

static void check_text(const kind *k, const tokenizer *t, size_t number, const json_t *text,
                       const json_t *expected)
{
    const char *bytes = json_string_value(text);
    const size_t n_bytes = json_string_length(text);
    int32_t *ids = NULL;
    size_t n = 0, n_back = 0;
    char *back = NULL;
    eval_error e = {""};
    cr_assert(tokenizer_encode(t, bytes, n_bytes, &ids, &n, &e), "%s", e.text);
    cr_expect_eq(n, json_array_size(expected), "%s%s, text %zu: %zu ids, expected %zu", k->name,
                 k->is_gguf ? ".gguf" : "", number, n, json_array_size(expected));
    for (size_t i = 0; i < n && i < json_array_size(expected); i++) {
        const json_int_t want = json_integer_value(json_array_get(expected, i));
        cr_expect_eq(ids[i], want, "%s%s, text %zu, token %zu: %d, expected %d", k->name,
                     k->is_gguf ? ".gguf" : "", number, i, (int)ids[i], (int)want);
        if (ids[i] != want)
            break;
    }
    cr_assert(tokenizer_decode(t, ids, n, &back, &n_back, &e), "%s", e.text);
    /* <mask> takes the spaces around it away, but GGUF does not know that. */
    if (k->reversible && (k->is_gguf || !strstr(bytes, "<mask>")))
        cr_expect(n_back == n_bytes && memcmp(back, bytes, n_bytes) == 0, "%s, text %zu does not come back",
                  k->name, number);
    free(back);
    free(ids);
}

Test(tokenizer_files, ids_are_hugging_faces)
{
    json_t *texts = load_json("texts.json");
    for (size_t i = 0; i < N_KINDS; i++) {
        char name[64];
        snprintf(name, sizeof name, "%s%s.ids.json", kinds[i].name, kinds[i].is_gguf ? ".gguf" : "");
        json_t *expected = load_json(name), *rows = json_object_get(expected, "ids");
        json_t *bos = json_object_get(expected, "bos");
        tokenizer *t = load(&kinds[i]);
        cr_assert_geq(json_array_size(texts), 50);
        cr_assert_eq(json_array_size(rows), json_array_size(texts));
        cr_expect_eq(tokenizer_bos_id(t),
                     json_array_size(bos) ? json_integer_value(json_array_get(bos, 0)) : -1, "%s: BOS is %d",
                     name, (int)tokenizer_bos_id(t));
        for (size_t j = 0; j < json_array_size(texts); j++)
            check_text(&kinds[i], t, j, json_array_get(texts, j), json_array_get(rows, j));
        tokenizer_free(t);
        json_decref(expected);
    }
    json_decref(texts);
}

/* Valid UTF-8 or not, nothing fails, and what is reversible comes back to the byte. */
Test(tokenizer_files, arbitrary_bytes)
{
    enum { N = 400, ROUNDS = 50 };
    for (size_t i = 0; i < N_KINDS; i++) {
        tokenizer *t = load(&kinds[i]);
        for (size_t round = 0; round < ROUNDS; round++) {
            char bytes[N], *back = NULL;
            int32_t *ids = NULL;
            size_t n = 0, n_back = 0;
            eval_error e = {""};
            for (size_t j = 0; j < N; j++) {
                const uint64_t r = splitmix64(i * ROUNDS + round, j);
                bytes[j] = r % 3 == 0 ? (char)(r >> 8 & 0xff) : " aeZ\n\xc3\xa9\xe2\x96\x81"[(r >> 8) % 10];
            }
            cr_assert(tokenizer_encode(t, bytes, N, &ids, &n, &e), "%s", e.text);
            for (size_t j = 0; j < n; j++)
                cr_assert(ids[j] >= 0 && (size_t)ids[j] < tokenizer_vocab_size(t));
            cr_assert(tokenizer_decode(t, ids, n, &back, &n_back, &e), "%s", e.text);
            if (kinds[i].reversible)
                cr_assert(n_back == N && memcmp(back, bytes, N) == 0, "%s", kinds[i].name);
            free(back);
            free(ids);
        }
        tokenizer_free(t);
    }
}

/* ---- what is refused ---- */

#define BYTES_OF_A "\"model\":{\"type\":\"BPE\",\"vocab\":{\"a\":0,\"b\":1,\"ab\":2},\"merges\":[\"a b\"]}"

Test(tokenizer_files, what_is_not_supported_is_named)
{
    static const char *const cases[][2] = {
        {"", "JSON"},
        {"[]", "JSON object"},
        {"{}", "model"},
        {"{\"model\":{\"type\":\"Unigram\",\"vocab\":[]}}", "Unigram"},
        {"{\"model\":{\"type\":\"WordPiece\",\"vocab\":{}}}", "WordPiece"},
        {"{\"model\":{\"type\":\"BPE\",\"vocab\":{\"a\":0},\"merges\":[\"a c\"]}}", "merge"},
        {"{\"model\":{\"type\":\"BPE\",\"vocab\":{\"a\":0,\"b\":0},\"merges\":[]}}", "0"},
        {"{\"model\":{\"type\":\"BPE\",\"vocab\":{\"a\":-1},\"merges\":[]}}", "-1"},
        {"{\"model\":{\"type\":\"BPE\",\"vocab\":{\"a\":0},\"merges\":\"x\"}}", "merges"},
        {"{\"model\":{\"type\":\"BPE\",\"dropout\":0.5,\"vocab\":{\"a\":0},\"merges\":[]}}", "dropout"},
        {"{}", "model is missing, expected an object"},
        {"{\"model\":{\"type\":\"BPE\",\"merges\":[]}}",
         "model.vocab is missing, expected an object of tokens"},
        {"{\"model\":{\"type\":\"BPE\",\"vocab\":{\"a\":0}}}", "model.merges is missing, expected an array"},
        {"{" BYTES_OF_A ",\"normalizer\":{\"type\":\"BertNormalizer\"}}", "BertNormalizer"},
        {"{" BYTES_OF_A ",\"pre_tokenizer\":{\"type\":\"CharDelimiterSplit\"}}", "CharDelimiterSplit"},
        {"{" BYTES_OF_A ",\"pre_tokenizer\":{\"type\":\"Split\",\"pattern\":{\"Regex\":\"(\"},"
         "\"behavior\":\"Isolated\",\"invert\":false}}",
         "("},
    };
    for (size_t i = 0; i < sizeof cases / sizeof cases[0]; i++) {
        tokenizer *t = NULL;
        eval_error e = {""};
        const bool good =
            tokenizer_load_json(&t, "file.json", cases[i][0], strlen(cases[i][0]), NULL, NULL, 0, &e);
        cr_expect_not(good, "accepted: %s", cases[i][0]);
        cr_expect(strstr(e.text, "file.json") && strstr(e.text, cases[i][1]), "%s: %s", cases[i][0], e.text);
        if (good)
            tokenizer_free(t);
    }
}
