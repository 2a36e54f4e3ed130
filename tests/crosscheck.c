/*
 * Checks every instruction set that runs here without Criterion: for emulators of other processors, where
 * there is no more than a C library. Every kernel keeps its contract (check_*.c), and caches behave the same
 * on every instruction set.
 *
 *   crosscheck               check
 *   crosscheck --best NAME   check, and that NAME is what the library chooses
 *   ... --best-only          check the kernels of NAME alone; caches are held against portable all the same
 *   ... --readable-ends      for emulators that read all that a masked load could touch, as qemu 7.2 does
 *                            with AVX
 *   crosscheck --list        the names of the instruction sets that run here, from the plainest up
 *
 * Ends with 0 if all is well.
 */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "tests/kernel_checks.h"
#include "tests/script.h"

/* ---- Kernels ---- */

#define COUNT(slot) +1
enum { N_KERNELS = 0 KVQ_KERNEL_LIST(COUNT) };
#undef COUNT

static void check_kernels(const kvq_kernels *k)
{
    r = rng_make(999);
    check_words(k->isa);
#define CHECK(slot)                                                                                          \
    r = rng_make(1000);                                                                                      \
    check_##slot(k);
    KVQ_KERNEL_LIST(CHECK)
#undef CHECK
}

/* ---- Caches ---- */

static const struct {
    const char *text;
    bool folds; /* both sides do; otherwise the two precisions are one */
} schemes[] = {
    {"kivi2", true},
    {"kivi4-g64,r=64,s=3", true},
    {"kivi8,r=32,mode=sliding", true},
    {"k=1@channel/128,v=3@token/16,r=128", true},
    {"k=6@channel/32,v=5@token/full,r=32,rtype=f16", true},
    {"kvq1.5", true},
    {"kvq2", true},
    {"kvq2-fb", true},
    {"kvq3", true},
    {"kvq4,r=0", true},
    {"kivi2-g16,r=32", false}, /* groups too short to fold keys */
    {"k=2@token/32,v=2@channel/32,r=32", false},
    {"kivi3,r=32,arith=kivi-f16", false},
    {"fp16", false},
};
static const size_t dims[] = {128, 72};

enum { N_SCHEMES = sizeof schemes / sizeof schemes[0], HEADS = 6, KV_HEADS = 2, TOKENS = 400, QUERIES = 3 };

/* How the tokens come: appended, or stepped with their queries, which are evidence for some schemes. With it
 * pages are packed, by the appends as by the last step, which attends over such pages, too. */
static const struct {
    size_t n;
    bool steps;
} pieces[] = {{1, false}, {40, true}, {90, false}, {45, true}, {184, false}, {40, true}};

enum { STEPPED = 40 + 45 + 40 };

static float k_rows[TOKENS * KV_HEADS * 128], v_rows[TOKENS * KV_HEADS * 128], queries[TOKENS * HEADS * 128];

static void expect(kvq_status status, kvq_status wanted, const char *what)
{
    cr_assert(status == wanted, "%s: %s, not %s", what, kvq_status_string(status), kvq_status_string(wanted));
}

static kvq_status make_cache(kvq_cache **cache, const char *scheme, size_t dim, const char *isa)
{
    kvq_config config;
    kvq_config_init(&config);
    config.n_layers = 1;
    config.n_heads = HEADS;
    config.n_kv_heads = KV_HEADS;
    config.head_dim = dim;
    config.scheme_text = scheme;
    config.isa = isa;
    return kvq_cache_create(cache, &config);
}

/* What a cache of one instruction set does with the rows and queries. */
typedef struct outcome {
    buffer saved;
    float k[TOKENS * KV_HEADS * 128], v[TOKENS * KV_HEADS * 128];    /* read back */
    float stepped[STEPPED * HEADS * 128];                            /* what steps gave */
    float fast[QUERIES * HEADS * 128], exact[QUERIES * HEADS * 128]; /* of the last tokens */
} outcome;

static void attend(const kvq_cache *cache, size_t dim, kvq_precision precision, float *out)
{
    kvq_attend_options options;
    kvq_attend_options_init(&options);
    options.precision = precision;
    const float *last = queries + (TOKENS - QUERIES) * HEADS * dim;
    float scale = 1 / sqrtf((float)dim);
    expect(kvq_cache_attend(cache, 0, NULL, 1, last, QUERIES, scale, &options, out), KVQ_OK, "attend");
}

static void fill_cache(kvq_cache *cache, size_t dim, float *stepped)
{
    size_t row = KV_HEADS * dim, q_row = HEADS * dim, at = 0;
    float scale = 1 / sqrtf((float)dim);
    for (size_t i = 0; i < sizeof pieces / sizeof pieces[0]; at += pieces[i++].n) {
        const size_t n = pieces[i].n;
        const float *q = queries + at * q_row, *k = k_rows + at * row, *v = v_rows + at * row;
        if (!pieces[i].steps) {
            expect(kvq_cache_append(cache, 0, 0, k, v, n), KVQ_OK, "append");
            continue;
        }
        expect(kvq_cache_step(cache, 0, NULL, 1, &n, q, k, v, scale, NULL, stepped), KVQ_OK, "step");
        stepped += n * q_row;
    }
    cr_assert(at == TOKENS, "pieces of %zu tokens", at);
}

static void run_cache(const char *scheme, size_t dim, const char *isa, outcome *o)
{
    kvq_cache *cache;
    kvq_usage usage;
    expect(make_cache(&cache, scheme, dim, isa), KVQ_OK, isa);
    cr_assert(strcmp(kvq_cache_isa(cache), isa) == 0);
    fill_cache(cache, dim, o->stepped);
    expect(kvq_cache_usage(cache, &usage), KVQ_OK, "usage");
    cr_assert((usage.evidence > 0) == uses_evidence(scheme), "%s: evidence", scheme);
    o->saved = saved(cache);
    expect(kvq_cache_read(cache, 0, 0, 0, TOKENS, o->k, o->v), KVQ_OK, "read");
    attend(cache, dim, KVQ_PRECISION_FAST, o->fast);
    attend(cache, dim, KVQ_PRECISION_EXACT, o->exact);
    kvq_cache_free(cache);
}

static bool same_rows(const char *what, const float *got, const float *wanted, size_t n, size_t dim)
{
    size_t at = 0;
    while (at < n && same_bits(what, got + at, wanted + at, dim * sizeof *got))
        at += dim;
    if (at < n)
        fprintf(stderr, "%s: row %zu of %zu\n", what, at / dim, n / dim);
    return at >= n;
}

/* Each instruction set against portable: the same bits in all it stores and answers. */
static void check_caches(size_t scheme, size_t dim)
{
    static outcome spec, got;
    const char *text = schemes[scheme].text, *isa;
    rng generator = rng_make(scheme);
    size_t n_bytes = TOKENS * KV_HEADS * dim * sizeof(float), n_out = QUERIES * HEADS * dim,
           n_stepped = STEPPED * HEADS * dim;
    fill(&generator, FILL_NORMAL, k_rows, TOKENS, KV_HEADS * dim);
    fill(&generator, FILL_NORMAL, v_rows, TOKENS, KV_HEADS * dim);
    fill(&generator, FILL_NORMAL, queries, TOKENS, HEADS * dim);
    run_cache(text, dim, "portable", &spec);
    double off = rel_l2(spec.fast, spec.exact, n_out);
    cr_assert(schemes[scheme].folds ? off > 0 && off < 1e-3 : off == 0, "%s: fast is %g off exact", text,
              off);
    for (size_t i = 1; (isa = kvq_isa_name(i)) != NULL; i++) {
        run_cache(text, dim, isa, &got);
        cr_assert(got.saved.n == spec.saved.n &&
                      same_bits("saved", got.saved.data, spec.saved.data, spec.saved.n) &&
                      same_bits("k", got.k, spec.k, n_bytes) && same_bits("v", got.v, spec.v, n_bytes),
                  "%s, D = %zu, %s", text, dim, isa);
        cr_assert(same_rows("step", got.stepped, spec.stepped, n_stepped, dim) &&
                      same_rows("fast", got.fast, spec.fast, n_out, dim) &&
                      same_rows("exact", got.exact, spec.exact, n_out, dim),
                  "%s, D = %zu, %s", text, dim, isa);
        buffer_free(&got.saved);
    }
    buffer_free(&spec.saved);
}

/* Instruction sets that do not run here are refused. */
static void check_refusals(void)
{
    static const char *const names[] = {"avx2", "avxvnni", "avx512", "neon"};
    for (size_t i = 0; i < sizeof names / sizeof names[0]; i++) {
        kvq_cache *cache = NULL;
        bool runs = kvq_kernels_for_isa(names[i]) != NULL;
        expect(make_cache(&cache, "kivi2", 64, names[i]), runs ? KVQ_OK : KVQ_ERR_ISA, names[i]);
        kvq_cache_free(cache);
    }
}

int main(int argc, char **argv)
{
    const char *isa, *wanted = NULL;
    bool list = false, readable_ends = false, best_only = false;
    for (int i = 1; i < argc; i++)
        if (strcmp(argv[i], "--list") == 0)
            list = true;
        else if (strcmp(argv[i], "--readable-ends") == 0)
            readable_ends = true;
        else if (strcmp(argv[i], "--best-only") == 0)
            best_only = true;
        else if (strcmp(argv[i], "--best") == 0 && i + 1 < argc)
            wanted = argv[++i];
        else
            cr_assert(false, "usage: crosscheck [--list | [--best NAME] [--best-only] [--readable-ends]]");
    if (list) {
        for (size_t i = 0; (isa = kvq_isa_name(i)) != NULL; i++)
            printf("%s\n", isa);
        return 0;
    }
    cr_assert(kvq_isa() != NULL, "KVQ_ISA names an instruction set that does not run here");
    cr_assert(wanted == NULL || strcmp(kvq_isa(), wanted) == 0, "the library chose %s", kvq_isa());
    kernel_buffers_make(readable_ends);
    for (size_t i = 0; (isa = kvq_isa_name(i)) != NULL; i++) {
        if (best_only && strcmp(isa, kvq_isa()) != 0)
            continue;
        check_kernels(kvq_kernels_at(i));
        printf("%s: its words and %d kernels keep their contracts\n", isa, N_KERNELS);
    }
    for (size_t i = 0; i < N_SCHEMES; i++)
        for (size_t j = 0; j < sizeof dims / sizeof dims[0]; j++)
            check_caches(i, dims[j]);
    check_refusals();
    printf("%d schemes: the same caches on every instruction set; chosen: %s\n", N_SCHEMES, kvq_isa());
    return 0;
}
