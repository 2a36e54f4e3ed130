/*
 * A program as an engine might have compiled it against some version of kvq.h: KVQ_HEADER names the file. It
 * goes through every public struct that carries its size. Each lies between guards, and at the very end of
 * its own block of memory, so that a library that writes more than this program's idea of it is caught, by
 * the guards or by the address sanitizer. Built with the frozen header and with a grown one, run with the
 * library as it is and with a grown one.
 */
#include KVQ_HEADER

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

static int n_failures;

static void expect(bool holds, const char *what, int line)
{
    if (holds)
        return;
    fprintf(stderr, "%s: line %d: %s\n", KVQ_HEADER, line, what);
    n_failures++;
}

#define EXPECT(condition) expect(condition, #condition, __LINE__)

/* ---- Structs between guards ---- */

enum { GUARD = 64 };

static void *guarded(size_t size)
{
    uint8_t *block = malloc(GUARD + size);
    if (block == NULL)
        exit(1);
    memset(block, 0xa5, GUARD + size);
    return block + GUARD;
}

static void release(void *at)
{
    uint8_t *block = (uint8_t *)at - GUARD;
    for (size_t i = 0; i < GUARD; i++)
        EXPECT(block[i] == 0xa5);
    free(block);
}

/* The same with a guard behind, for builds without a sanitizer. */
#define BEHIND(type)                                                                                         \
    struct {                                                                                                 \
        type it;                                                                                             \
        uint8_t guard[GUARD];                                                                                \
    }
#define EXPECT_GUARD(s)                                                                                      \
    for (size_t i_ = 0; i_ < GUARD; i_++)                                                                    \
    EXPECT((s).guard[i_] == 0xa5)

/* ---- The engine ---- */

enum { LAYERS = 2, HEADS = 4, KV_HEADS = 2, DIM = 32, TOKENS = 300 };

static kvq_config *make_config(void)
{
    kvq_config *config = guarded(sizeof *config);
    kvq_config_init(config);
    EXPECT(config->struct_size == sizeof *config);
    EXPECT(config->n_layers == 0 && config->n_sequences == 1 && config->max_tokens == KVQ_MAX_TOKENS);
    config->n_layers = LAYERS;
    config->n_heads = HEADS;
    config->n_kv_heads = KV_HEADS;
    config->head_dim = DIM;
    config->scheme_text = "kivi2,r=32";
    return config;
}

static float number(size_t i)
{
    return (float)(i * 2654435761u % 1024) / 256 - 2;
}

typedef struct file {
    uint8_t data[200000];
    size_t n, at;
} file;

static bool file_write(void *ctx, const void *data, size_t n)
{
    file *f = ctx;
    if (n > sizeof f->data - f->n)
        return false;
    memcpy(f->data + f->n, data, n);
    f->n += n;
    return true;
}

static size_t file_read(void *ctx, void *data, size_t n)
{
    file *f = ctx;
    n = n < f->n - f->at ? n : f->n - f->at;
    memcpy(data, f->data + f->at, n);
    f->at += n;
    return n;
}

static void fill_cache(kvq_cache *cache)
{
    static float k[TOKENS * KV_HEADS * DIM], v[TOKENS * KV_HEADS * DIM];
    for (size_t i = 0; i < sizeof k / sizeof k[0]; i++)
        k[i] = number(i), v[i] = number(i + 7777);
    for (size_t layer = 0; layer < LAYERS; layer++)
        EXPECT(kvq_cache_append(cache, layer, 0, k, v, TOKENS) == KVQ_OK);
}

static void check_config(const kvq_cache *cache)
{
    BEHIND(kvq_config) got;
    memset(&got, 0xa5, sizeof got);
    kvq_cache_get_config(cache, &got.it);
    EXPECT(got.it.struct_size == sizeof got.it);
    EXPECT(got.it.n_layers == LAYERS && got.it.head_dim == DIM);
    EXPECT(strcmp(kvq_scheme_text(got.it.layer_schemes[1]), "kivi2,r=32") == 0);
    kvq_cache *alike = NULL;
    EXPECT(kvq_cache_create(&alike, &got.it) == KVQ_OK);
    kvq_cache_free(alike);
    EXPECT_GUARD(got);
}

static void check_usage(const kvq_cache *cache)
{
    kvq_usage *usage = guarded(sizeof *usage);
    EXPECT(kvq_cache_usage(cache, usage) == KVQ_OK);
    EXPECT(usage->struct_size > 0 && usage->struct_size <= sizeof *usage);
    EXPECT(usage->payload + usage->metadata + usage->residual + usage->sinks + usage->slack +
               usage->bookkeeping ==
           usage->total);
    EXPECT(usage->n_elements == 2ull * LAYERS * TOKENS * KV_HEADS * DIM && usage->n_packed_elements > 0);
    release(usage);
    BEHIND(kvq_usage) got;
    memset(&got, 0xa5, sizeof got);
    EXPECT(kvq_cache_usage(cache, &got.it) == KVQ_OK);
    EXPECT_GUARD(got);
}

static void check_attend(const kvq_cache *cache)
{
    kvq_attend_options *options = guarded(sizeof *options);
    kvq_attend_counters *counters = guarded(sizeof *counters);
    float q[HEADS * DIM], out[HEADS * DIM], exact[HEADS * DIM], bound[HEADS];
    for (size_t i = 0; i < HEADS * DIM; i++)
        q[i] = number(i + 31);
    kvq_attend_options_init(options);
    kvq_attend_counters_init(counters);
    EXPECT(options->struct_size == sizeof *options && counters->struct_size == sizeof *counters);
    options->counters = counters;
    EXPECT(kvq_cache_attend(cache, 0, NULL, 1, q, 1, 0.2f, options, out) == KVQ_OK);
    EXPECT(counters->heads == HEADS && counters->superblocks >= HEADS);
    options->precision = KVQ_PRECISION_EXACT;
    options->bound = bound;
    EXPECT(kvq_cache_attend(cache, 0, NULL, 1, q, 1, 0.2f, options, exact) == KVQ_OK);
    EXPECT(counters->heads == 2 * HEADS && counters->struct_size == sizeof *counters);
    for (size_t i = 0; i < HEADS * DIM; i++)
        EXPECT(out[i] - exact[i] < 1e-2f && exact[i] - out[i] < 1e-2f);
    options->struct_size = 3;
    EXPECT(kvq_cache_attend(cache, 0, NULL, 1, q, 1, 0.2f, options, out) == KVQ_ERR_ARG);
    release(options);
    release(counters);
}

static void check_scheme(void)
{
    kvq_scheme *scheme = NULL;
    BEHIND(kvq_side_info) k;
    memset(&k, 0xa5, sizeof k);
    EXPECT(kvq_scheme_create(&scheme, "kivi4-g64,s=4", NULL) == KVQ_OK);
    EXPECT(kvq_scheme_keys(scheme, &k.it) == KVQ_OK);
    EXPECT(strcmp(k.it.codec, "affine") == 0 && k.it.bits == 4 && k.it.group == 64);
    EXPECT_GUARD(k);
    kvq_side_info *v = guarded(sizeof *v);
    EXPECT(kvq_scheme_values(scheme, v) == KVQ_OK && v->axis == KVQ_AXIS_TOKEN);
    EXPECT(v->struct_size > 0 && v->struct_size <= sizeof *v);
    release(v);
    EXPECT(kvq_scheme_sinks(scheme) == 4);
    kvq_scheme_free(scheme);
}

static void check_load(const kvq_cache *cache)
{
    static file f;
    kvq_cache *loaded = NULL;
    kvq_load_options *options = guarded(sizeof *options);
    EXPECT(kvq_cache_save(cache, NULL, 1, file_write, &f) == KVQ_OK);
    kvq_load_options_init(options);
    EXPECT(options->struct_size == sizeof *options);
    options->isa = "portable";
    EXPECT(kvq_cache_load(&loaded, options, file_read, &f, NULL) == KVQ_OK);
    EXPECT(strcmp(kvq_cache_isa(loaded), "portable") == 0 && kvq_cache_n_tokens(loaded, 1, 0) == TOKENS);
    kvq_cache_free(loaded);
    release(options);
}

static void check_kivi(const kvq_cache *cache)
{
    kvq_kivi *kivi = guarded(sizeof *kivi);
    kvq_kivi_init(kivi);
    EXPECT(kivi->struct_size == sizeof *kivi);
    EXPECT(kvq_cache_export_kivi(cache, 0, 0, kivi) == KVQ_OK);
    EXPECT(kivi->n_tokens == TOKENS && kivi->n_k_packed == 288);
    release(kivi);
}

#ifdef KVQ_TEST_GROWN
/* What a library does not know must be zero; only the grown library knows the field, and then it may be
 * anything. */
static void check_unknown_field(bool library_is_grown)
{
    kvq_status wanted = library_is_grown ? KVQ_OK : KVQ_ERR_ARG;
    kvq_config *config = make_config();
    kvq_cache *cache = NULL;
    float x[HEADS * DIM] = {1}, out[HEADS * DIM];
    config->test_only_field = 1;
    EXPECT(kvq_cache_create(&cache, config) == wanted);
    kvq_cache_free(cache);
    config->test_only_field = 0;
    EXPECT(kvq_cache_create(&cache, config) == KVQ_OK);
    release(config);
    EXPECT(kvq_cache_append(cache, 0, 0, x, x, 1) == KVQ_OK);
    kvq_attend_options options;
    kvq_attend_options_init(&options);
    options.test_only_field = 1;
    EXPECT(kvq_cache_attend(cache, 0, NULL, 1, x, 1, 1, &options, out) == wanted);
    kvq_load_options load;
    kvq_load_options_init(&load);
    load.test_only_field = 1;
    static file f;
    kvq_cache *loaded = NULL;
    EXPECT(kvq_cache_save(cache, NULL, 1, file_write, &f) == KVQ_OK);
    EXPECT(kvq_cache_load(&loaded, &load, file_read, &f, NULL) == wanted);
    kvq_cache_free(loaded);
    kvq_kivi kivi;
    kvq_kivi_init(&kivi);
    kivi.test_only_field = 1;
    EXPECT(kvq_cache_export_kivi(cache, 1, 0, &kivi) == wanted);
    kvq_attend_counters counters;
    kvq_attend_counters_init(&counters);
    counters.test_only_field = 1;
    options.test_only_field = 0;
    options.counters = &counters;
    EXPECT(kvq_cache_attend(cache, 0, NULL, 1, x, 1, 1, &options, out) == wanted);
    kvq_usage usage; /* handed out: what was filled is told, the rest is zero */
    EXPECT(kvq_cache_usage(cache, &usage) == KVQ_OK && usage.test_only_field == 0);
    EXPECT(usage.struct_size == sizeof usage - (library_is_grown ? 0 : sizeof usage.test_only_field));
    kvq_cache_free(cache);
}
#endif

int main(int argc, char **argv)
{
    bool library_is_grown = argc > 1 && strcmp(argv[1], "grown") == 0;
    kvq_config *config = make_config();
    kvq_cache *cache = NULL;
    EXPECT(kvq_cache_create(&cache, config) == KVQ_OK);
    release(config);
    if (cache == NULL)
        return 1;
    fill_cache(cache);
    check_config(cache);
    check_usage(cache);
    check_attend(cache);
    check_scheme();
    check_load(cache);
    check_kivi(cache);
#ifdef KVQ_TEST_GROWN
    check_unknown_field(library_is_grown);
#endif
    kvq_cache_free(cache);
    (void)library_is_grown;
    return n_failures > 0;
}
