/*
 * Writes the seeds of the fuzz targets: make_corpus DIR makes DIR/snapshot, DIR/scheme and so on. Seeds are
 * small and few; what else lies in the corpora was found by fuzzing (README.md).
 */
#define _DEFAULT_SOURCE /* mkdir */

#include "eval/results/results.h"
#include "tests/gguf_image.h"
#include "tests/results_cells.h"
#include "tests/support.h"
#include "tests/tiny_llama.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>

static const char *root;

static void write_seed(const char *target, const char *name, const void *data, size_t n)
{
    char path[4096];
    (void)snprintf(path, sizeof path, "%s/%s", root, target);
    (void)mkdir(path, 0777);
    (void)snprintf(path, sizeof path, "%s/%s/%s", root, target, name);
    FILE *file = fopen(path, "wb");
    if (file == NULL || fwrite(data, 1, n, file) != n || fclose(file) != 0) {
        perror(path);
        exit(1);
    }
}

static void write_text(const char *target, const char *name, const char *text)
{
    write_seed(target, name, text, strlen(text));
}

/* ---- Saved caches: a mode byte, then the file; tiny shapes that have sinks, residuals, whole pages ---- */

typedef enum filling {
    APPENDED,
    STEPPED, /* so that there is evidence */
} filling;

static void fill_layer(kvq_cache *cache, size_t layer, shape s, size_t n, filling how, rng *r)
{
    size_t row = s.n_kv_heads * s.head_dim, q_row = s.n_heads * s.head_dim;
    float *x = malloc((n + 1) * (row + 2 * q_row) * sizeof *x);
    if (x == NULL)
        exit(1);
    float *q = x + n * row, *out = q + n * q_row;
    fill(r, FILL_NORMAL, x, n, row);
    fill(r, FILL_NORMAL, q, n, q_row);
    kvq_status status = how == APPENDED
                            ? kvq_cache_append(cache, layer, 0, x, x, n)
                            : kvq_cache_step(cache, layer, (size_t[]){0}, 1, &n, q, x, x, 1, NULL, out);
    if (status != KVQ_OK)
        exit(1);
    free(x);
}

/* damage: where to write the two bytes of `value` into the file, or 0 */
static void make_snapshot(const char *name, const char *scheme, shape s, size_t n_tokens, filling how,
                          uint8_t mode, size_t damage, uint16_t value)
{
    rng r = rng_make(n_tokens);
    kvq_cache *cache = cache_of(scheme, s, NULL);
    for (size_t layer = 0; layer < s.n_layers; layer++)
        fill_layer(cache, layer, s, n_tokens, how, &r);
    buffer file = {0}, all = saved(cache);
    if (!buffer_write(&file, &mode, 1) || !buffer_write(&file, all.data, all.n))
        exit(1);
    if (damage > 0)
        memcpy(file.data + 1 + damage, &value, sizeof value);
    write_seed("snapshot", name, file.data, file.n);
    buffer_free(&file);
    buffer_free(&all);
    kvq_cache_free(cache);
}

static void make_snapshots(void)
{
    for (uint8_t mode = 0; mode < 2; mode++) {
        char name[64];
        const char *kind = mode == 0 ? "plain" : "repaired";
#define SNAPSHOT(suffix, scheme, n_tokens, ...)                                                              \
    (void)snprintf(name, sizeof name, "%s-%s", kind, suffix);                                                \
    make_snapshot(name, scheme, (shape){__VA_ARGS__}, n_tokens, APPENDED, mode, 0, 0)
        SNAPSHOT("empty", "kivi2", 0, 1, 1, 1, 1, 1);
        SNAPSHOT("residual", "kivi2", 3, 2, 2, 1, 2, 2);
        SNAPSHOT("sinks", "fp32,s=4,rtype=f16", 7, 1, 1, 1, 3, 1);
        SNAPSHOT("rows", "fp16", 5, 1, 2, 2, 2, 1);
        SNAPSHOT("kivi2", "kivi2-g16,r=16", 40, 1, 1, 1, 1, 1);
        SNAPSHOT("sealed", "k=1@channel/32,v=1@token/full,r=0,mode=sliding", 130, 1, 1, 1, 1, 1);
        SNAPSHOT("int8", "k=2,v=2@token/16,r=32,rtype=i8/f16,s=2", 37, 1, 1, 1, 3, 1);
        SNAPSHOT("parity", "k=3@token/16,v=5@channel/16,r=16,arith=kivi-f16,s=1", 36, 1, 1, 1, 2, 1);
        SNAPSHOT("kvarn2", "kvarn2,r=0,s=1", 129, 1, 1, 1, 2, 1);
        SNAPSHOT("nuq2", "nuq2,r=0,s=0", 128, 1, 1, 1, 2, 1);
#undef SNAPSHOT
        (void)snprintf(name, sizeof name, "%s-evidence", kind);
        make_snapshot(name, "k=toy:7,v=toy,s=1", (shape){1, 2, 1, 2, 1}, 140, STEPPED, mode, 0, 0);
        (void)snprintf(name, sizeof name, "%s-evidence-of-two", kind);
        make_snapshot(name, "k=2@channel/16,v=toy:2", (shape){2, 2, 2, 1, 2}, 20, STEPPED, mode, 0, 0);
    }
    make_snapshot("plain-kvq2", "kvq2,r=0", (shape){1, 1, 1, 3, 1}, 140, STEPPED, 0, 0, 0);
    make_snapshot("repaired-kvq2", "kvq2-fb,r=0,s=1", (shape){1, 2, 1, 2, 1}, 140, STEPPED, 1, 0, 0);
    /* Damage that the checksums, being put right, do not show: in a scheme's text and behind it, in the
     * counts of a layer record, in the page: of 40 tokens 8 keys and 17 values are full-precision rows; a
     * block of 32 keys is 128 bytes of codes, then scales. */
    shape tiny = {1, 1, 1, 1, 1};
    const size_t scheme = 48, record = scheme + 128, rows = record + 40, page = rows + 4 * (8 + 17) + 8;
    make_snapshot("repaired-unused-byte", "fp32", tiny, 3, APPENDED, 1, scheme + 126, 0x0100);
    make_snapshot("repaired-unused-bits", "fp32", tiny, 3, APPENDED, 1, scheme + 2, 0x3266);
    make_snapshot("repaired-n-tokens", "kivi2-g16,r=16", tiny, 40, APPENDED, 1, record + 8, 41);
    make_snapshot("repaired-k-packed", "kivi2-g16,r=16", tiny, 40, APPENDED, 1, record + 16, 64);
    make_snapshot("repaired-infinite-row", "fp32,r=8", tiny, 3, APPENDED, 1, rows + 2, 0x7f80);
    /* 6 tokens of two rows of 4 bytes and their checksum; a count of queries, energy, 6 received twice */
    const size_t evidence = rows + 2 * 6 * 4 + 8;
    make_snapshot("repaired-infinite-energy", "k=toy,v=toy", tiny, 6, STEPPED, 1, evidence + 8 + 2, 0x7f80);
    make_snapshot("repaired-negative-received", "k=toy,v=toy", tiny, 6, STEPPED, 1, evidence + 12 + 18,
                  0xbf80);
    make_snapshot("repaired-no-queries", "k=toy,v=toy", tiny, 6, STEPPED, 1, evidence, 0);
    make_snapshot("repaired-infinite-scale", "kivi2-g16,r=16", tiny, 40, APPENDED, 1, page + 128, 0x7c00);
}

/* ---- Scheme texts ---- */

static void make_schemes(void)
{
    static const char *const texts[] = {
        "fp32",
        "fp16",
        "kivi2",
        "kivi4-g64",
        "kivi8,r=32,s=4",
        "k=2@channel/32,v=2@token/32,r=128",
        "k=1@token/full,v=6@channel/128,r=256,mode=sliding,rtype=f16,s=3,arith=kivi-f16",
        "k=f32,v=f16,r=0,mode=kivi",
        "k=8,v=3/16,arith=f32,rtype=f32",
        "kivi7",
        "k=2",
        "fp32,",
        "kivi2,r=33",
        "kivi2-g48",
        "k=2@chanel/32,v=2",
        "k=2@channel/full,v=2",
        "fp32,r=99999999999",
        "kivi2,s=1,s=2",
        "kivi2 ",
        "kivi4,rtype=i8/f16,hh=0",
        "k=toy:7,v=toy,r=256,hh=3",
        "v=toy,k=affine",
        "kvq2-fb,hh=4",
        "k=tier:3.5:u=2:cert,v=rot:1.5,hh=8",
        "kvq1.5,v=quarot:8/64,k=nuq:3:qn",
        "k=turbo:4:nc,v=kvarn:4,rtype=f16/i8",
        "q8_0,v=q4_1,k=q4_0,s=4",
        "kivi2+1=kivi4+2-5=fp16,r=32",
        "kvq2+7-9=k=2,v=2+6=kivi2+0=kvq2",
        "kivi2+3-3=fp32+1-4=fp16",
        "fp32+2-1=fp16",
        "kivi4+4096=kivi2",
        "kivi4,s=3+0-4095=kivi2,r=33"};
    for (size_t i = 0; i < sizeof texts / sizeof texts[0]; i++) {
        char name[32];
        (void)snprintf(name, sizeof name, "text-%02zu", i);
        write_text("scheme", name, texts[i]);
    }
    /* Numbers of words in fuzz_scheme.c; read as text they are none. */
    static const uint8_t sides[] = {1, 31, 9, 19, 10, 36, 0, 2, 11 + 20},
                         items[] = {24, 0, 3, 38, 0, 6, 15, 10, 16};
    write_seed("scheme", "words-sides", sides, sizeof sides);
    write_seed("scheme", "words-items", items, sizeof items);
    static const uint8_t layers[] = {24, 65, 46, 66, 67, 45};
    write_seed("scheme", "words-layers", layers, sizeof layers);
}

/* ---- Calls: random choices; the target makes sense of any bytes ---- */

static void make_calls(void)
{
    rng r = rng_make(99);
    for (size_t i = 0; i < N_FAMILIES; i++) {
        uint8_t bytes[400];
        char name[32];
        size_t n = 100 + 10 * (i % 25);
        for (size_t j = 0; j < n; j++)
            bytes[j] = (uint8_t)rng_u64(&r);
        bytes[1] = (uint8_t)i;
        bytes[2] = (uint8_t)i; /* each scheme has its turn */
        (void)snprintf(name, sizeof name, "calls-%02zu", i);
        write_seed("api", name, bytes, n);
    }
}

/* ---- eval's files ---- */

static void make_safetensors(const char *name, const char *json, size_t n_data)
{
    uint8_t bytes[1024] = {0};
    size_t n = strlen(json);
    for (size_t i = 0; i < 8; i++)
        bytes[i] = (uint8_t)(n >> 8 * i);
    memcpy(bytes + 8, json, n);
    for (size_t i = 0; i < n_data; i++)
        bytes[8 + n + i] = (uint8_t)(17 * i);
    write_seed("safetensors", name, bytes, 8 + n + n_data);
}

static void make_all_safetensors(void)
{
    make_safetensors("empty", "{}", 0);
    make_safetensors("f32", "{\"a\":{\"dtype\":\"F32\",\"shape\":[2,3],\"data_offsets\":[0,24]}}", 24);
    make_safetensors("three",
                     "{\"__metadata__\":{\"format\":\"pt\"},"
                     "\"h.0.w\":{\"dtype\":\"F16\",\"shape\":[2,2],\"data_offsets\":[0,8]},"
                     "\"b\":{\"dtype\":\"BF16\",\"shape\":[4],\"data_offsets\":[8,16]},"
                     "\"i\":{\"dtype\":\"I64\",\"shape\":[],\"data_offsets\":[16,24]}}   ",
                     24);
    make_safetensors("overlap",
                     "{\"a\":{\"dtype\":\"F32\",\"shape\":[2],\"data_offsets\":[0,8]},"
                     "\"b\":{\"dtype\":\"F32\",\"shape\":[2],\"data_offsets\":[4,12]}}",
                     12);
    make_safetensors("zero", "{\"a\":{\"dtype\":\"F32\",\"shape\":[0,7],\"data_offsets\":[0,0]}}", 0);
    make_safetensors(
        "huge", "{\"a\":{\"dtype\":\"F32\",\"shape\":[4294967296,4294967296],\"data_offsets\":[0,8]}}", 8);
    make_safetensors(
        "escapes", "{\"\\u0061\\ud83d\\ude00\\n\":{\"data_offsets\":[0,2],\"shape\":[1],\"dtype\":\"F16\"}}",
        2);
    write_seed("safetensors", "short", "\x10\0\0\0\0\0\0\0{}", 10);
}

static void write_gguf(const char *name, gguf_image *image)
{
    write_seed("gguf", name, image->bytes, image->n);
    gguf_image_free(image);
}

/* Kinds and types by the file's numbers: 4 is U32, 5 I32, 6 F32, 7 BOOL, 8 STRING, 9 ARRAY; 0 is F32, 8 Q8_0,
 * 12 Q4_K, 24 I8. */
static void make_ggufs(void)
{
    gguf_image g = {.n = 0};
    gguf_put(&g, "Gqq", 0, 0);
    write_gguf("empty", &g);
    gguf_put(&g, "Gqqsdd", 0, 5, "general.alignment", 4, 8);
    gguf_put(&g, "sdssdd", "s", 8, "text", "f", 6, 0x3f000000);
    gguf_put(&g, "sdbsdq", "b", 7, 1, "big", 11, -1);
    write_gguf("values", &g);
    gguf_put(&g, "Gqq", 0, 3);
    gguf_put(&g, "sddqsss", "tokens", 9, 8, 3, "a", "", "bc");
    gguf_put(&g, "sddqdd", "types", 9, 5, 2, 1, -1);
    gguf_put(&g, "sddqbb", "flags", 9, 7, 2, 0, 1);
    write_gguf("arrays", &g);
    gguf_put(&g, "Gqq", 3, 0);
    gguf_put(&g, "sdqqdq", "w", 2, 2, 3, 0, 64);
    gguf_put(&g, "sdqdq", "q", 1, 32, 8, 0);
    gguf_put(&g, "sdqdqpz", "i", 1, 5, 24, 96, 32, 101);
    write_gguf("tensors", &g);
    gguf_put(&g, "Gqqsdqdqpz", 1, 0, "k", 1, 256, 12, 0, 32, 144);
    write_gguf("superblock", &g);
    gguf_put(&g, "Gqqsddqz", 0, 1, "k", 9, 9, 1, 40);
    write_gguf("nested", &g);
    gguf_put(&g, "GQQz", UINT64_MAX, UINT64_MAX, 30);
    write_gguf("counts", &g);
}

static void make_tokenizers(void)
{
    static const char *const texts[] = {"abcabcabc aaaa", "It's 12 o'clock,  isn't it?\n\n",
                                        "\xc3\xa9\xe2\x82\xac ", "\xff\xfe\x80"};
    char bytes[256];
    for (size_t i = 0; i < sizeof texts / sizeof texts[0]; i++) {
        (void)snprintf(bytes, sizeof bytes, "\x01%s", texts[i]);
        char name[32];
        (void)snprintf(name, sizeof name, "text-%zu", i);
        write_text("tokenizer", name, bytes);
    }
    static const char small[] = "\x02{\"a\":0,\"b\":1,\"ab\":2,\"\\u0120\":3}\0#version: 0.2\na b\n",
                      broken[] = "\x02{\"a\":0,\"a\":0}\0a  b\n", no_merges[] = "\x02{\"a\":0}";
    write_seed("tokenizer", "files-small", small, sizeof small - 1);
    write_seed("tokenizer", "files-broken", broken, sizeof broken - 1);
    write_seed("tokenizer", "files-no-merges", no_merges, sizeof no_merges - 1);
}

/* A llama with a tokenizer of four pieces, one of other RoPE with biases, and two config.json. */
static void make_models(void)
{
    tiny_gguf t = {.n_keys = 0};
    gguf_image image = {.n = 0};
    tiny_llama(&t);
    tiny_string(&t, "tokenizer.ggml.model", "llama");
    gguf_put(&t.keys, "sddqssss", "tokenizer.ggml.tokens", 9, 8, 4, "<unk>", "a", "\xe2\x96\x81", "b");
    gguf_put(&t.keys, "sddqdddd", "tokenizer.ggml.scores", 9, 6, 4, 0, 0, 0, 0);
    gguf_put(&t.keys, "sddqdddd", "tokenizer.ggml.token_type", 9, 5, 4, 2, 1, 1, 1);
    t.n_keys += 3;
    tiny_finish(&t, &image);
    write_seed("model", "llama", image.bytes, image.n);
    gguf_image_free(&image);
    tiny_llama(&t);
    tiny_string(&t, "llama.rope.scaling.type", "yarn");
    tiny_f32(&t, "llama.rope.scaling.factor", 4.0f);
    tiny_u32(&t, "llama.attention.sliding_window", 4);
    tiny_tensor(&t, "blk.0.attn_q.bias", 0, 8);
    tiny_tensor(&t, "blk.0.attn_k.bias", 0, 4);
    tiny_tensor(&t, "blk.0.attn_v.bias", 0, 4);
    tiny_tensor(&t, "output.weight", 4, 8);
    tiny_finish(&t, &image);
    write_seed("model", "yarn", image.bytes, image.n);
    gguf_image_free(&image);
    write_text(
        "model", "config-llama",
        "{\"model_type\":\"llama\",\"hidden_size\":48,\"intermediate_size\":64,\"num_hidden_layers\":2,"
        "\"num_attention_heads\":6,\"num_key_value_heads\":3,\"max_position_embeddings\":64,"
        "\"vocab_size\":64,\"rope_scaling\":{\"rope_type\":\"llama3\",\"factor\":8,\"low_freq_factor\":1,"
        "\"high_freq_factor\":4,\"original_max_position_embeddings\":16}}");
    write_text("model", "config-qwen2",
               "{\"model_type\":\"qwen2\",\"hidden_size\":8,\"intermediate_size\":8,\"num_hidden_layers\":2,"
               "\"num_attention_heads\":2,\"max_position_embeddings\":64,\"vocab_size\":9,\"rope_scaling\":"
               "{\"type\":\"yarn\",\"factor\":4.0,\"beta_fast\":32},\"use_sliding_window\":true,"
               "\"sliding_window\":8,\"layer_types\":[\"full_attention\",\"sliding_attention\"]}");
}

/* ---- Results files: a mode byte, then lines ---- */

static void make_results(void)
{
    experiment x = some_experiment();
    char text[1 << 15] = "";
    for (size_t i = 0; i < 2; i++) {
        x.n_layer = 1;
        cell c = some_cell(&x, i == 0 ? "fp32" : "kivi2", i, i + 1);
        if (i == 1)
            c.portrait.n_rows = 0;
        char *line = results_line(&x, &c);
        if (line == NULL)
            exit(1);
        text[0] = '\1';
        (void)snprintf(text + 1, sizeof text - 1, "%s", line);
        write_text("results", i == 0 ? "line-portrait" : "line", text);
        text[0] = '\2';
        write_text("results", i == 0 ? "file-portrait" : "file", text);
        if (i == 1) {
            (void)snprintf(text + 1, sizeof text - 1, "%s%s%.100s\n%.50s", line, line, line, line);
            write_text("results", "file-cut", text);
        }
        free(line);
        cell_clear(&c);
    }
}

int main(int argc, char **argv)
{
    if (argc != 2) {
        (void)fprintf(stderr, "usage: make_corpus DIR\n");
        return 2;
    }
    root = argv[1];
    make_snapshots();
    make_schemes();
    make_calls();
    make_all_safetensors();
    make_ggufs();
    make_tokenizers();
    make_models();
    make_results();
    return 0;
}
