/* One cell of the attention benchmark: its caches, its competitors, and their samples taken in turns
 * (cell.h). */
#include "eval/bench/cell.h"

#include <assert.h>
#include <math.h>
#include <omp.h>
#include <stdlib.h>
#include <string.h>

enum {
    MIN_ROUNDS = 9,
    MIN_QUICK_ROUNDS = 5,
    MAX_ROUNDS = 101,
    MAX_CHUNK = 1024,
    MIN_LAYERS = 12,
    MAX_LAYERS = 48,
    MAX_PORTABLE_TOKENS = 4096, /* beyond them only if asked for: it takes minutes */
};

#define MIN_SAMPLE_SECONDS 3e-5 /* the clock takes some 3e-8 */
#define MIN_TURN_SECONDS   1e-3
#define MAX_DISAGREEMENT   1e-4 /* of OpenBLAS and our fp32 cache, relative L2 */
#define MAX_FAST_ERROR     1e-3 /* of fast precision, likewise: what the library promises */

/* ---- what there is to compare ---- */

static bool add_source(bench_cell *c, const char *scheme, const char *isa, eval_error *e)
{
    assert(c->n_sources < BENCH_MAX_SOURCES); /* bench_options_parse refuses more */
    bench_source *s = &c->sources[c->n_sources++];
    *s = (bench_source){.isa = isa, .fast_error = NAN};
    const kvq_status status = kvq_scheme_create(&s->scheme, scheme, NULL);
    s->text = kvq_scheme_text(s->scheme);
    kvq_attend_counters_init(&s->counters);
    return status == KVQ_OK || eval_fail(e, "scheme %s: %s", scheme, kvq_status_string(status));
}

/* The schemes of an instruction set of the options, on the kernels of this name. */
static bool list_sources_on(bench_cell *c, size_t isa, const char *name, eval_error *e)
{
    const bench_options *o = c->options;
    for (size_t i = 0; i < o->n_schemes; i++)
        if (bench_wants(o, isa, i) && bench_takes(o->schemes[i], c->shape.head_dim) &&
            !add_source(c, kvq_scheme_text(o->schemes[i]), name, e))
            return false;
    return true;
}

static bool list_sources(bench_cell *c, eval_error *e)
{
    const bench_options *o = c->options;
    if (!add_source(c, "fp32", kvq_isa(), e) || !add_source(c, "fp16", kvq_isa(), e))
        return false;
    c->n_baselines = c->n_sources;
    for (size_t isa = 0; isa < o->n_isas; isa++) {
        const bool slow = strcmp(o->isas[isa], kvq_isa_name(0)) == 0 && o->n_isas > 1 && !o->isas_given;
        if (!(slow && c->n_tokens > MAX_PORTABLE_TOKENS) && !list_sources_on(c, isa, o->isas[isa], e))
            return false;
    }
    return true;
}

static double source_bytes(const bench_cell *c, const bench_source *s)
{
    const size_t token = 2 * c->shape.n_kv_heads * c->shape.head_dim;
    const size_t n_full = kvq_scheme_residual(s->scheme) + kvq_scheme_sinks(s->scheme);
    return (double)(c->n_tokens * token) / 8.0 * kvq_scheme_bits_per_element(s->scheme, c->shape.head_dim) +
           (double)(n_full * token * sizeof(float));
}

static double fp32_bytes(const bench_cell *c)
{
    return (double)(c->n_tokens * c->shape.n_kv_heads * c->shape.head_dim) * 2.0 * sizeof(float);
}

/* As many layers as keep fp32 out of the caches, as in a model, and as memory allows; 0: not even one. Where
 * many queries read each layer again and again, fewer will do. */
static size_t choose_layers(const bench_cell *c, const bench_machine *m)
{
    const double fp32 = fp32_bytes(c);
    double all = c->n_baselines > 0 ? fp32 : 0.0; /* OpenBLAS's own copy */
    for (size_t i = 0; i < c->n_sources; i++)
        all += 1.125 * source_bytes(c, &c->sources[i]); /* the library takes memory by eighths */
    const double wanted = fmin(MAX_LAYERS, fmax(MIN_LAYERS, ceil(2.0 * (double)m->l3 / fp32)));
    return (size_t)fmin(fmax(1.0, ceil(wanted / (double)c->n_q)), floor(c->options->memory / all));
}

/* ---- filling ---- */

enum {
    FILL_TOKENS = 128, /* at once */
    TAUGHT = 8,        /* of them bring queries */
    N_LESSONS = 8,     /* so often others, then the first again */
};

static bool no_memory(const bench_cell *c, eval_error *e)
{
    return eval_fail(e, "out of memory for %zu layers of %zu tokens; --memory limits them", c->n_layers,
                     c->n_tokens);
}

static bool make_numbers(bench_cell *c, eval_error *e)
{
    const size_t row = c->shape.n_kv_heads * c->shape.head_dim;
    const size_t query = c->shape.n_heads * c->shape.head_dim, q = c->n_q * query;
    const size_t teachers = N_LESSONS * TAUGHT * query, out = c->n_q > TAUGHT ? q : TAUGHT * query;
    const bench_options *o = c->options;
    c->n_chunk = c->n_tokens < MAX_CHUNK ? c->n_tokens : MAX_CHUNK;
    size_t scratch = 0;
    for (size_t i = 0; c->n_baselines > 0 && i < o->n_threads; i++) {
        const size_t n = bench_blas_scratch(c->shape, c->n_tokens, c->n_q, o->threads[i]);
        scratch = n > scratch ? n : scratch;
    }
    const struct {
        float **where;
        size_t n;
    } arrays[] = {{&c->k, c->n_chunk * row},
                  {&c->v, c->n_chunk * row},
                  {&c->q, q},
                  {&c->q_blas, q},
                  {&c->teachers, teachers},
                  {&c->out, out},
                  {&c->other, q},
                  {&c->scratch, scratch}};
    for (size_t i = 0; i < sizeof arrays / sizeof arrays[0]; i++) {
        *arrays[i].where = bench_alloc(arrays[i].n * sizeof(float));
        if (!*arrays[i].where)
            return no_memory(c, e);
    }
    c->blas = calloc(c->n_layers, sizeof c->blas[0]);
    if (!c->blas)
        return no_memory(c, e);
    bench_fill_normal(c->k, c->n_chunk * row, o->seed);
    bench_fill_normal(c->v, c->n_chunk * row, o->seed + 1);
    bench_fill_normal(c->q, q, o->seed + 2);
    bench_fill_normal(c->teachers, teachers, o->seed + 3);
    bench_blas_reorder(c->shape, c->n_q, c->q, c->q_blas, true);
    c->scale = 1.0f / sqrtf((float)c->shape.head_dim);
    return true;
}

static bool uses_evidence(const kvq_scheme *scheme)
{
    kvq_side_info k, v;
    return kvq_scheme_keys(scheme, &k) == KVQ_OK && kvq_scheme_values(scheme, &v) == KVQ_OK &&
           (k.uses_evidence || v.uses_evidence);
}

/* Tokens [at, at + n) of the repeated chunk into sequence 0. A scheme that learns from queries gets some for
 * every 128 tokens, so that its pages have all the parts that a decode's would have; one for each token would
 * take too long. They are others than those that are timed: bits go where queries look. */
static kvq_status fill_tokens(const bench_cell *c, const bench_source *s, size_t at, size_t n)
{
    const size_t row = c->shape.n_kv_heads * c->shape.head_dim;
    const float *k = c->k + at % c->n_chunk * row, *v = c->v + at % c->n_chunk * row;
    if (!uses_evidence(s->scheme))
        return kvq_cache_append(s->cache, 0, 0, k, v, n);
    const size_t taught = n < TAUGHT ? n : TAUGHT, first = n - taught, lesson = at / FILL_TOKENS % N_LESSONS;
    const float *q = c->teachers + lesson * TAUGHT * c->shape.n_heads * c->shape.head_dim;
    const kvq_status status = kvq_cache_append(s->cache, 0, 0, k, v, first);
    return status != KVQ_OK ? status
                            : kvq_cache_step(s->cache, 0, NULL, 1, &taught, q, k + first * row,
                                             v + first * row, c->scale, NULL, c->out);
}

static kvq_status fill_sequence(const bench_cell *c, const bench_source *s)
{
    kvq_status status = KVQ_OK;
    for (size_t at = 0, n; status == KVQ_OK && at < c->n_tokens; at += n) {
        const size_t left = c->n_tokens - at, to_chunk = c->n_chunk - at % c->n_chunk;
        n = left < to_chunk ? left : to_chunk;
        n = n < FILL_TOKENS ? n : FILL_TOKENS;
        status = fill_tokens(c, s, at, n);
    }
    return status;
}

/* A saved sequence. */
typedef struct saved {
    uint8_t *data;
    size_t n, capacity, at;
} saved;

static bool write_saved(void *ctx, const void *data, size_t n)
{
    saved *to = ctx;
    if (to->capacity - to->n < n) {
        const size_t capacity = 2 * (to->capacity + n);
        uint8_t *more = realloc(to->data, capacity);
        if (!more)
            return false;
        to->data = more;
        to->capacity = capacity;
    }
    memcpy(to->data + to->n, data, n);
    to->n += n;
    return true;
}

static size_t read_saved(void *ctx, void *data, size_t n)
{
    saved *from = ctx;
    const size_t left = from->n - from->at, taken = n < left ? n : left;
    memcpy(data, from->data + from->at, taken);
    from->at += taken;
    return taken;
}

/* All layers are alike, so one is encoded, which takes long, and copied to the others; and to those of the
 * same scheme on another instruction set, whose bytes would be the same. A cache has a sequence for each. */
static kvq_status fill_layers(const bench_cell *c, const bench_source *s, const bench_source *like)
{
    saved copy = {0};
    kvq_status status = like ? KVQ_OK : fill_sequence(c, s);
    if (status == KVQ_OK)
        status = kvq_cache_save(like ? like->cache : s->cache, NULL, 1, write_saved, &copy);
    for (size_t layer = like ? 0 : 1; status == KVQ_OK && layer < c->n_layers; layer++) {
        copy.at = 0;
        status = kvq_cache_load_into(s->cache, &layer, 1, read_saved, &copy, NULL);
    }
    free(copy.data);
    return status;
}

static const bench_source *same_scheme_before(const bench_cell *c, const bench_source *s)
{
    for (const bench_source *other = c->sources; other < s; other++)
        if (strcmp(other->text, s->text) == 0)
            return other;
    return NULL;
}

static bool fill_source(const bench_cell *c, bench_source *s, eval_error *e)
{
    kvq_config config;
    kvq_config_init(&config);
    config.n_layers = 1;
    config.n_sequences = c->n_layers;
    config.n_heads = c->shape.n_heads;
    config.n_kv_heads = c->shape.n_kv_heads;
    config.head_dim = c->shape.head_dim;
    config.scheme = s->scheme;
    config.isa = s->isa;
    kvq_usage u = {0};
    kvq_status status = kvq_cache_create(&s->cache, &config);
    if (status == KVQ_OK)
        status = fill_layers(c, s, same_scheme_before(c, s));
    if (status == KVQ_OK)
        status = kvq_cache_usage(s->cache, &u);
    if (status != KVQ_OK) {
        return eval_fail(e, "a cache of %s for %zu layers of %zu tokens, D = %zu: %s", s->text, c->n_layers,
                         c->n_tokens, c->shape.head_dim, kvq_status_string(status));
    }
    s->bytes_read = (double)(u.payload + u.metadata + u.residual + u.sinks) / (double)c->n_layers;
    s->bytes_total = (double)u.total / (double)c->n_layers;
    return true;
}

static bool fill(bench_cell *c, eval_error *e)
{
    for (size_t i = 0; i < c->n_sources; i++)
        if (!fill_source(c, &c->sources[i], e))
            return false;
    for (size_t layer = 0; c->n_baselines > 0 && layer < c->n_layers; layer++) {
        if (!bench_blas_init(&c->blas[layer], c->shape, c->n_tokens))
            return no_memory(c, e);
        for (size_t at = 0; at < c->n_tokens; at += c->n_chunk) {
            const size_t left = c->n_tokens - at;
            bench_blas_fill(&c->blas[layer], at, c->k, c->v, left < c->n_chunk ? left : c->n_chunk);
        }
    }
    return true;
}

/* ---- running ---- */

static bool attend(const bench_cell *c, const bench_competitor *who, size_t layer,
                   kvq_attend_counters *counters, float *out, eval_error *e)
{
    if (!who->source) {
        bench_blas_attend(&c->blas[layer], c->q_blas, c->n_q, c->scale, who->n_threads, who->gemv, c->scratch,
                          out);
        return true;
    }
    kvq_attend_options options;
    kvq_attend_options_init(&options);
    options.n_threads = who->n_threads;
    options.precision = who->precision;
    options.counters = counters;
    const kvq_status status =
        kvq_cache_attend(who->source->cache, 0, &layer, 1, c->q, c->n_q, c->scale, &options, out);
    return status == KVQ_OK ||
           eval_fail(e, "attention over %s: %s", who->source->text, kvq_status_string(status));
}

/* What competes must compute the same; otherwise the times would compare nothing. */
static bool check_baselines(bench_cell *c, eval_error *e)
{
    const size_t n = c->n_q * c->shape.n_heads * c->shape.head_dim;
    bench_competitor who = {.source = &c->sources[0], .precision = KVQ_PRECISION_EXACT, .n_threads = 1};
    if (!attend(c, &who, 0, NULL, c->out, e))
        return false;
    bench_blas_reorder(c->shape, c->n_q, c->out, c->other, true);
    who.source = NULL;
    for (int gemv = 0; gemv < (c->n_q == 1 ? 2 : 1); gemv++) {
        who.gemv = gemv != 0;
        if (!attend(c, &who, c->n_layers - 1, NULL, c->out, e))
            return false;
        const double error = bench_relative_l2(c->out, c->other, n);
        if (!(error <= MAX_DISAGREEMENT)) {
            return eval_fail(
                e,
                "OpenBLAS and the fp32 cache disagree by %.2g (relative L2, at most %g expected) at "
                "%zu tokens, D = %zu: their times mean nothing",
                error, MAX_DISAGREEMENT, c->n_tokens, c->shape.head_dim);
        }
    }
    return true;
}

static bool check_fast(bench_cell *c, bench_source *s, eval_error *e)
{
    bench_competitor who = {.source = s, .precision = KVQ_PRECISION_EXACT, .n_threads = 1};
    if (!attend(c, &who, 0, NULL, c->out, e))
        return false;
    who.precision = KVQ_PRECISION_FAST;
    if (!attend(c, &who, 0, &s->counters, c->other, e))
        return false;
    s->fast_error = bench_relative_l2(c->other, c->out, c->n_q * c->shape.n_heads * c->shape.head_dim);
    return s->fast_error <= MAX_FAST_ERROR ||
           eval_fail(e, "fast precision is %.2g off exact: the benchmark would compare different answers",
                     s->fast_error);
}

static bool check_answers(bench_cell *c, eval_error *e)
{
    if (c->n_baselines > 0 && !check_baselines(c, e))
        return false;
    for (size_t i = c->n_baselines; i < c->n_sources; i++)
        if (!check_fast(c, &c->sources[i], e))
            return false;
    return true;
}

static void add_competitor(bench_cell *c, bench_competitor who)
{
    assert(c->n_competitors < BENCH_MAX_COMPETITORS); /* likewise */
    c->competitors[c->n_competitors++] = who;
}

static bool is_float32(const kvq_attend_counters *counters)
{
    return counters->superblocks_exact == counters->superblocks; /* or there are none: nothing is packed */
}

/* Counters are of scores. Of values, kvq_precision says which ones fast precision adds up in float32. */
static bool values_stay_float(const kvq_scheme *scheme)
{
    kvq_side_info v;
    return kvq_scheme_values(scheme, &v) == KVQ_OK && strcmp(v.codec, "rot") == 0 && v.bits != 2;
}

const char *bench_cell_precision(const bench_competitor *who)
{
    if (!who->source)
        return "";
    if (is_float32(&who->source->counters))
        return "float32";
    if (who->precision == KVQ_PRECISION_EXACT)
        return "exact";
    if (who->source->counters.superblocks_exact > 0)
        return "mixed";
    return values_stay_float(who->source->scheme) ? "fast keys" : "fast";
}

static void list_competitors(bench_cell *c)
{
    const bench_options *o = c->options;
    for (size_t t = 0; t < o->n_threads; t++) {
        const int n = o->threads[t];
        if (c->n_baselines > 0 && c->n_q == 1)
            add_competitor(c, (bench_competitor){.gemv = true, .n_threads = n});
        if (c->n_baselines > 0)
            add_competitor(c, (bench_competitor){.n_threads = n});
        for (size_t i = 0; i < c->n_sources; i++) {
            const bench_source *s = &c->sources[i];
            const bool is_baseline = i < c->n_baselines; /* which know one arithmetic only */
            add_competitor(
                c, (bench_competitor){.source = s,
                                      .precision = is_baseline ? KVQ_PRECISION_EXACT : KVQ_PRECISION_FAST,
                                      .n_threads = n});
            if (c->n_baselines > 0 && !o->quick && i == c->n_baselines && !is_float32(&s->counters)) {
                add_competitor(
                    c, (bench_competitor){.source = s, .precision = KVQ_PRECISION_EXACT, .n_threads = n});
            }
        }
    }
}

static double bytes_read(const bench_cell *c, const bench_competitor *who)
{
    return (double)c->n_layers * (who->source ? who->source->bytes_read : fp32_bytes(c));
}

double bench_cell_units(const bench_cell *c)
{
    return (double)c->n_tokens * (double)(c->n_q == 1 ? c->shape.n_kv_heads : c->n_q * c->shape.n_heads);
}

bool bench_cell_step(const bench_cell *c, const bench_competitor *who, size_t layer, eval_error *e)
{
    return attend(c, who, layer, NULL, c->out, e);
}

bool bench_cell_warm(const bench_cell *c, bench_competitor *who, eval_error *e)
{
    if (who->n_walks > 0 && bytes_read(c, who) > c->warm_bytes)
        return true;
    const double start = progress_now();
    for (size_t layer = 0; layer < c->n_layers; layer++)
        if (!bench_cell_step(c, who, layer, e))
            return false;
    const double seconds = progress_now() - start;
    if (who->n_walks == 0) {
        who->n_walks = 1 + (size_t)fmin(1000.0, MIN_TURN_SECONDS / seconds);
        who->n_steps = 1 + (size_t)fmin(1000.0, MIN_SAMPLE_SECONDS / seconds * (double)c->n_layers);
    }
    return true;
}

bool bench_cell_walk(const bench_cell *c, const bench_competitor *who, bench_sample *us,
                     bench_sample *spoiled, eval_error *e)
{
    const size_t n = who->n_walks * c->n_layers;
    for (size_t i = 0; i < n; i += who->n_steps) {
        const size_t n_steps = n - i < who->n_steps ? n - i : who->n_steps;
        const long before = bench_interruptions(who->n_threads);
        const double start = progress_now();
        for (size_t j = 0; j < n_steps; j++)
            if (!bench_cell_step(c, who, (i + j) % c->n_layers, e))
                return false;
        const double seconds = progress_now() - start;
        bench_sample *to = bench_interruptions(who->n_threads) == before ? us : spoiled;
        if (!bench_sample_add(to, seconds * 1e6 / (double)n_steps))
            return eval_fail(e, "out of memory");
    }
    return true;
}

bool bench_cell_settle(bench_sample *us, bench_sample *spoiled, eval_error *e)
{
    bool good = true;
    for (size_t i = 0; good && us->n < MIN_ROUNDS && i < spoiled->n; i++)
        good = bench_sample_add(us, spoiled->values[i]);
    bench_sample_free(spoiled);
    return good || eval_fail(e, "out of memory");
}

bool bench_cell_goes_on(const bench_options *o, size_t n_rounds, double start)
{
    return n_rounds < (o->quick ? MIN_QUICK_ROUNDS : MIN_ROUNDS) ||
           (n_rounds < MAX_ROUNDS && progress_now() - start < o->seconds);
}

/* Says in the report what keeps the cell from being measured, and which schemes. */
static bool is_left_out(bench_cell *c, bench_report *r)
{
    const bench_options *o = c->options;
    char shape[64];
    bench_shape_print(c->shape, shape, sizeof shape);
    for (size_t i = 0; i < o->n_schemes; i++)
        if (!bench_takes(o->schemes[i], c->shape.head_dim))
            bench_leave_out(r, shape, c->n_tokens, kvq_scheme_text(o->schemes[i]), BENCH_DOES_NOT_TAKE,
                            c->shape.head_dim);
    if (c->n_sources == c->n_baselines)
        return true;
    c->n_layers = choose_layers(c, &r->machine);
    if (c->n_layers == 0)
        bench_leave_out(r, shape, c->n_tokens, "",
                        "one layer of every competitor takes more than %.3g GB (--memory)", o->memory * 1e-9);
    return c->n_layers == 0;
}

bool bench_cell_open(bench_cell *c, bench_report *r, const bench_options *o, bench_shape shape,
                     size_t n_tokens, const char *table, bool *skipped, eval_error *e)
{
    *c = (bench_cell){.options = o,
                      .shape = shape,
                      .n_tokens = n_tokens,
                      .n_q = o->n_queries,
                      .warm_bytes = 2.0 * (double)r->machine.l3};
    omp_set_num_threads(o->threads[o->n_threads - 1]); /* for filling */
    if (!(table ? list_sources_on(c, 0, table, e) : list_sources(c, e)))
        return false;
    *skipped = is_left_out(c, r);
    if (*skipped)
        return true;
    if (!make_numbers(c, e) || !fill(c, e) || !check_answers(c, e))
        return false;
    list_competitors(c);
    return true;
}

bool bench_cell_run(bench_cell *c, progress *p, double fraction, eval_error *e)
{
    const double start = progress_now();
    for (size_t round = 0; bench_cell_goes_on(c->options, round, start); round++) {
        for (size_t i = 0; i < c->n_competitors; i++) {
            bench_competitor *who = &c->competitors[i];
            if (!bench_cell_warm(c, who, e) || !bench_cell_walk(c, who, &who->us, &who->spoiled, e))
                return false;
            who->n_rounds++;
            progress_update(p, "attention", fraction);
        }
    }
    bool good = true;
    for (size_t i = 0; good && i < c->n_competitors; i++)
        good = bench_cell_settle(&c->competitors[i].us, &c->competitors[i].spoiled, e);
    return good;
}

void bench_cell_free(bench_cell *c)
{
    for (size_t i = 0; i < c->n_competitors; i++) {
        bench_sample_free(&c->competitors[i].us);
        bench_sample_free(&c->competitors[i].spoiled);
    }
    for (size_t i = 0; i < c->n_sources; i++) {
        kvq_cache_free(c->sources[i].cache);
        kvq_scheme_free(c->sources[i].scheme);
    }
    for (size_t i = 0; c->blas && i < c->n_layers; i++)
        bench_blas_free(&c->blas[i]);
    free(c->blas);
    float *const arrays[] = {c->k, c->v, c->q, c->q_blas, c->teachers, c->out, c->other, c->scratch};
    for (size_t i = 0; i < sizeof arrays / sizeof arrays[0]; i++)
        free(arrays[i]);
    *c = (bench_cell){0};
}
