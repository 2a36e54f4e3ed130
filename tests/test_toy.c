/*
 * A codec from outside (toy_codec.c): what the registry and the defaults of quant/codec.h do for it, and what
 * the cache does for codecs that ask for evidence. That it streams, saves, attends and steps like all others
 * is in those suites, whose list of schemes it is on.
 */
#include <criterion/criterion.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "lib/snapshot.h"
#include "tests/script.h"
#include "tests/toy_codec.h"

enum { T = KVQ_SUPERBLOCK, D = 12, KV_HEADS = 2, HEADS = 4, MAX_TOKENS = 800, TRIANGLE = D * (D + 1) / 2 };

static const shape small = {1, HEADS, KV_HEADS, D, 2};

/* ---- The registry, texts, defaults ---- */

Test(toy, registry_takes_a_name_once)
{
    toy_codec_register();
    kvq_codec codec = {.name = "toy"};
    const char *rest = NULL;
    cr_assert_eq(kvq_codec_register(&codec), KVQ_BAD_NAME, "taken");
    static const char *const names[] = {"f32", "affine", "",    "9x",  "_x",
                                        "a b", "a,b",    "a-b", "a:b", "a_name_that_has_too_many_letters"};
    for (size_t i = 0; i < sizeof names / sizeof names[0]; i++) {
        codec.name = names[i];
        cr_assert_eq(kvq_codec_register(&codec), KVQ_BAD_NAME, "%s", names[i]);
    }
    size_t n = 0, n_toys = 0;
    for (; kvq_codec_at(n) != NULL; n++)
        n_toys += strcmp(kvq_codec_at(n)->name, "toy") == 0;
    cr_assert_eq(n_toys, 1);
    cr_assert_null(kvq_codec_at(n + 1));
    cr_assert_eq(kvq_codec_for_text("toy:4,v=2", &rest), kvq_codec_at(n - 1));
    cr_assert_str_eq(rest, "4,v=2");
    cr_assert_null(kvq_codec_for_text("toys", &rest));
    static kvq_codec many[KVQ_CODECS_MAX];
    static char many_names[KVQ_CODECS_MAX][8];
    size_t room = 0;
    for (size_t i = 0; i < KVQ_CODECS_MAX; i++) {
        (void)snprintf(many_names[i], sizeof many_names[i], "x%zu", i);
        many[i].name = many_names[i];
        room += kvq_codec_register(&many[i]) == KVQ_REGISTERED;
    }
    cr_assert_eq(n + room, KVQ_CODECS_MAX, "and then there is no more room");
}

static void expect_error(const char *text, size_t offset, const char *message)
{
    kvq_scheme *scheme = NULL;
    kvq_error err;
    cr_assert_eq(kvq_scheme_create(&scheme, text, &err), KVQ_ERR_SCHEME, "%s", text);
    cr_assert(err.offset == offset && strstr(err.message, message) != NULL, "%s: %s at %d", text, err.message,
              (int)err.offset);
}

Test(toy, texts_are_the_codecs_own)
{
    cr_assert_str_eq(kvq_scheme_text(scheme_of("v=toy:3,k=toy:0")), "k=toy:0,v=toy");
    cr_assert_str_eq(kvq_scheme_text(scheme_of("kivi2,v=toy:7,r=256")), "k=2@channel/32,v=toy:7,r=256");
    expect_error("k=toy:8,v=2", 6, "too large");
    expect_error("k=toy:,v=2", 6, "number");
    expect_error("k=toy3,v=2", 2, "codec");
    expect_error("k=toy/2,v=2", 5, "comma");
    expect_error("k=toy,v=toy,r=96", 14, "multiple of 128");
    expect_error("k=toy,v=2,r=0", 12, "at least what a side packs");
    expect_error("k=toy,v=toy,r=128,hh=1", 21, "keeps heavy hitters");
    kvq_side_info info;
    cr_assert_eq(kvq_scheme_keys(scheme_of("k=toy,v=toy:0"), &info), KVQ_OK);
    cr_assert(strcmp(info.codec, "toy") == 0 && info.uses_evidence && info.bits == 8 && info.group == 0);
    cr_assert_eq(kvq_scheme_values(scheme_of("k=toy,v=toy:0"), &info), KVQ_OK);
    cr_assert(!info.uses_evidence);
    /* 128 exponents, 24 bytes of record, 40 of padding; 8 bits of code */
    cr_assert_eq(kvq_scheme_bits_per_element(scheme_of("k=toy,v=toy"), 64), 8 + 8.0 * 192 / (T * 64));
}

Test(toy, what_a_codec_leaves_out_has_defaults)
{
    static float x[T * D], xhat[T * D], packed[D], q[D], out[D];
    static _Alignas(KVQ_ALIGNMENT) uint8_t superblock[T * 64];
    kvq_side side;
    rng r = rng_make(1);
    const kvq_kernels *k = &kvq_kernels_portable;
    cr_assert_null(kvq_scheme_side(scheme_of("k=toy:0,v=toy:0"), KVQ_KEYS, D, &side));
    for (size_t kind = 0; kind < N_FILLS; kind++) {
        fill(&r, (fill_kind)kind, x, T, D);
        side.codec->encode(k, &side, superblock, 0, T, x, D, NULL);
        kvq_side_read(k, &side, superblock, 0, T, xhat, D);
        for (size_t t = 0; t < T; t++)
            for (size_t c = 0; c < D; c++)
                cr_assert_leq(fabsf(x[t * D + c] - xhat[t * D + c]), toy_error_bound(x + t * D, D), "%s",
                              fill_names[kind]);
        side.codec->dequantize(k, &side, superblock, 5, 1, packed, D);
        side.codec->prepare(k, &side, xhat + 5 * D, out);
        cr_assert(same_bits("prepared", out, packed, sizeof packed));
    }
    fill(&r, FILL_NORMAL, q, 1, D);
    kvq_side_error_bound(&side, superblock, 0, 2, xhat, D);
    for (size_t i = 0; i < 2 * D; i++)
        cr_assert(isinf(xhat[i]), "nothing is promised");
    cr_assert(kvq_side_is_valid(&side, superblock, T));
    memset(superblock, 0xff, side.bytes);
    kvq_side_clear(&side, superblock, 0);
    for (size_t i = 0; i < side.bytes; i++)
        cr_assert_eq(superblock[i], 0);
}

Test(toy, kivi_cannot_hold_it)
{
    static const char *const schemes[] = {"k=toy,v=toy", "k=toy,v=2", "kivi2,v=toy"};
    script d = make_script(2, small, 300);
    for (size_t i = 0; i < 3; i++) {
        kvq_cache *cache = cache_of(schemes[i], small, NULL);
        kvq_kivi kivi;
        kvq_kivi_init(&kivi);
        script_append(cache, &d, 0, 300);
        cr_assert_eq(kvq_cache_export_kivi(cache, 0, 0, &kivi), KVQ_ERR_ARG);
        kvq_kivi_init(&kivi);
        cr_assert_eq(kvq_cache_import_kivi(cache, 0, 1, &kivi), KVQ_ERR_ARG);
        kvq_cache_free(cache);
    }
    free_script(&d);
}

/* ---- What evidence is: kept here a second time, from what calls hand out ---- */

typedef struct lesson {
    uint64_t n_queries;
    float energy[KV_HEADS][D], moment[KV_HEADS][TRIANGLE];
    float received[KV_HEADS][MAX_TOKENS]; /* by token, sinks included */
} lesson;

static void learn(lesson *e, const float *q, const float *p, size_t n_new, size_t n_tokens)
{
    e->n_queries += n_new;
    for (size_t row = 0; row < n_new * HEADS; row++, q += D) {
        size_t kv = row % HEADS / (HEADS / KV_HEADS);
        for (size_t i = 0, at = 0; i < D; i++) {
            e->energy[kv][i] += q[i] * q[i];
            for (size_t j = 0; j <= i; j++)
                e->moment[kv][at++] += q[i] * q[j];
        }
        for (size_t t = 0; t < n_tokens; t++)
            e->received[kv][t] += p[row * n_tokens + t];
    }
}

static uint64_t hash_of(const void *x, size_t n_bytes, bool known)
{
    uint64_t hash = known ? UINT64_C(0xcbf29ce484222325) : 0;
    for (size_t i = 0; i < n_bytes && known; i++)
        hash = (hash ^ ((const uint8_t *)x)[i]) * UINT64_C(0x100000001b3);
    return hash;
}

/* What the codec noted when page p of a side was encoded. */
static void check_record(const char *scheme, const kvq_cache *cache, kvq_role role, size_t p, const lesson *e)
{
    const kvq_layer_plan *plan = &cache->plan[0];
    const kvq_side *side = &plan->side[role];
    for (size_t kv = 0; kv < KV_HEADS && strcmp(side->codec->name, "toy") == 0; kv++) {
        const float *received = e->received[kv] + plan->scheme.sinks + p * T;
        bool any = false, learned = e->n_queries > 0;
        for (size_t t = 0; t < T; t++)
            any = any || received[t] > 0;
        /* A side that asks for nothing gets nothing; otherwise it gets what the layer knows. */
        bool asks = side->evidence != 0;
        bool energy = asks && learned && (plan->evidence & (KVQ_EVIDENCE_ENERGY | KVQ_EVIDENCE_MOMENT)) != 0;
        bool moment = asks && learned && (plan->evidence & KVQ_EVIDENCE_MOMENT) != 0;
        bool weights = any && (side->evidence & KVQ_EVIDENCE_RECEIVED) != 0;
        uint64_t got[3], wanted[3] = {hash_of(e->energy[kv], sizeof e->energy[kv], energy),
                                      hash_of(received, T * sizeof *received, weights),
                                      hash_of(e->moment[kv], sizeof e->moment[kv], moment)};
        memcpy(got, kvq_superblock(plan, &cache->sequence[0][0].page[p], role, kv) + T * (1 + D), sizeof got);
        for (size_t i = 0; i < 3; i++)
            cr_assert_eq(got[i], wanted[i], "%s, side %d, page %zu, head %zu: evidence %zu is wrong", scheme,
                         (int)role, p, kv, i);
    }
}

/* Pages that a step packs before it attends: those that one token more packs, of what is there. */
static void packed_before(const kvq_cache *cache, const script *d, size_t packed[2])
{
    size_t n = kvq_cache_n_tokens(cache, 0, 0), sinks = cache->plan[0].scheme.sinks;
    kvq_cache *copy = copy_of(cache);
    script_append(copy, d, 0, 1);
    cr_assert_eq(kvq_cache_n_packed(copy, 0, 0, &packed[0], &packed[1]), KVQ_OK);
    for (size_t role = 0; role < 2; role++)
        if (packed[role] + sinks > n)
            packed[role] = (n - sinks) / T * T;
    kvq_cache_free(copy);
}

static void check_lesson(const char *scheme, const script *d, const size_t *n_new, size_t n_calls,
                         size_t window)
{
    static lesson before, now;
    kvq_cache *cache = cache_of(scheme, small, NULL);
    memset(&now, 0, sizeof now);
    for (size_t i = 0; i < n_calls; i++) {
        size_t n = kvq_cache_n_tokens(cache, 0, 0), n_after = n + n_new[i], had[2], early[2], has[2];
        float *p = malloc(n_new[i] * HEADS * n_after * sizeof *p);
        kvq_attend_options options;
        kvq_attend_options_init(&options);
        options.probabilities = p;
        options.window = window;
        before = now;
        cr_assert_eq(kvq_cache_n_packed(cache, 0, 0, &had[0], &had[1]), KVQ_OK);
        packed_before(cache, d, early);
        free(script_step(cache, d, NULL, 1, &n_new[i], &options));
        learn(&now, d->q + n * d->q_row, p, n_new[i], n_after);
        cr_assert_eq(kvq_cache_n_packed(cache, 0, 0, &has[0], &has[1]), KVQ_OK);
        for (size_t role = 0; role < 2; role++)
            for (size_t page = had[role] / T; page < has[role] / T; page++)
                check_record(scheme, cache, (kvq_role)role, page,
                             page * T + T <= early[role] ? &before : &now);
        free(p);
    }
    cr_assert_geq(cache->sequence[0][0].n_pages, 1);
    kvq_cache_free(cache);
}

Test(toy, evidence_is_what_queries_have_taught)
{
    static const char *const schemes[] = {
        "k=toy,v=toy",
        "k=toy:7,v=toy:2",
        "k=toy:4,v=toy:1,s=5,r=0,mode=sliding",
        "k=toy:0,v=toy:2,r=256,s=130",
        "k=2,v=toy:3,mode=sliding,rtype=f16",
        "k=toy:2,v=f16,r=256,mode=sliding",
    };
    static const size_t prompts[] = {70, 300, 1, 13, 128, 2, 140, 100},
                        chunks[] = {127, 1, 1, 127, 1, 300, 6, 1};
    static size_t ones[450];
    script d = make_script(3, small, MAX_TOKENS);
    for (size_t i = 0; i < sizeof ones / sizeof ones[0]; i++)
        ones[i] = 1;
    for (size_t i = 0; i < sizeof schemes / sizeof schemes[0]; i++) {
        check_lesson(schemes[i], &d, prompts, 8, 0);
        check_lesson(schemes[i], &d, prompts, 8, 90); /* older tokens receive 0, as p has it */
        check_lesson(schemes[i], &d, chunks, 8, 0);
        check_lesson(schemes[i], &d, ones, sizeof ones / sizeof ones[0], 0);
        check_lesson(schemes[i], &d, ones, sizeof ones / sizeof ones[0], 140);
    }
    free_script(&d);
}

Test(toy, evidence_changes_what_is_stored)
{
    script d = make_script(4, small, 400);
    kvq_cache *stepped = cache_of("k=toy,v=toy", small, NULL),
              *appended = cache_of("k=toy,v=toy", small, NULL);
    static float x[400 * KV_HEADS * D], y[400 * KV_HEADS * D];
    for (size_t i = 0; i < 400; i++)
        free(script_step(stepped, &d, (size_t[]){0}, 1, NULL, NULL));
    script_append(appended, &d, 0, 400);
    size_t n_differ = 0;
    cr_assert_eq(kvq_cache_read(stepped, 0, 0, 0, 400, x, NULL), KVQ_OK);
    cr_assert_eq(kvq_cache_read(appended, 0, 0, 0, 400, y, NULL), KVQ_OK);
    for (size_t t = 0; t < 400; t++)
        for (size_t i = 0; i < d.row; i++) {
            n_differ += x[t * d.row + i] != y[t * d.row + i];
            float bound = toy_error_bound(d.k + t * d.row + i / D * D, D);
            cr_assert_leq(fabsf(x[t * d.row + i] - d.k[t * d.row + i]), bound);
        }
    cr_assert_gt(n_differ, 100 * d.row / 4, "tokens that are not looked at become coarser");
    kvq_cache_free(stepped), kvq_cache_free(appended);
    free_script(&d);
}

/* A little attention is some, and none at all is not known. */
Test(toy, a_little_attention_is_evidence)
{
    script d = make_script(9, small, 400);
    for (size_t n_queries = 0; n_queries < 2; n_queries++) {
        static lesson e;
        kvq_cache *cache = cache_of("k=toy:2,v=toy:2,r=256", small, NULL);
        float *p = malloc(HEADS * 201 * sizeof *p), q[HEADS * D] = {0}, out[HEADS * D];
        kvq_attend_options options;
        kvq_attend_options_init(&options);
        options.probabilities = p;
        memset(&e, 0, sizeof e);
        script_append(cache, &d, 0, 200);
        if (n_queries > 0) {
            cr_assert_eq(kvq_cache_step(cache, 0, NULL, 1, NULL, q, d.k, d.v, 1, &options, out), KVQ_OK);
            learn(&e, q, p, 1, 201);
            cr_assert_lt(e.received[0][7], 0.01f);
        }
        script_append(cache, &d, 0, 100);
        check_record("appended", cache, KVQ_KEYS, 0, &e);
        check_record("appended", cache, KVQ_VALUES, 0, &e);
        free(p);
        kvq_cache_free(cache);
    }
    free_script(&d);
}

/* ---- Counted, saved, loaded, truncated ---- */

static void check_usage(const char *scheme, const kvq_cache *cache, const test_memory *memory)
{
    kvq_usage u;
    cr_assert_eq(kvq_cache_usage(cache, &u), KVQ_OK);
    cr_assert_eq(u.total, memory->live_bytes, "%s", scheme);
    cr_assert_eq(u.total,
                 u.payload + u.metadata + u.residual + u.sinks + u.slack + u.bookkeeping + u.evidence, "%s",
                 scheme);
}

Test(toy, evidence_is_counted_to_the_byte)
{
    /* 200 tokens, R = 128: kivi packs 128 keys and 128 values of whole pages, 72 stay on either side. */
    static const struct {
        const char *scheme;
        size_t learned, received; /* floats per KV head */
    } cases[] = {
        {"k=toy,v=toy", D, 2 * 72},
        {"k=toy:0,v=toy:0", 0, 0},
        {"k=toy:2,v=toy:0", 0, 72},
        {"k=toy:4,v=toy:1", D + TRIANGLE, 0},
        {"k=toy:7,v=2,rtype=i8", D + TRIANGLE, 72},
        {"k=toy,v=toy:2,s=40", D, 2 * (160 - 128)},
        {"kivi2,v=toy:2,r=256", 0, 200},
    };
    script d = make_script(5, small, 300);
    for (size_t i = 0; i < sizeof cases / sizeof cases[0]; i++) {
        test_memory memory = {0};
        kvq_allocator allocator = test_allocator(&memory);
        kvq_cache *cache = cache_of(cases[i].scheme, small, &allocator);
        kvq_usage u;
        for (size_t j = 0; j < 200; j += 20) {
            free(script_step(cache, &d, NULL, 1, (size_t[]){20}, NULL));
            check_usage(cases[i].scheme, cache, &memory);
        }
        cr_assert_eq(kvq_cache_usage(cache, &u), KVQ_OK);
        cr_assert_eq(u.evidence, KV_HEADS * 4 * (cases[i].learned + cases[i].received), "%s: %d",
                     cases[i].scheme, (int)u.evidence);
        script_append(cache, &d, 1, 150); /* learns nothing */
        check_usage(cases[i].scheme, cache, &memory);
        cr_assert_eq(kvq_cache_truncate(cache, 0, 100), KVQ_OK);
        check_usage(cases[i].scheme, cache, &memory);
        kvq_cache_reset(cache);
        cr_assert_eq(kvq_cache_usage(cache, &u), KVQ_OK);
        cr_assert(u.evidence == 0 && u.total == u.bookkeeping && u.total == memory.live_bytes);
        kvq_cache_free(cache);
        cr_assert(memory.live_bytes == 0 && memory.live_blocks == 0, "%s leaks", cases[i].scheme);
    }
    free_script(&d);
}

static const char *const learning[] = {"k=toy,v=toy",
                                       "k=toy:7,v=toy:2,s=3",
                                       "k=2,v=toy,mode=sliding,rtype=i8",
                                       "k=toy:4,v=toy:2,r=256,mode=sliding",
                                       "kvq2",
                                       "kvq2-fb,r=0"};
enum { N_LEARNING = sizeof learning / sizeof learning[0] };

/* Step both caches alike, token by token and in prompts, and compare all they say. */
static void go_on_alike(const char *what, kvq_cache *a, kvq_cache *b, const script *d, size_t n)
{
    static const size_t n_new[] = {1, 40, 1, 129, 1, 1, 7};
    for (size_t i = 0; n > 0; i++) {
        size_t now = n_new[i % 7] < n ? n_new[i % 7] : n;
        float *x = script_step(a, d, NULL, 1, &now, NULL), *y = script_step(b, d, NULL, 1, &now, NULL);
        cr_assert(same_bits(what, x, y, now * d->q_row * sizeof *x));
        free(x), free(y);
        n -= now;
    }
    cr_assert(same_caches(what, a, b));
}

Test(toy, a_loaded_cache_goes_on_like_the_original)
{
    /* After 128 and 256 tokens past the sinks the next step packs at once, with what was loaded. */
    static const size_t lengths[] = {1, 62, 128, 131, 256, 259, 290};
    script d = make_script(6, small, 700);
    for (size_t i = 0; i < N_LEARNING; i++)
        for (size_t j = 0; j < sizeof lengths / sizeof lengths[0]; j++) {
            size_t n = lengths[j];
            kvq_cache *cache = cache_of(learning[i], small, NULL), *into = cache_of(learning[i], small, NULL);
            free(script_step(cache, &d, NULL, 1, &n, NULL));
            free(script_step(into, &d, NULL, 2, (size_t[]){9, 140}, NULL)); /* to be forgotten */
            kvq_cache *loaded = copy_of(cache);
            buffer file = saved(cache);
            cr_assert_eq(kvq_cache_load_into(into, NULL, 2, buffer_read, &file, NULL), KVQ_OK);
            kvq_cache *twin = copy_of(cache);
            go_on_alike(learning[i], loaded, cache, &d, 350);
            go_on_alike(learning[i], into, twin, &d, 350);
            buffer_free(&file);
            kvq_cache_free(cache), kvq_cache_free(into), kvq_cache_free(loaded), kvq_cache_free(twin);
        }
    free_script(&d);
}

Test(toy, truncation_keeps_evidence_in_proportion)
{
    script d = make_script(7, small, 700);
    for (size_t i = 0; i < N_LEARNING; i++)
        for (size_t keep = 1; keep < 400; keep += 97) {
            kvq_cache *cache = cache_of(learning[i], small, NULL);
            free(script_step(cache, &d, NULL, 1, (size_t[]){400}, NULL));
            const kvq_layer_plan *plan = &cache->plan[0];
            const kvq_layer *layer = &cache->sequence[0][0];
            float was = layer->learned[3];
            size_t packed = layer->packed[KVQ_VALUES],
                   n = keep > plan->scheme.sinks ? keep - plan->scheme.sinks : 0;
            cr_assert_eq(kvq_cache_truncate(cache, 0, keep), KVQ_OK);
            cr_assert(layer->n_queries <= keep && layer->n_queries + 1 >= keep,
                      "400 queries had come with 400 tokens; %d remain", (int)layer->n_queries);
            cr_assert_eq(layer->learned[3], (float)((double)was * ((double)keep / 400)));
            for (size_t kv = 0; kv < KV_HEADS;
                 kv++) { /* of what was packed, pages know their heavy hitters */
                size_t n_heavy = 0, n_pages = packed / KVQ_SUPERBLOCK;
                for (size_t t = layer->packed[KVQ_VALUES]; t < n; t++) {
                    float received = *kvq_residual_received(cache, plan, layer, KVQ_VALUES, kv, t);
                    n_heavy += t < packed && received == 1;
                    cr_assert(t < packed ? received == 0 || received == 1 : received > 0, "%s: token %zu",
                              learning[i], t);
                }
                cr_assert_leq(n_heavy, plan->side[KVQ_VALUES].heavy_hitters * n_pages, "%s", learning[i]);
            }
            kvq_cache *copy = copy_of(cache);
            go_on_alike(learning[i], copy, cache, &d, 300);
            cr_assert_eq(kvq_cache_verify(cache, NULL), KVQ_OK);
            kvq_cache_free(copy);

            kvq_cache *fresh = cache_of(learning[i], small, NULL);
            cr_assert_eq(kvq_cache_truncate(cache, 0, 0), KVQ_OK);
            go_on_alike("all forgotten", cache, fresh, &d, 300);
            kvq_cache_free(cache), kvq_cache_free(fresh);
        }
    free_script(&d);
}

/* Where the evidence of sequence 0, layer 0 stands in a file: n_queries, what was learned, received. */
static size_t evidence_at(const kvq_cache *cache)
{
    const kvq_layer_plan *plan = &cache->plan[0];
    const kvq_layer *layer = &cache->sequence[0][0];
    size_t at = sizeof(kvq_snapshot_header) + sizeof(kvq_snapshot_scheme) + sizeof(kvq_snapshot_layer);
    for (size_t role = 0; role < 2; role++)
        at += (layer->n_tokens - layer->packed[role]) * KV_HEADS * plan->row_bytes[role];
    return at + 8;
}

/* Put a number at byte `offset` of the evidence, and its checksum right; load. */
static kvq_status load_with(const kvq_cache *cache, size_t offset, float number, bool rehash)
{
    kvq_cache *loaded = NULL;
    kvq_error err = {KVQ_OK, NULL, 0};
    buffer file = saved(cache);
    kvq_usage u;
    cr_assert_eq(kvq_cache_usage(cache, &u), KVQ_OK);
    size_t at = evidence_at(cache), n = 8 + u.evidence;
    kvq_snapshot_layer record;
    memcpy(&record, file.data + sizeof(kvq_snapshot_header) + sizeof(kvq_snapshot_scheme), sizeof record);
    uint64_t hash = kvq_snapshot_bind(XXH3_64bits(file.data + at, n), &record, KVQ_SNAPSHOT_EVIDENCE);
    cr_assert(memcmp(file.data + at + n, &hash, sizeof hash) == 0, "this is not where the evidence is");
    memcpy(file.data + at + offset, &number, sizeof number);
    hash = kvq_snapshot_bind(XXH3_64bits(file.data + at, n), &record, KVQ_SNAPSHOT_EVIDENCE);
    if (rehash)
        memcpy(file.data + at + n, &hash, sizeof hash);
    kvq_status status = kvq_cache_load(&loaded, NULL, buffer_read, &file, &err);
    cr_assert(status == KVQ_OK || err.offset == (rehash ? at : at + n), "%s at %d", err.message,
              (int)err.offset);
    buffer_free(&file);
    kvq_cache_free(loaded);
    return status;
}

Test(toy, evidence_that_cannot_be_is_refused)
{
    static const float bad[] = {NAN, INFINITY, -INFINITY, 0x1p127f, -1.0f};
    script d = make_script(8, small, 300);
    kvq_cache *cache = cache_of("k=toy:7,v=toy", (shape){1, HEADS, KV_HEADS, D, 1}, NULL);
    free(script_step(cache, &d, NULL, 1, (size_t[]){200}, NULL));
    size_t energy = 8 + 4, moment = 8 + 4 * (D + 5), received = 8 + 4 * (KV_HEADS * (D + TRIANGLE) + 7);
    for (size_t i = 0; i < 5; i++) {
        cr_assert_eq(load_with(cache, energy, bad[i], true), KVQ_ERR_NONFINITE, "%g", (double)bad[i]);
        cr_assert_eq(load_with(cache, received, bad[i], true), KVQ_ERR_NONFINITE, "%g", (double)bad[i]);
        cr_assert_eq(load_with(cache, moment, bad[i], true), i == 4 ? KVQ_OK : KVQ_ERR_NONFINITE, "%g",
                     (double)bad[i]);
        cr_assert_eq(load_with(cache, moment, bad[i], false), KVQ_ERR_CHECKSUM);
    }
    cr_assert_eq(load_with(cache, energy, 0x1p120f, true), KVQ_OK);
    cr_assert_eq(load_with(cache, received, 0, true), KVQ_OK);
    kvq_cache_free(cache);
    free_script(&d);
}

/* Products that would be Inf, and cancel as Inf - Inf. */
Test(toy, queries_near_the_end_of_float_are_evidence)
{
    kvq_cache *cache = cache_of("k=toy:7,v=toy:7", (shape){1, 2, 1, 2, 1}, NULL);
    float q[4] = {3e38f, -3e38f, 3e38f, 3e38f}, x[2] = {0x1p-70f, 0}, out[4];
    for (size_t i = 0; i < 30; i++)
        cr_assert_eq(kvq_cache_step(cache, 0, NULL, 1, NULL, q, x, x, 0, NULL, out), KVQ_OK);
    const float *learned = cache->sequence[0][0].learned;
    static const float wanted[] = {0x1p120f, 0x1p120f, 0x1p120f, 0, 0x1p120f};
    for (size_t i = 0; i < 5; i++)
        cr_assert_eq(learned[i], wanted[i], "%zu: %a", i, (double)learned[i]);
    kvq_cache_free(cache);
}

/* Sums stop growing before they overflow. */
Test(toy, evidence_never_overflows)
{
    kvq_cache *cache = cache_of("k=toy:7,v=toy:7", (shape){1, 1, 1, 2, 1}, NULL);
    float q[2] = {0x1p62f, -0x1p62f}, x[2] = {0x1p-70f, 0}, out[2];
    for (size_t i = 0; i < 300; i++)
        cr_assert_eq(kvq_cache_step(cache, 0, NULL, 1, NULL, q, x, x, 0, NULL, out), KVQ_OK);
    const float *learned = cache->sequence[0][0].learned;
    static const float wanted[] = {0x1p120f, 0x1p120f, 0x1p120f, -0x1p120f, 0x1p120f};
    for (size_t i = 0; i < 5; i++)
        cr_assert_eq(learned[i], wanted[i], "%zu: %a", i, (double)learned[i]);
    kvq_cache *copy = copy_of(cache);
    cr_assert(same_caches("loaded", copy, cache));
    kvq_cache_free(cache), kvq_cache_free(copy);
}
