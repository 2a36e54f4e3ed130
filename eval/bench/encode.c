/* How fast the library encodes: appends timed into memory used before and into fresh memory
 * (encode.h). */
#include "eval/bench/encode.h"

#include "eval/common/progress.h"

#include <math.h>
#include <omp.h>
#include <stdlib.h>
#include <string.h>

enum { MOST_TOKENS = 1024, QUICK_TOKENS = 640, MIN_ROUNDS = 3, TABLE_ENCODE = 2, MAX_BLOCKS = 1024 };

/* An allocator that keeps what is freed for the next request of that size, so that pages are mapped
 * already. */
typedef struct keeper {
    struct {
        void *ptr;
        size_t size, align;
        bool used;
    } blocks[MAX_BLOCKS];
    size_t n;
} keeper;

static void *keeper_alloc(void *ctx, size_t size, size_t align)
{
    keeper *k = ctx;
    for (size_t i = 0; i < k->n; i++) {
        if (!k->blocks[i].used && k->blocks[i].size == size && k->blocks[i].align >= align) {
            k->blocks[i].used = true;
            return k->blocks[i].ptr;
        }
    }
    /* Huge pages for what the library aligns to them, as its own allocator does. */
    const size_t huge = (size_t)2 << 20;
    void *ptr = align >= huge ? bench_alloc(size) : aligned_alloc(align, (size + align - 1) / align * align);
    if (ptr && k->n < MAX_BLOCKS) {
        memset(ptr, 0, size);
        k->blocks[k->n].ptr = ptr;
        k->blocks[k->n].size = size;
        k->blocks[k->n].align = align;
        k->blocks[k->n++].used = true;
    } else if (ptr) {
        free(ptr); /* more blocks than any layer of 1,024 tokens takes */
        ptr = NULL;
    }
    return ptr;
}

static void keeper_free(void *ctx, void *ptr, size_t size)
{
    keeper *k = ctx;
    (void)size;
    for (size_t i = 0; i < k->n; i++)
        k->blocks[i].used = k->blocks[i].used && k->blocks[i].ptr != ptr;
}

/* One scheme and instruction set with some number of threads. */
typedef struct encoder {
    const kvq_scheme *scheme;
    const char *text;
    const char *isa;
    int n_threads;
    keeper *memory;
    bench_sample warm, fresh; /* GB/s */
    double bytes;
} encoder;

typedef struct encode_input {
    bench_shape shape;
    size_t n_tokens;
    const float *k, *v;
    double bytes;
} encode_input;

/* Append everything to an empty cache; with allocator NULL, into fresh memory. */
static bool encode_once(encoder *who, const encode_input *in, const kvq_allocator *allocator, bench_sample *s,
                        eval_error *e)
{
    kvq_config config;
    kvq_config_init(&config);
    config.n_layers = 1;
    config.n_heads = in->shape.n_heads;
    config.n_kv_heads = in->shape.n_kv_heads;
    config.head_dim = in->shape.head_dim;
    config.scheme = who->scheme;
    config.isa = who->isa;
    config.allocator = allocator;
    kvq_cache *cache = NULL;
    kvq_usage usage = {0};
    omp_set_num_threads(who->n_threads);
    kvq_status status = kvq_cache_create(&cache, &config);
    const double start = progress_now();
    status = status == KVQ_OK ? kvq_cache_append(cache, 0, 0, in->k, in->v, in->n_tokens) : status;
    const double seconds = progress_now() - start;
    status = status == KVQ_OK ? kvq_cache_usage(cache, &usage) : status;
    kvq_cache_free(cache);
    if (status != KVQ_OK)
        return eval_fail(e, "encoding %s: %s", who->text, kvq_status_string(status));
    who->bytes = (double)(usage.payload + usage.metadata + usage.residual + usage.sinks);
    return bench_sample_add(s, in->bytes / seconds * 1e-9) || eval_fail(e, "out of memory");
}

static bool encode_rounds(encoder *list, size_t n, const encode_input *in, double seconds, eval_error *e)
{
    bench_sample ignored = {0};
    bool good = true;
    const double start = progress_now();
    for (size_t round = 0; good && n > 0 && (round < MIN_ROUNDS || progress_now() - start < seconds);
         round++) {
        for (size_t i = 0; good && i < n; i++) {
            const kvq_allocator keep = {keeper_alloc, keeper_free, list[i].memory};
            good = (round > 0 || encode_once(&list[i], in, &keep, &ignored, e)) &&
                   encode_once(&list[i], in, &keep, &list[i].warm, e) &&
                   encode_once(&list[i], in, NULL, &list[i].fresh, e);
        }
    }
    bench_sample_free(&ignored);
    return good;
}

static void put_rows(bench_table *t, const encoder *list, size_t n, const encode_input *in)
{
    char shape[64];
    bench_shape_print(in->shape, shape, sizeof shape);
    for (size_t i = 0; i < n; i++) {
        bench_put_text(t, shape);
        bench_put_text(t, list[i].text);
        bench_put_text(t, list[i].isa);
        bench_put_number(t, list[i].n_threads);
        bench_put_sample(t, &list[i].warm);
        bench_put_sample(t, &list[i].fresh);
        bench_put_number(t, in->bytes);
        bench_put_number(t, list[i].bytes);
    }
}

static bool list_encoders(const bench_options *o, bench_shape shape, encoder *list, size_t *n, eval_error *e)
{
    for (size_t t = 0; t < o->n_threads; t++) {
        for (size_t isa = 0; isa < o->n_isas; isa++) {
            for (size_t i = 0; i < o->n_schemes; i++) {
                if (!bench_wants(o, isa, i) || !bench_takes(o->schemes[i], shape.head_dim))
                    continue;
                encoder *who = &list[(*n)++];
                *who = (encoder){.scheme = o->schemes[i],
                                 .text = kvq_scheme_text(o->schemes[i]),
                                 .isa = o->isas[isa],
                                 .n_threads = o->threads[t]};
                who->memory = calloc(1, sizeof *who->memory);
                if (!who->memory)
                    return eval_fail(e, "out of memory");
            }
        }
    }
    return true;
}

bool bench_encode(const bench_options *o, bench_shape shape, bench_report *r, eval_error *e)
{
    static const bench_column columns[] = {
        {"shape", "shape", BENCH_TEXT}, {"scheme", "scheme", BENCH_TEXT},  {"isa", "ISA", BENCH_TEXT},
        {"threads", "threads", 0},      {"gb_s", "GB/s|warm", 2},          {"gb_s_p10", "p10", 2},
        {"gb_s_p90", "p90", 2},         {"gb_s_fresh", "GB/s|fresh", 2},   {"gb_s_fresh_p10", "p10", 2},
        {"gb_s_fresh_p90", "p90", 2},   {"input_bytes", "input|bytes", 0}, {"bytes", "stored|bytes", 0},
    };
    bench_table *t = r->n_tables > TABLE_ENCODE ? &r->tables[TABLE_ENCODE]
                                                : bench_add_table(r, "encode", "Encoding one layer", columns,
                                                                  sizeof columns / sizeof columns[0], 1);
    const size_t n_tokens = o->quick ? QUICK_TOKENS : MOST_TOKENS,
                 n = n_tokens * shape.n_kv_heads * shape.head_dim;
    /* The input, and what each encoder stores, which is at most as much. */
    const double most =
        2.0 * (double)n * sizeof(float) * (1.0 + (double)(o->n_threads * o->n_isas * o->n_schemes));
    if (most > o->memory) {
        char text[64];
        bench_shape_print(shape, text, sizeof text);
        bench_leave_out(r, text, n_tokens, "", "encoding may take %.1f GB (--memory)", most * 1e-9);
        return true;
    }
    float *k = bench_alloc(n * sizeof k[0]), *v = bench_alloc(n * sizeof v[0]);
    encoder *list = calloc(o->n_threads * o->n_isas * o->n_schemes, sizeof list[0]);
    size_t n_encoders = 0;
    bool good = (k && v && list) || eval_fail(e, "out of memory");
    if (good) {
        bench_fill_normal(k, n, o->seed);
        bench_fill_normal(v, n, o->seed + 1);
        const encode_input in = {shape, n_tokens, k, v, 2.0 * (double)n * sizeof(float)};
        good = list_encoders(o, shape, list, &n_encoders, e) &&
               encode_rounds(list, n_encoders, &in, fmin(0.3, o->seconds) * (o->quick ? 1.0 : 10.0), e);
        if (good)
            put_rows(t, list, n_encoders, &in);
    }
    for (size_t i = 0; i < n_encoders; i++) {
        for (size_t j = 0; list[i].memory && j < list[i].memory->n; j++)
            free(list[i].memory->blocks[j].ptr);
        free(list[i].memory);
        bench_sample_free(&list[i].warm);
        bench_sample_free(&list[i].fresh);
    }
    free(list);
    free(k);
    free(v);
    return good;
}
