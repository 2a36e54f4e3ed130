/*
 * Where the time of a step goes (phases.h): a step's kernels, each with a clock around it. Like kernels.c,
 * and no other file of eval/, this one looks into quant/: phases are what its kernels do.
 *
 * Caches are made with a table of kernels of ours (kvq_kernels_offer). Its slots are those of an instruction
 * set for the walks that give the whole time, which thus pays for no clock, and wrappers around them for the
 * walks between, which give the parts. The library knows nothing of it.
 *
 * To give a slot its phase: a line TIMED, TIMED_VALUE or NOT_TIMED below; a slot without one does not
 * compile.
 */
#include "eval/bench/phases.h"

#include "eval/bench/cell.h"
#include "quant/kernels.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>
#if defined(__x86_64__)
#include <x86intrin.h>
#elif !defined(__aarch64__)
#include <time.h>
#endif

/* X(name, what it is). The last one is what remains of the whole. */
#define PHASES(X)                                                                                            \
    X(fold, "queries and probabilities made whole numbers")                                                  \
    X(score, "scores over packed keys")                                                                      \
    X(softmax, "largest score, exponentials, sums")                                                          \
    X(accumulate, "sums over packed values")                                                                 \
    X(window, "scores and sums over plain rows: residual, sinks, heavy hitters, dequantized blocks")         \
    X(rotate, "Hadamard transforms")                                                                         \
    X(dequantize, "blocks and rows made floats")                                                             \
    X(other, "the rest: calls, set-up, control, checks, and what codecs do outside of kernels")

enum phase {
#define PHASE(name, what) PHASE_##name,
    PHASES(PHASE)
#undef PHASE
        N_PHASES,
    N_TIMED = PHASE_other,
};

/* ---- the clock ---- */

static inline uint64_t ticks(void)
{
#if defined(__x86_64__)
    return __rdtsc();
#elif defined(__aarch64__)
    uint64_t t;
    __asm__ volatile("mrs %0, cntvct_el0" : "=r"(t));
    return t;
#else
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return (uint64_t)t.tv_sec * 1000000000u + (uint64_t)t.tv_nsec;
#endif
}

/* What the wrappers have counted; one thread at a time. */
static struct {
    uint64_t ticks, calls;
} spent[N_TIMED];

static inline void add(enum phase phase, uint64_t start)
{
    spent[phase].ticks += ticks() - start;
    spent[phase].calls++;
}

/* Ticks that an empty phase takes: what the clock adds to each call. */
static double own_ticks(void)
{
    enum { N = 100, REPEATS = 100 };
    double least = INFINITY;
    for (int i = 0; i < REPEATS; i++) {
        uint64_t sum = 0;
        for (int j = 0; j < N; j++) {
            const uint64_t start = ticks();
            sum += ticks() - start;
        }
        least = fmin(least, (double)sum / N);
    }
    return least;
}

/* ---- the kernels ---- */

static const kvq_kernels *inner; /* what is measured */

/* Types (A, B ...) as parameters (A a, B b ...), and their names as arguments. */
#define PARAMETERS_1(A)                                   A a
#define PARAMETERS_2(A, B)                                PARAMETERS_1(A), B b
#define PARAMETERS_3(A, B, C)                             PARAMETERS_2(A, B), C c
#define PARAMETERS_4(A, B, C, D)                          PARAMETERS_3(A, B, C), D d
#define PARAMETERS_5(A, B, C, D, E)                       PARAMETERS_4(A, B, C, D), E e
#define PARAMETERS_6(A, B, C, D, E, F)                    PARAMETERS_5(A, B, C, D, E), F f
#define PARAMETERS_7(A, B, C, D, E, F, G)                 PARAMETERS_6(A, B, C, D, E, F), G g
#define PARAMETERS_8(A, B, C, D, E, F, G, H)              PARAMETERS_7(A, B, C, D, E, F, G), H h
#define PARAMETERS_9(A, B, C, D, E, F, G, H, I)           PARAMETERS_8(A, B, C, D, E, F, G, H), I i
#define PARAMETERS_10(A, B, C, D, E, F, G, H, I, J)       PARAMETERS_9(A, B, C, D, E, F, G, H, I), J j
#define PARAMETERS_11(A, B, C, D, E, F, G, H, I, J, K)    PARAMETERS_10(A, B, C, D, E, F, G, H, I, J), K k
#define PARAMETERS_12(A, B, C, D, E, F, G, H, I, J, K, L) PARAMETERS_11(A, B, C, D, E, F, G, H, I, J, K), L l

#define ARGUMENTS_1  a
#define ARGUMENTS_2  ARGUMENTS_1, b
#define ARGUMENTS_3  ARGUMENTS_2, c
#define ARGUMENTS_4  ARGUMENTS_3, d
#define ARGUMENTS_5  ARGUMENTS_4, e
#define ARGUMENTS_6  ARGUMENTS_5, f
#define ARGUMENTS_7  ARGUMENTS_6, g
#define ARGUMENTS_8  ARGUMENTS_7, h
#define ARGUMENTS_9  ARGUMENTS_8, i
#define ARGUMENTS_10 ARGUMENTS_9, j
#define ARGUMENTS_11 ARGUMENTS_10, k
#define ARGUMENTS_12 ARGUMENTS_11, l

#define NTH(a, b, c, d, e, f, g, h, i, j, k, l, n, ...) n

/* How many there are, up to 12. */
#define COUNT(...) NTH(__VA_ARGS__, 12, 11, 10, 9, 8, 7, 6, 5, 4, 3, 2, 1, 0)

#define JOIN_(a, b)     a##b
#define JOIN(a, b)      JOIN_(a, b)
#define PARAMETERS(...) JOIN(PARAMETERS_, COUNT(__VA_ARGS__))(__VA_ARGS__)
#define ARGUMENTS(...)  JOIN(ARGUMENTS_, COUNT(__VA_ARGS__))

#define TAKES_PLACE(slot)                                                                                    \
    static void time_##slot(kvq_kernels *table)                                                              \
    {                                                                                                        \
        _Static_assert(_Generic(table->slot, __typeof__(&timed_##slot) : 1, default : 0),                    \
                       "the types of " #slot " in kernels.h are others");                                    \
        table->slot = timed_##slot;                                                                          \
    }
/* TIMED(phase, slot, types of its parameters); TIMED_VALUE for what returns a float. */
#define TIMED(phase, slot, ...)                                                                              \
    static void timed_##slot(PARAMETERS(__VA_ARGS__))                                                        \
    {                                                                                                        \
        const uint64_t start = ticks();                                                                      \
        inner->slot(ARGUMENTS(__VA_ARGS__));                                                                 \
        add(PHASE_##phase, start);                                                                           \
    }                                                                                                        \
    TAKES_PLACE(slot)
#define TIMED_VALUE(phase, slot, ...)                                                                        \
    static float timed_##slot(PARAMETERS(__VA_ARGS__))                                                       \
    {                                                                                                        \
        const uint64_t start = ticks();                                                                      \
        const float value = inner->slot(ARGUMENTS(__VA_ARGS__));                                             \
        add(PHASE_##phase, start);                                                                           \
        return value;                                                                                        \
    }                                                                                                        \
    TAKES_PLACE(slot)
/* NOT_TIMED(slot): no part of a step, or `other` by its nature. */
#define NOT_TIMED(slot)                                                                                      \
    static void time_##slot(kvq_kernels *table)                                                              \
    {                                                                                                        \
        (void)table;                                                                                         \
    }

typedef const kvq_layout *layout;
typedef const kvq_run *runs;
typedef const uint8_t *bytes;
typedef const uint16_t *halves;
typedef const float *floats;
typedef const int8_t *weights;
typedef float *out;
typedef int8_t *folded;

/* clang-format off */
TIMED(fold, fold_keys, layout, bytes, size_t, floats, size_t, bool, folded, out, out)
TIMED(fold, fold_values, layout, bytes, size_t, floats, size_t, bool, folded, out, out, out)
TIMED(fold, fold_ordered, const kvq_ordered *, floats, size_t, bool, folded, out, out)
TIMED(fold, fold_products, const kvq_log_scales *, size_t, floats, size_t, bool, out, folded, kvq_fold *)
TIMED(score, score_runs, runs, size_t, bytes, kvq_next, size_t, weights, floats, floats, size_t, out)
TIMED_VALUE(softmax, max_f32, floats, size_t)
TIMED_VALUE(softmax, exp2_sum_f32, out, size_t, float)
TIMED(accumulate, accumulate_folded, layout, bytes, kvq_next, size_t, weights, floats, floats, size_t, out)
TIMED(accumulate, accumulate_levels, const kvq_block_codes *, floats, floats, size_t, size_t, out)
TIMED(window, dot_f32, floats, size_t, size_t, kvq_next, floats, size_t, size_t, out)
TIMED(window, dot_f16, halves, size_t, size_t, kvq_next, floats, size_t, size_t, out)
TIMED(window, dot_i8, bytes, size_t, size_t, kvq_next, floats, size_t, size_t, out)
TIMED(window, accumulate_f32, floats, size_t, size_t, kvq_next, floats, size_t, size_t, out)
TIMED(window, accumulate_f16, halves, size_t, size_t, kvq_next, floats, size_t, size_t, out)
TIMED(window, accumulate_i8, bytes, size_t, size_t, kvq_next, floats, size_t, size_t, out)
TIMED(rotate, hadamard_f32, out, size_t)
TIMED(dequantize, dequantize_affine, layout, bytes, size_t, size_t, out, size_t)
TIMED(dequantize, dequantize_levels, const kvq_token_codes *, floats, float, floats, size_t, out)
TIMED(dequantize, convert_f16_f32, halves, size_t, out)
TIMED(dequantize, convert_i8_f32, bytes, size_t, out)
NOT_TIMED(all_finite_f32)
NOT_TIMED(convert_f32_f16)
NOT_TIMED(convert_f32_bf16)
NOT_TIMED(convert_bf16_f32)
NOT_TIMED(convert_f32_i8)
NOT_TIMED(encode_affine_channel)
NOT_TIMED(encode_affine_token)
NOT_TIMED(channel_stats)
NOT_TIMED(fit_channels)
NOT_TIMED(fit_channel)
NOT_TIMED(rotate_row)
NOT_TIMED(subtract_rows_f64)
NOT_TIMED(add_moment_f32)
NOT_TIMED(choose_levels)
/* clang-format on */

static void (*const time_slots[])(kvq_kernels *table) = {
#define ENTRY(slot) time_##slot,
    KVQ_KERNEL_LIST(ENTRY)
#undef ENTRY
};

static kvq_kernels table; /* what the caches' calls go through */

static void set_table(bool timed)
{
    table = *inner;
    table.isa = "phases";
    for (size_t i = 0; timed && i < sizeof time_slots / sizeof time_slots[0]; i++)
        time_slots[i](&table);
}

/* ---- samples ---- */

/* What one scheme has given: microseconds per step of one layer. */
typedef struct phase_samples {
    bench_sample us, phase_us[N_TIMED];
    bench_sample spoiled, phase_spoiled[N_TIMED]; /* by interruptions (cell.h) */
    double calls[N_TIMED];                        /* per step of one layer */
    size_t n_rounds;
} phase_samples;

static void samples_free(phase_samples *s)
{
    bench_sample_free(&s->us);
    bench_sample_free(&s->spoiled);
    for (size_t i = 0; i < N_TIMED; i++) {
        bench_sample_free(&s->phase_us[i]);
        bench_sample_free(&s->phase_spoiled[i]);
    }
}

static bool sample_whole(const bench_cell *c, const bench_competitor *who, phase_samples *s, eval_error *e)
{
    set_table(false);
    return bench_cell_walk(c, who, &s->us, &s->spoiled, e);
}

static bool sample_parts(const bench_cell *c, const bench_competitor *who, phase_samples *s, eval_error *e)
{
    set_table(true);
    const double own = own_ticks();
    for (size_t i = 0; i < who->n_walks * c->n_layers; i++) {
        memset(spent, 0, sizeof spent);
        const long before = bench_interruptions(1);
        const double start = progress_now();
        const uint64_t start_ticks = ticks();
        if (!bench_cell_step(c, who, i % c->n_layers, e))
            return false;
        const double n_ticks = (double)(ticks() - start_ticks), us = (progress_now() - start) * 1e6;
        const bool spoiled = bench_interruptions(1) != before;
        for (size_t phase = 0; phase < N_TIMED; phase++) {
            const double net = fmax(0.0, (double)spent[phase].ticks - own * (double)spent[phase].calls);
            s->calls[phase] = (double)spent[phase].calls;
            if (!bench_sample_add(spoiled ? &s->phase_spoiled[phase] : &s->phase_us[phase],
                                  net * us / n_ticks))
                return eval_fail(e, "out of memory");
        }
    }
    return true;
}

/* All schemes of a cell in turns; in each turn the whole and the parts, each of them first every other
 * time. */
static bool take_samples(bench_cell *c, phase_samples *samples, progress *p, double done, eval_error *e)
{
    const double start = progress_now();
    for (size_t round = 0; bench_cell_goes_on(c->options, round, start); round++) {
        for (size_t i = 0; i < c->n_competitors; i++) {
            bench_competitor *who = &c->competitors[i];
            set_table(false);
            if (!bench_cell_warm(c, who, e))
                return false;
            const bool good =
                round % 2 == 0 ? sample_whole(c, who, &samples[i], e) && sample_parts(c, who, &samples[i], e)
                               : sample_parts(c, who, &samples[i], e) && sample_whole(c, who, &samples[i], e);
            if (!good)
                return false;
            samples[i].n_rounds++;
            progress_update(p, "phases", done);
        }
    }
    bool good = true;
    for (size_t i = 0; good && i < c->n_competitors; i++) {
        phase_samples *s = &samples[i];
        good = bench_cell_settle(&s->us, &s->spoiled, e);
        for (size_t phase = 0; good && phase < N_TIMED; phase++)
            good = bench_cell_settle(&s->phase_us[phase], &s->phase_spoiled[phase], e);
    }
    return good;
}

/* ---- the report ---- */

/* Columns of a phase; N_TIMED would have no calls to count. */
#define PHASE_COLUMNS(name, what)                                                                            \
    {#name "_us", NULL, 2}, {#name "_ns", #name "|ns", 2}, {#name "_percent", "|%", 0},                      \
        {#name "_calls", NULL, 0},

static void put_row(bench_table *t, const bench_cell *c, const bench_competitor *who, const char *isa,
                    const phase_samples *s)
{
    const double total = BENCH_MEDIAN(&s->us), units = bench_cell_units(c);
    double rest = total;
    char shape[64];
    bench_shape_print(c->shape, shape, sizeof shape);
    bench_put_text(t, shape);
    bench_put_number(t, (double)c->shape.head_dim);
    bench_put_number(t, (double)c->shape.n_heads);
    bench_put_number(t, (double)c->shape.n_kv_heads);
    bench_put_number(t, (double)c->n_tokens);
    bench_put_number(t, (double)c->n_q);
    bench_put_text(t, who->source->text);
    bench_put_text(t, isa);
    bench_put_text(t, bench_cell_precision(who));
    bench_put_sample(t, &s->us);
    bench_put_number(t, total * 1e3 / units);
    for (size_t i = 0; i < N_PHASES; i++) {
        const double us = i < N_TIMED ? BENCH_MEDIAN(&s->phase_us[i]) : rest;
        rest -= us;
        bench_put_number(t, us);
        bench_put_number(t, us * 1e3 / units);
        bench_put_number(t, 100.0 * us / total);
        bench_put_number(t, i < N_TIMED ? s->calls[i] : NAN);
    }
    bench_put_number(t, (double)c->n_layers);
    bench_put_number(t, (double)s->n_rounds);
}

/* The first scheme over the longest context of this shape. */
static void say_phases(bench_report *r, const bench_cell *c, const phase_samples *s, const char *isa)
{
    static const char *const names[] = {
#define NAME(name, what) #name,
        PHASES(NAME)
#undef NAME
    };
    const double total = BENCH_MEDIAN(&s->us);
    double rest = total;
    char shape[64], text[BENCH_LINE_SIZE / 2] = "";
    bench_shape_print(c->shape, shape, sizeof shape);
    for (size_t i = 0; i < N_PHASES; i++) {
        const double us = i < N_TIMED ? BENCH_MEDIAN(&s->phase_us[i]) : rest;
        const size_t used = strlen(text);
        rest -= us;
        if (fabs(us) >= 0.005 * total)
            snprintf(text + used, sizeof text - used, "%s%s %.0f %%", used > 0 ? ", " : "", names[i],
                     100.0 * us / total);
    }
    bench_headline(r, "%s over %zu tokens of %s (D x KV heads; %s, 1 thread), %.1f us: %s.",
                   c->sources[0].text, c->n_tokens, shape, isa, total, text);
}

static bool measure_cell(const bench_options *o, bench_report *r, bench_cell *c, size_t cell, size_t isa,
                         bool *skipped, progress *p, double done, eval_error *e)
{
    const bench_shape shape = o->shapes[cell / o->n_tokens];
    const size_t n_tokens = o->tokens[cell % o->n_tokens];
    inner = kvq_kernels_for_isa(o->isas[isa]);
    set_table(false);
    phase_samples *samples = calloc(o->n_schemes, sizeof samples[0]);
    bool good = (samples || eval_fail(e, "out of memory")) &&
                bench_cell_open(c, r, o, shape, n_tokens, table.isa, skipped, e);
    if (good && !*skipped) {
        good = take_samples(c, samples, p, done, e);
        size_t longest = 0;
        for (size_t i = 0; i < o->n_tokens; i++)
            longest = o->tokens[i] > o->tokens[longest] ? i : longest;
        for (size_t i = 0; good && i < c->n_competitors; i++)
            put_row(&r->tables[0], c, &c->competitors[i], o->isas[isa], &samples[i]);
        if (good && isa == 0 && cell % o->n_tokens == longest)
            say_phases(r, c, &samples[0], o->isas[isa]);
    }
    for (size_t i = 0; samples && i < o->n_schemes; i++)
        samples_free(&samples[i]);
    free(samples);
    bench_cell_free(c);
    return good;
}

static void add_notes(bench_report *r, const bench_options *o)
{
    bench_note(
        r,
        "A step is %zu quer%s over one layer, with KVQ_PRECISION_FAST asked for; precision is what ran. The "
        "caches of all layers are walked in turn. "
        "us is the median of walks without any clock; between them, walks with a clock around each kernel "
        "give "
        "the phases. ns and %% are of the same medians; ns per %s.",
        o->n_queries, o->n_queries == 1 ? "y" : "ies, the last tokens,",
        o->n_queries == 1 ? "token and KV head" : "query, token and query head");
#define NOTE(name, what) bench_note(r, "%s: %s.", #name, what);
    PHASES(NOTE)
#undef NOTE
    bench_note(r,
               "The clock's own time is taken off (%.0f ticks a call). What a processor does at once is "
               "counted where "
               "it ends, so a phase of many short calls may be some per cent off, and other, which is the "
               "whole without "
               "the rest, a little under 0.",
               own_ticks());
}

bool bench_phases(const bench_options *o, bench_report *r, progress *p, eval_error *e)
{
    static const bench_column columns[] = {
        {"shape", "shape", BENCH_TEXT},
        {"head_dim", NULL, 0},
        {"n_heads", NULL, 0},
        {"n_kv_heads", NULL, 0},
        {"tokens", "tokens", 0},
        {"queries", "que-|ries", 0},
        {"scheme", "scheme", BENCH_TEXT},
        {"isa", "ISA", BENCH_TEXT},
        {"precision", "preci-|sion", BENCH_TEXT},
        {"us", "us per|step", 1},
        {"us_p10", NULL, 1},
        {"us_p90", NULL, 1},
        {"ns", "ns", 2},
        PHASES(PHASE_COLUMNS){"n_layers", NULL, 0},
        {"rounds", NULL, 0},
    };
    bench_add_table(r, "phases", "The parts of one step of one layer", columns,
                    sizeof columns / sizeof columns[0], 5)
        ->noise = "us";
    r->main_table = 0;
    bench_cell *c = calloc(1, sizeof *c);
    bool good = c || eval_fail(e, "out of memory");
    const size_t n_cells = o->n_shapes * o->n_tokens, n = n_cells * o->n_isas;
    size_t n_skipped = 0;
    kvq_kernels_offer(&table);
    for (size_t i = 0; good && i < n; i++) {
        bool skipped = false;
        good = measure_cell(o, r, c, i / o->n_isas, i % o->n_isas, &skipped, p, (double)i / (double)n, e);
        n_skipped += skipped;
    }
    kvq_kernels_offer(NULL);
    free(c);
    if (good && n_skipped == n)
        good = bench_nothing_measured(r, e);
    add_notes(r, o);
    return good;
}
