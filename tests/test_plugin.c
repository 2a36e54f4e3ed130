/*
 * Codecs that a program brings, through the public headers alone. As shared objects: test_plugin_tool.c.
 */
#define _DEFAULT_SOURCE /* MAP_ANONYMOUS */

#include <criterion/criterion.h>
#include <math.h>
#include <stdio.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/wait.h>
#include <unistd.h>

#include "lib/kvq_experimental.h"

enum { T = KVQ_PLUGIN_TOKENS, D = 10, HEADS = 4, KV_HEADS = 2, ROW = KV_HEADS * D, Q_ROW = HEADS * D };

/* ---- turned: bytes of numbers whose channels were turned in pairs ---- */

/* (x, y) -> (.6 x - .8 y, .8 x + .6 y); a last channel without a partner stays. */
static void turn(const float *x, size_t dim, float sine, float *out)
{
    for (size_t c = 0; c + 1 < dim; c += 2) {
        float a = x[c], b = x[c + 1];
        out[c] = 0.6f * a - sine * b;
        out[c + 1] = sine * a + 0.6f * b;
    }
    if (dim % 2 != 0)
        out[dim - 1] = x[dim - 1];
}

static void prepare(const kvq_plugin_side *side, const float *q, float *out)
{
    turn(q, side->head_dim, 0.8f, out);
}

static void finish(const kvq_plugin_side *side, float *row)
{
    turn(row, side->head_dim, -0.8f, row);
}

static size_t codes_bytes(const kvq_plugin_side *side)
{
    return T * side->head_dim;
}

/* turned takes "", "fine" and "coarse"; ctx says what is the default. */
static float levels_of(const kvq_plugin_side *side)
{
    const char *text = side->parameters[0] != '\0' ? side->parameters : side->ctx;
    return strcmp(text, "fine") == 0 ? 127.0f : strcmp(text, "coarse") == 0 ? 15.0f : 0.0f;
}

static size_t turned_bytes(const kvq_plugin_side *side)
{
    return levels_of(side) > 0 && side->head_dim <= 128 ? codes_bytes(side) + T * sizeof(float) : 0;
}

static void turned_encode(const kvq_plugin_side *side, const float *x, size_t stride,
                          const kvq_plugin_evidence *evidence, uint8_t *data)
{
    cr_assert(evidence != NULL && evidence->energy == NULL && evidence->received == NULL, "not asked for");
    for (size_t t = 0; t < T; t++) {
        float y[128], largest = 0, scale;
        prepare(side, x + t * stride, y);
        for (size_t c = 0; c < side->head_dim; c++)
            largest = fmaxf(largest, fabsf(y[c]));
        scale = largest / levels_of(side);
        memcpy(data + codes_bytes(side) + t * sizeof scale, &scale, sizeof scale);
        for (size_t c = 0; c < side->head_dim; c++) {
            cr_assert_eq(data[t * side->head_dim + c], 0, "data holds zeros");
            data[t * side->head_dim + c] = (uint8_t)(int8_t)(scale > 0 ? rintf(y[c] / scale) : 0);
        }
    }
}

static float scale_of(const kvq_plugin_side *side, const uint8_t *data, size_t t)
{
    float scale;
    memcpy(&scale, data + codes_bytes(side) + t * sizeof scale, sizeof scale);
    return isfinite(scale) ? scale : 0;
}

static void turned_dequantize(const kvq_plugin_side *side, const uint8_t *data, size_t first, size_t n,
                              float *out, size_t stride)
{
    for (size_t i = 0; i < n; i++)
        for (size_t c = 0; c < side->head_dim; c++)
            out[i * stride + c] =
                scale_of(side, data, first + i) * (float)(int8_t)data[(first + i) * side->head_dim + c];
}

/* Half a step in each of two channels, turned back: (.6 + .8) / 2 steps, and what floats round. */
static void turned_bound(const kvq_plugin_side *side, const uint8_t *data, size_t first, size_t n, float *out,
                         size_t stride)
{
    for (size_t i = 0; i < n; i++)
        for (size_t c = 0; c < side->head_dim; c++)
            out[i * stride + c] = 0.701f * scale_of(side, data, first + i);
}

static char fine[] = "fine";

static const kvq_codec_plugin turned = {.struct_size = sizeof turned,
                                        .name = "turned",
                                        .ctx = fine,
                                        .bytes = turned_bytes,
                                        .encode = turned_encode,
                                        .dequantize = turned_dequantize,
                                        .prepare = prepare,
                                        .finish = finish,
                                        .bound = turned_bound,
                                        .payload_bytes = codes_bytes};

/* ---- told: what is read back is the evidence that came with it ---- */

static size_t told_bytes(const kvq_plugin_side *side)
{
    return (side->head_dim + T) * sizeof(float);
}

static void told_encode(const kvq_plugin_side *side, const float *x, size_t stride,
                        const kvq_plugin_evidence *evidence, uint8_t *data)
{
    (void)x, (void)stride;
    float *told = (float *)(void *)data;
    for (size_t c = 0; c < side->head_dim; c++)
        told[c] = evidence->energy != NULL ? evidence->energy[c] : -1;
    for (size_t t = 0; t < T; t++)
        told[side->head_dim + t] = evidence->received != NULL ? evidence->received[t] : -1;
}

/* Channel 0 is what the token has received, the others the energy. */
static void told_dequantize(const kvq_plugin_side *side, const uint8_t *data, size_t first, size_t n,
                            float *out, size_t stride)
{
    const float *told = (const float *)(const void *)data;
    for (size_t i = 0; i < n; i++) {
        memcpy(out + i * stride, told, side->head_dim * sizeof *out);
        out[i * stride] = told[side->head_dim + first + i];
    }
}

static const kvq_codec_plugin told = {.struct_size = sizeof told,
                                      .name = "told",
                                      .bytes = told_bytes,
                                      .encode = told_encode,
                                      .dequantize = told_dequantize,
                                      .uses_evidence = true};

static void register_both(void)
{
    cr_assert_eq(kvq_codec_plugin_register(&turned), KVQ_OK);
    cr_assert_eq(kvq_codec_plugin_register(&told), KVQ_OK);
}

/* ---- Registration ---- */

Test(plugin, what_cannot_be_registered_is_refused)
{
    cr_assert_eq(kvq_codec_plugin_register(NULL), KVQ_ERR_ARG);
#define EXPECT_BAD(change)                                                                                   \
    do {                                                                                                     \
        struct {                                                                                             \
            kvq_codec_plugin it;                                                                             \
            uint64_t behind[2];                                                                              \
        } p = {.it = turned};                                                                                \
        p.change;                                                                                            \
        cr_assert_eq(kvq_codec_plugin_register(&p.it), KVQ_ERR_ARG, "%s", #change);                          \
    } while (0)
    EXPECT_BAD(it.struct_size = 0);
    EXPECT_BAD(it.struct_size = offsetof(kvq_codec_plugin, uses_evidence));
    EXPECT_BAD(it.struct_size = 1 << 20);
    EXPECT_BAD(it.struct_size = sizeof p; p.behind[1] = 1);
    EXPECT_BAD(it.name = NULL);
    EXPECT_BAD(it.bytes = NULL);
    EXPECT_BAD(it.encode = NULL);
    EXPECT_BAD(it.dequantize = NULL);
    EXPECT_BAD(it.prepare = NULL);
    EXPECT_BAD(it.finish = NULL);
    static const char *const names[] = {
        "",    "9x",  "_x",  "a b",    "a,b",  "a-b",   "a:b", "a=b",   "turned", "tier",
        "rot", "f32", "f16", "affine", "q4_0", "turbo", "nuq", "kvarn", "quarot", "a_name_of_16_xx"};
    enum { N_NAMES = sizeof names / sizeof names[0] };
    cr_assert_eq(kvq_codec_plugin_register(&turned), KVQ_OK, "nothing of all that has registered it");
    for (size_t i = 0; i + 1 < N_NAMES; i++)
        EXPECT_BAD(it.name = names[i]);
    EXPECT_BAD(it.name = "a_name_of_16_aaa");
    kvq_codec_plugin good = turned;
    good.name = names[N_NAMES - 1];
    cr_assert_eq(strlen(good.name), 15);
    cr_assert_eq(kvq_codec_plugin_register(&good), KVQ_OK);
    EXPECT_BAD(it.name = names[N_NAMES - 1]);
}

/* What a program compiled later brings, as far as it says no more than this library understands. */
Test(plugin, a_struct_may_grow)
{
    struct {
        kvq_codec_plugin it;
        uint64_t behind[2];
    } larger = {.it = turned};
    larger.it.struct_size = sizeof larger;
    cr_assert_eq(kvq_codec_plugin_register(&larger.it), KVQ_OK);
    kvq_codec_plugin smaller = turned;
    smaller.name = "smaller";
    smaller.struct_size = offsetof(kvq_codec_plugin, uses_evidence) + sizeof smaller.uses_evidence;
    cr_assert_eq(kvq_codec_plugin_register(&smaller), KVQ_OK);
}

Test(plugin, there_is_room_for_32)
{
    static char names[100][8];
    kvq_codec_plugin p = turned;
    size_t n = 0;
    kvq_status status = KVQ_OK;
    for (; n < 100 && status == KVQ_OK; n++) {
        (void)snprintf(names[n], sizeof names[n], "x%zu", n);
        p.name = names[n];
        status = kvq_codec_plugin_register(&p);
    }
    cr_assert_eq(status, KVQ_ERR_NOMEM);
    cr_assert_gt(n, 32);
    p.name = "x0";
    cr_assert_eq(kvq_codec_plugin_register(&p), KVQ_ERR_ARG, "taken, room or not");
    kvq_scheme *scheme;
    cr_assert_eq(kvq_scheme_create(&scheme, "k=x31,v=x0:coarse", NULL), KVQ_OK);
    kvq_scheme_free(scheme);
}

static kvq_scheme *expect_scheme(const char *text, const char *canonical)
{
    kvq_scheme *scheme = NULL;
    kvq_error err;
    cr_assert_eq(kvq_scheme_create(&scheme, text, &err), KVQ_OK, "%s: %s", text, err.message);
    cr_assert_str_eq(kvq_scheme_text(scheme), canonical);
    return scheme;
}

static void expect_error(const char *text, size_t offset, const char *message)
{
    kvq_scheme *scheme = NULL;
    kvq_error err;
    cr_assert_eq(kvq_scheme_create(&scheme, text, &err), KVQ_ERR_SCHEME, "%s", text);
    cr_assert(err.offset == offset && strstr(err.message, message), "%s: %s at %d", text, err.message,
              (int)err.offset);
}

Test(plugin, schemes_name_it_and_tell_of_it)
{
    expect_error("k=turned,v=2", 2, "a codec is expected here");
    register_both();
    kvq_scheme_free(expect_scheme("v=turned:fine,k=turned", "k=turned,v=turned:fine"));
    kvq_scheme_free(expect_scheme("k=turned:,v=turned:coarse,r=256", "k=turned,v=turned:coarse,r=256"));
    kvq_scheme_free(expect_scheme("kvq2,v=turned", "k=tier:2,v=turned,mode=sliding,rtype=f16/i8,s=4,hh=2"));
    expect_error("k=turned:rough,v=2", 0, "does not take these parameters");
    expect_error("k=turned@fine,v=2", 8, "comma");
    expect_error("k=turned/32,v=2", 8, "comma");
    expect_error("k=turned:0123456789012345678901234567890123456789,v=2", 9, "at most 39 characters");
    expect_error("k=turned,v=turned,r=64", 20, "a multiple of 128");
    kvq_scheme *scheme = expect_scheme("k=turned,v=told", "k=turned,v=told");
    kvq_side_info k, v;
    cr_assert_eq(kvq_scheme_keys(scheme, &k), KVQ_OK);
    cr_assert_eq(kvq_scheme_values(scheme, &v), KVQ_OK);
    cr_assert(strcmp(k.codec, "turned") == 0 && !k.uses_evidence && k.bits == 0 && k.group == 0);
    cr_assert(strcmp(v.codec, "told") == 0 && v.uses_evidence);
    /* keys: a byte a number, 4 a token. values: 192 floats in 128 tokens of 64 numbers. */
    cr_assert_float_eq(kvq_scheme_bits_per_element(scheme, 64), (8 + 32.0 / 64 + 192 * 32.0 / (128 * 64)) / 2,
                       1e-12);
    cr_assert_eq(kvq_scheme_bits_per_element(scheme, 256), 0, "it says that it takes no such D");
    kvq_scheme_free(scheme);
}

/* ---- In a cache ---- */

static float random_number(uint64_t *state)
{
    float sum = 0; /* normal enough */
    for (int i = 0; i < 6; i++) {
        *state = *state * UINT64_C(6364136223846793005) + UINT64_C(1442695040888963407);
        sum += (float)(*state >> 40) * 0x1p-24f - 0.5f;
    }
    return 1.4f * sum;
}

typedef struct tokens {
    float k[500 * ROW], v[500 * ROW], q[500 * Q_ROW];
} tokens;

static void make_tokens(tokens *t)
{
    uint64_t state = 20240205;
    for (size_t i = 0; i < 500 * ROW; i++) {
        t->k[i] = random_number(&state) + (i % 3 == 0 ? 2.0f : 0.0f);
        t->v[i] = random_number(&state) * (i % 97 == 0 ? 20.0f : 1.0f);
    }
    for (size_t i = 0; i < 500 * Q_ROW; i++)
        t->q[i] = random_number(&state);
}

static kvq_cache *make_cache(const char *scheme)
{
    kvq_config config;
    kvq_cache *cache = NULL;
    kvq_config_init(&config);
    config.n_layers = 1, config.n_heads = HEADS, config.n_kv_heads = KV_HEADS, config.head_dim = D;
    config.scheme_text = scheme;
    cr_assert_eq(kvq_cache_create(&cache, &config), KVQ_OK, "%s", scheme);
    return cache;
}

/* Attention of one head in double. */
static void attention(const float *k, const float *v, size_t n, size_t kv, const float *q, double *out)
{
    double weight[500], max = -INFINITY, sum = 0;
    for (size_t t = 0; t < n; t++) {
        weight[t] = 0;
        for (size_t c = 0; c < D; c++)
            weight[t] += 0.3 * (double)q[c] * (double)k[t * ROW + kv * D + c];
        max = fmax(max, weight[t]);
    }
    memset(out, 0, D * sizeof *out);
    for (size_t t = 0; t < n; t++) {
        sum += weight[t] = exp(weight[t] - max);
        for (size_t c = 0; c < D; c++)
            out[c] += weight[t] * (double)v[t * ROW + kv * D + c];
    }
    for (size_t c = 0; c < D; c++)
        out[c] /= sum;
}

/* Is the cache's attention that over what it reads back, within what floats round (values up to 60, 500 of
 * them, scores up to 30: 1e-4 each way)? And within its bound of attention over what was stored? */
static void check_attention(const char *what, const kvq_cache *cache, const tokens *given, bool has_bound)
{
    static float k[500 * ROW], v[500 * ROW], k_bound[500 * ROW], v_bound[500 * ROW];
    const size_t n = kvq_cache_n_tokens(cache, 0, 0);
    float out[2][Q_ROW], bound[HEADS];
    size_t n_packed[2];
    kvq_attend_options options;
    kvq_attend_options_init(&options);
    cr_assert_eq(kvq_cache_read(cache, 0, 0, 0, n, k, v), KVQ_OK);
    cr_assert_eq(kvq_cache_read_bound(cache, 0, 0, 0, n, k_bound, v_bound), KVQ_OK);
    cr_assert_eq(kvq_cache_n_packed(cache, 0, 0, &n_packed[0], &n_packed[1]), KVQ_OK);
    cr_assert(n_packed[0] >= 256 && n_packed[1] >= 256, "%s packs too little", what);
    cr_assert_eq(kvq_cache_attend(cache, 0, NULL, 1, given->q, 1, 0.3f, NULL, out[0]), KVQ_OK);
    options.bound = bound;
    cr_assert_eq(kvq_cache_attend(cache, 0, NULL, 1, given->q, 1, 0.3f, &options, out[1]), KVQ_OK);
    for (size_t h = 0; h < HEADS; h++) {
        double wanted[D], exact[D];
        attention(k, v, n, h / 2, given->q + h * D, wanted);
        attention(given->k, given->v, n, h / 2, given->q + h * D, exact);
        cr_assert_eq(isfinite(bound[h]), has_bound, "%s: bound %g", what, (double)bound[h]);
        for (size_t c = 0; c < D; c++) {
            cr_assert_float_eq(out[0][h * D + c], wanted[c], 3e-4, "%s: head %zu, channel %zu", what, h, c);
            cr_assert_float_eq(out[1][h * D + c], wanted[c], 3e-4, "%s: head %zu, channel %zu", what, h, c);
            cr_assert(!has_bound || fabs((double)out[1][h * D + c] - exact[c]) <= (double)bound[h], "%s",
                      what);
        }
    }
    for (size_t i = 0; i < n * ROW; i++) {
        cr_assert_eq(isfinite(k_bound[i]), has_bound || i >= n_packed[0] * ROW, "%s: key %zu", what, i);
        if (has_bound)
            cr_assert(fabsf(k[i] - given->k[i]) <= k_bound[i] && fabsf(v[i] - given->v[i]) <= v_bound[i],
                      "%s: number %zu", what, i);
    }
}

/* In memory, for save and load. */
typedef struct memory_file {
    char data[1 << 18];
    size_t n, at;
} memory_file;

static bool write_memory(void *ctx, const void *data, size_t n)
{
    memory_file *file = ctx;
    if (n > sizeof file->data - file->n)
        return false;
    memcpy(file->data + file->n, data, n);
    file->n += n;
    return true;
}

static size_t read_memory(void *ctx, void *data, size_t n)
{
    memory_file *file = ctx;
    n = n < file->n - file->at ? n : file->n - file->at;
    memcpy(data, file->data + file->at, n);
    file->at += n;
    return n;
}

Test(plugin, attention_runs_over_it_and_it_is_saved)
{
    static const struct {
        const char *scheme;
        bool has_bound;
    } cases[] = {{"k=turned,v=turned", true},
                 {"k=turned:coarse,v=turned,r=128,mode=sliding", true},
                 {"k=turned,v=4,r=0,mode=sliding", true},
                 {"k=2,v=turned:coarse", true},
                 {"k=unbound,v=unbound:coarse,r=0,mode=sliding", false}};
    static tokens t;
    static memory_file file, again;
    register_both();
    kvq_codec_plugin unbound = turned;
    unbound.name = "unbound";
    unbound.bound = NULL;
    cr_assert_eq(kvq_codec_plugin_register(&unbound), KVQ_OK);
    make_tokens(&t);
    for (size_t i = 0; i < sizeof cases / sizeof cases[0]; i++) {
        const char *scheme = cases[i].scheme;
        kvq_cache *cache = make_cache(scheme), *loaded = NULL;
        float out[2][Q_ROW];
        kvq_error err;
        cr_assert_eq(kvq_cache_append(cache, 0, 0, t.k, t.v, 100), KVQ_OK);
        cr_assert_eq(kvq_cache_append(cache, 0, 0, t.k + 100 * ROW, t.v + 100 * ROW, 350), KVQ_OK);
        check_attention(scheme, cache, &t, cases[i].has_bound);
        file.n = file.at = again.n = 0;
        cr_assert_eq(kvq_cache_save(cache, NULL, 1, write_memory, &file), KVQ_OK);
        cr_assert_eq(kvq_cache_load(&loaded, NULL, read_memory, &file, &err), KVQ_OK, "%s: %s", scheme,
                     err.message);
        cr_assert_eq(kvq_cache_save(loaded, NULL, 1, write_memory, &again), KVQ_OK);
        cr_assert(again.n == file.n && memcmp(again.data, file.data, file.n) == 0);
        for (size_t j = 400; j < 404; j++) { /* and goes on like the original */
            cr_assert_eq(kvq_cache_attend(cache, 0, NULL, 1, t.q + j * Q_ROW, 1, 0.3f, NULL, out[0]), KVQ_OK);
            cr_assert_eq(kvq_cache_attend(loaded, 0, NULL, 1, t.q + j * Q_ROW, 1, 0.3f, NULL, out[1]),
                         KVQ_OK);
            cr_assert(memcmp(out[0], out[1], sizeof out[0]) == 0, "%s", scheme);
        }
        check_attention(scheme, loaded, &t, cases[i].has_bound);
        cr_assert_eq(kvq_cache_truncate(loaded, 0, 300), KVQ_OK);
        cr_assert_eq(kvq_cache_verify(loaded, NULL), KVQ_OK);
        kvq_cache_free(cache), kvq_cache_free(loaded);
    }
}

/* Saved by a process that has the codec, loaded by one that has not, and then has. */
Test(plugin, a_saved_cache_needs_its_codec)
{
    static tokens t;
    memory_file *file = mmap(NULL, sizeof *file, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
    kvq_cache *cache;
    kvq_error err;
    int status;
    cr_assert(file != MAP_FAILED);
    pid_t child = fork();
    if (child == 0) {
        register_both();
        make_tokens(&t);
        cache = make_cache("k=turned,v=turned");
        bool good = kvq_cache_append(cache, 0, 0, t.k, t.v, 300) == KVQ_OK &&
                    kvq_cache_save(cache, NULL, 1, write_memory, file) == KVQ_OK;
        _exit(good ? 0 : 1);
    }
    cr_assert(child > 0 && waitpid(child, &status, 0) == child && status == 0);
    cr_assert_eq(kvq_cache_load(&cache, NULL, read_memory, file, &err), KVQ_ERR_SCHEME, "%s", err.message);
    register_both();
    file->at = 0;
    cr_assert_eq(kvq_cache_load(&cache, NULL, read_memory, file, &err), KVQ_OK, "%s", err.message);
    cr_assert_eq(kvq_cache_n_tokens(cache, 0, 0), 300);
    kvq_cache_free(cache);
}

Test(plugin, evidence_comes_if_asked_for)
{
    static tokens t;
    static float k[500 * ROW], v[500 * ROW], out[500 * Q_ROW];
    register_both();
    make_tokens(&t);
    for (int with = 0; with < 2; with++) {
        kvq_cache *cache = make_cache("k=told,v=told");
        const size_t n_first = 200, n_more = 200;
        kvq_usage usage;
        double energy[KV_HEADS][D] = {{0}}, received = 0;
        if (with)
            cr_assert_eq(kvq_cache_step(cache, 0, NULL, 1, &n_first, t.q, t.k, t.v, 0.3f, NULL, out), KVQ_OK);
        else
            cr_assert_eq(kvq_cache_append(cache, 0, 0, t.k, t.v, n_first), KVQ_OK);
        cr_assert_eq(kvq_cache_append(cache, 0, 0, t.k + n_first * ROW, t.v + n_first * ROW, n_more), KVQ_OK);
        cr_assert_eq(kvq_cache_usage(cache, &usage), KVQ_OK);
        cr_assert(!with || usage.evidence > 0);
        cr_assert_eq(kvq_cache_read(cache, 0, 0, 0, n_first + n_more, k, v), KVQ_OK);
        for (size_t i = 0; i < n_first * Q_ROW; i++)
            energy[i / D % HEADS / 2][i % D] += (double)t.q[i] * (double)t.q[i];
        for (size_t kv = 0; kv < KV_HEADS; kv++)
            for (size_t c = 1; c < D; c++) {
                double wanted = with ? energy[kv][c] : -1;
                cr_assert_float_eq(k[kv * D + c], wanted, 1e-4 * fabs(wanted), "%g, expected %g",
                                   (double)k[kv * D + c], wanted);
                cr_assert_eq(v[kv * D + c], k[kv * D + c]);
            }
        for (size_t i = 0; i < T; i++) {
            cr_assert(with ? k[i * ROW] > 0 : k[i * ROW] == -1, "token %zu: %g", i, (double)k[i * ROW]);
            received += (double)k[i * ROW];
        }
        /* 200 queries of two heads share 400 out; the first 128 of 200 tokens get most of it. */
        cr_assert(!with || (received > 200 && received < 400), "%g", received);
        kvq_cache_free(cache);
    }
}
