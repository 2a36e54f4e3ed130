/* Where greedy text differs first: found without letting schemes write, it is where texts that they do write,
 * token by token, differ; medians of hand-made lists; what is left of work that was stopped; --greedy as a
 * user runs it. */
#define _XOPEN_SOURCE 700

#include "eval/measure/divergence.h"
#include "eval/measure/generate.h"
#include "eval/model/inputs.h"
#include "tests/support.h"
#include "tests/tool.h"

#include <omp.h>

#define MODEL DATA "/gpt2-6m"
#define TEXT  DATA "/sample.txt"

static inputs load(size_t n_windows, size_t n_tokens)
{
    inputs in;
    eval_error e;
    progress line = {.shown = false};
    const inputs_request request = {.model = MODEL, .text = TEXT, .windows = n_windows, .tokens = n_tokens};
    cr_assert(inputs_load(&in, &request, &line, &e), "%s", e.text);
    return in;
}

/* Threads inside a step of a small model wait for each other, on a busy machine for most of the time. */
static void one_thread(void)
{
    omp_set_num_threads(1);
}

/* ---- against texts that schemes write ---- */

enum { N_SCHEMES = 8 };
static const char *const scheme_texts[N_SCHEMES] = {
    "kivi2,r=32", "fp32",         "kivi1,r=32",          "kvq2,s=0", "kivi2,r=0,mode=sliding",
    "kivi4,r=32", "k=1,v=8,r=32", "kivi1,r=32+0-2=kivi4"};

/* The run of the i-th scheme: fp32's is the first. */
static size_t run_of(size_t i)
{
    return i == 0 ? 1 : i == 1 ? 0 : i;
}

static divergence measured(const inputs *in, kvq_precision precision, int n_threads, size_t n_prompt,
                           size_t n)
{
    kvq_scheme *schemes[N_SCHEMES];
    for (size_t i = 0; i < N_SCHEMES; i++)
        schemes[i] = scheme_of(scheme_texts[i]);
    const evaluate_config config = {.model = in->model,
                                    .ids = in->ids,
                                    .n_windows = in->n_windows,
                                    .n_tokens = in->n_tokens,
                                    .schemes = schemes,
                                    .n_schemes = N_SCHEMES,
                                    .precision = precision,
                                    .n_threads = n_threads};
    divergence d;
    eval_error e;
    cr_assert(divergence_measure(&d, &config, n_prompt, n, &e), "%s", e.text);
    cr_assert(d.n_runs == N_SCHEMES && d.n == n && d.n_prompt == n_prompt && d.n_windows == in->n_windows &&
              d.n_windows_asked == in->n_windows);
    for (size_t window = 0; window < d.n_windows; window++)
        cr_expect_eq(d.runs[0].first[window], n, "fp32 differs from itself");
    return d;
}

static void write_with(const inputs *in, const char *scheme, kvq_precision precision, size_t window,
                       size_t n_prompt, size_t n, int32_t *ids)
{
    eval_error e;
    double seconds;
    bool packed;
    const generate_config config = {.model = in->model,
                                    .scheme = scheme_of(scheme),
                                    .ids = in->ids + window * in->n_tokens,
                                    .n_prompt = n_prompt,
                                    .n_tokens = n,
                                    .precision = precision};
    cr_assert(generate(&config, ids, &seconds, &packed, &e), "%s", e.text);
}

static size_t n_same(const int32_t *a, const int32_t *b, size_t n)
{
    size_t i = 0;
    while (i < n && a[i] == b[i])
        i++;
    return i;
}

/* How many tokens a scheme writes like fp32 in the arithmetic of evaluate: its choice after each step becomes
 * the next token before all is run again, over as many tokens each time, so that matrix products round alike.
 * A step's results depend on no later token; those are 0 here. fp32: a prompt and what fp32 writes after it.
 */
static size_t written_by_evaluating(const inputs *in, const char *scheme_text, const int32_t *fp32,
                                    size_t n_prompt, size_t n)
{
    kvq_scheme *const scheme = scheme_of(scheme_text);
    int32_t *ids = calloc(n_prompt + n, sizeof ids[0]);
    cr_assert_not_null(ids);
    memcpy(ids, fp32, (n_prompt + 1) * sizeof ids[0]); /* the prompt chooses the first */
    const evaluate_config config = {.model = in->model,
                                    .ids = ids,
                                    .n_windows = 1,
                                    .n_tokens = n_prompt + n,
                                    .n_prompt = n_prompt,
                                    .propagated_only = true,
                                    .schemes = &scheme,
                                    .n_schemes = 1,
                                    .n_threads = 1};
    size_t i = 1;
    for (; i < n && ids[n_prompt + i - 1] == fp32[n_prompt + i - 1]; i++) {
        evaluation ev;
        eval_error e;
        cr_assert(evaluate(&ev, &config, &e), "%s", e.text);
        ids[n_prompt + i] = ev.runs[ev.n_runs - 1].steps[i - 1].best;
        evaluation_free(&ev);
    }
    i = n_same(ids + n_prompt, fp32 + n_prompt, n);
    free(ids);
    return i;
}

Test(divergence, is_exactly_where_a_text_written_in_the_same_arithmetic_differs, .init = one_thread,
     .disabled = SANITIZED)
{
    enum { P = 40, N = 8, WINDOWS = 2 };
    inputs in = load(WINDOWS, P + N);
    divergence d = measured(&in, KVQ_PRECISION_FAST, 1, P, N);
    size_t n_differ = 0;
    for (size_t window = 0; window < WINDOWS; window++) {
        int32_t fp32[P + N];
        memcpy(fp32, in.ids + window * (P + N), P * sizeof fp32[0]);
        write_with(&in, "fp32", KVQ_PRECISION_FAST, window, P, N, fp32 + P);
        for (size_t i = 0; i < N_SCHEMES; i++) {
            const size_t found = d.runs[run_of(i)].first[window],
                         written = written_by_evaluating(&in, scheme_texts[i], fp32, P, N);
            cr_expect_eq(found, written, "%s, window %zu: found %zu, written %zu", scheme_texts[i], window,
                         found, written);
            n_differ += written < N;
        }
    }
    cr_expect(n_differ >= 4 && n_differ <= WINDOWS * (N_SCHEMES - 2), "%zu texts differ: both must be seen",
              n_differ);
    divergence_free(&d);
    inputs_free(&in);
}

/* Token by token matrix products round otherwise, which lets a number near the middle of two codes have the
 * other one. Measured: one of these 42 texts, or none, by the number of threads, and one of 108 others of 90
 * tokens differed elsewhere, always of a scheme of one bit. Hence two may. */
Test(divergence, is_where_texts_written_token_by_token_differ, .init = one_thread, .disabled = SANITIZED)
{
    enum { TOKENS = 200, N = 40, WINDOWS = 2, N_CASES = 3 };
    static const struct {
        size_t n_prompt;
        kvq_precision precision;
        int n_threads;
    } cases[N_CASES] = {
        {1, KVQ_PRECISION_FAST, 2}, {100, KVQ_PRECISION_FAST, 1}, {TOKENS - N, KVQ_PRECISION_EXACT, 0}};
    inputs in = load(WINDOWS, TOKENS);
    size_t n_differ = 0, n_other = 0;
    for (size_t c = 0; c < N_CASES; c++) {
        const size_t P = cases[c].n_prompt;
        divergence d = measured(&in, cases[c].precision, cases[c].n_threads, P, N);
        for (size_t window = 0; window < WINDOWS; window++) {
            int32_t fp32[N], own[N];
            write_with(&in, "fp32", cases[c].precision, window, P, N, fp32);
            for (size_t i = 0; i < N_SCHEMES; i++) {
                if (i == 1)
                    continue;
                write_with(&in, scheme_texts[i], cases[c].precision, window, P, N, own);
                const size_t found = d.runs[run_of(i)].first[window], written = n_same(own, fp32, N);
                n_differ += written < N;
                n_other += found != written;
                if (found != written)
                    fprintf(stderr, "%s, window %zu, prompt %zu: found %zu, written %zu\n", scheme_texts[i],
                            window, P, found, written);
            }
        }
        divergence_free(&d);
    }
    const size_t n_texts = N_CASES * WINDOWS * (N_SCHEMES - 1);
    fprintf(stderr, "%zu of %zu texts differ, %zu elsewhere than found\n", n_differ, n_texts, n_other);
    cr_expect(n_differ > n_texts / 4 && n_differ < n_texts, "%zu of %zu texts differ: both must be seen",
              n_differ, n_texts);
    cr_expect_leq(n_other, 2);
    inputs_free(&in);
}

/* Without local caches the runs that feed themselves are the same. */
Test(divergence, propagated_only_leaves_them_as_they_are)
{
    inputs in = load(2, 70);
    kvq_scheme *const schemes[] = {scheme_of("kivi1,r=32"), scheme_of("kvq2,r=0,s=0")};
    evaluate_config config = {.model = in.model,
                              .ids = in.ids,
                              .n_windows = 2,
                              .n_tokens = 70,
                              .n_prompt = 20,
                              .schemes = schemes,
                              .n_schemes = 2};
    evaluation whole, part;
    eval_error e;
    cr_assert(evaluate(&whole, &config, &e), "%s", e.text);
    config.propagated_only = true;
    cr_assert(evaluate(&part, &config, &e), "%s", e.text);
    cr_assert_eq(part.n_runs, 3);
    for (size_t i = 0; i < 3; i++) {
        const evaluate_run *a = &whole.runs[i], *b = &part.runs[i];
        cr_expect(a->kld_mean == b->kld_mean && a->kld_p99 == b->kld_p99 && a->top1 == b->top1 &&
                  a->ppl == b->ppl && (i == 0 || b->kld_mean > 0.0));
        for (size_t t = 0; t < 100; t++)
            cr_expect(a->steps[t].best == b->steps[t].best && a->steps[t].kl == b->steps[t].kl &&
                      a->steps[t].nll == b->steps[t].nll);
        cr_expect(b->k_rel_l2 == 0.0 && b->attn_rel_l2 == 0.0 && (i == 0 || b->usage.total == 0));
    }
    evaluation_free(&whole);
    evaluation_free(&part);
    inputs_free(&in);
}

/* The shortest text, and a residual that holds all of it. */
Test(divergence, two_tokens_and_a_scheme_that_packs_nothing)
{
    inputs in = load(1, 60);
    kvq_scheme *const schemes[] = {scheme_of("kivi1,r=0,mode=sliding"), scheme_of("kivi2,r=64")};
    const evaluate_config config = {
        .model = in.model, .ids = in.ids, .n_windows = 1, .n_tokens = 60, .schemes = schemes, .n_schemes = 2};
    divergence d;
    eval_error e;
    cr_assert(divergence_measure(&d, &config, 58, 2, &e), "%s", e.text);
    cr_expect_eq(d.n_runs, 3, "fp32, which was not asked for, among them");
    cr_expect_eq(d.runs[0].first[0], 2);
    cr_expect(d.runs[1].first[0] >= 1 && d.runs[1].first[0] <= 2, "the first token follows an exact prompt");
    cr_expect_eq(d.runs[2].first[0], 2);
    divergence_free(&d);
    cr_assert(divergence_measure(&d, &config, 1, 59, &e), "%s", e.text);
    cr_expect_eq(d.runs[2].first[0], 59);
    divergence_free(&d);
    inputs_free(&in);
}

Test(divergence, medians)
{
    static const struct {
        size_t first[5], n_windows, median;
    } cases[] = {
        {{7}, 1, 7},          {{100}, 1, 100},           {{9, 4}, 2, 4},
        {{100, 4}, 2, 4},     {{3, 9, 5}, 3, 5},         {{100, 9, 100}, 3, 100},
        {{8, 2, 6, 4}, 4, 4}, {{100, 2, 100, 6}, 4, 6},  {{100, 2, 100, 100}, 4, 100},
        {{5, 5, 5, 5}, 4, 5}, {{1, 2, 2, 50, 60}, 5, 2}, {{100, 3, 100, 2, 9}, 5, 9},
        {{0}, 0, 100},
    };
    for (size_t i = 0; i < sizeof cases / sizeof cases[0]; i++)
        cr_expect_eq(divergence_median(cases[i].first, cases[i].n_windows, 100), cases[i].median, "case %zu",
                     i);
}

/* ---- stopping ---- */

/* Says stop after so many steps. */
static bool after(void *ctx)
{
    size_t *n_left = ctx;
    if (*n_left == 0)
        return true;
    (*n_left)--;
    return false;
}

static void note_fraction(void *ctx, double fraction)
{
    double *last = ctx;
    cr_expect(fraction >= *last && fraction <= 1.0 + 1e-9, "%g after %g", fraction, *last);
    *last = fraction;
}

Test(divergence, a_stop_leaves_the_windows_that_are_done, .init = one_thread)
{
    inputs in = load(3, 60);
    kvq_scheme *const scheme = scheme_of("kivi1,r=32");
    double fraction = 0.0;
    size_t n_left = SIZE_MAX;
    const size_t n_prompt = 40, n = 20;
    const evaluate_config config = {.model = in.model,
                                    .ids = in.ids,
                                    .n_windows = 3,
                                    .n_tokens = 60,
                                    .schemes = &scheme,
                                    .n_schemes = 1,
                                    .n_threads = 1,
                                    .progress = note_fraction,
                                    .progress_ctx = &fraction,
                                    .stop = after,
                                    .stop_ctx = &n_left};
    divergence whole, d;
    eval_error e;
    cr_assert(divergence_measure(&whole, &config, n_prompt, n, &e), "%s", e.text);
    cr_expect_float_eq(fraction, 1.0, 1e-9);
    /* tokens; then layers of prompt and tokens, of the reference and of the scheme that feeds itself */
    const size_t writing = 3 * n, per_window = 6 * (1 + n) * 2;
    for (size_t halves = 0; halves <= 6; halves++) {
        n_left = halves == 0 ? writing / 2 : writing + halves * per_window / 2;
        fraction = 0.0;
        cr_assert(divergence_measure(&d, &config, n_prompt, n, &e), "%s", e.text);
        cr_expect_eq(d.n_windows, halves / 2, "%zu halves: %zu windows", halves, d.n_windows);
        cr_expect_eq(d.n_windows_asked, 3);
        for (size_t i = 0; i < d.n_windows; i++)
            cr_expect_eq(d.runs[1].first[i], whole.runs[1].first[i]);
        cr_expect((d.runs == NULL) == (d.n_windows == 0) && d.n == n && d.n_prompt == n_prompt);
        divergence_free(&d);
    }
    divergence_free(&whole);
    inputs_free(&in);
}

/* ---- as a user runs it ---- */

#define FEW_BITS "--scheme kivi1,r=32 --scheme kivi2,r=32 --scheme k=1,v=8,r=32 --quiet "

/* The first window's text is what --generate writes after the same prompt. */
Test(divergence, json_says_what_generate_writes, .init = enter, .fini = leave)
{
    cr_assert_eq(run("$E " FEW_BITS "--windows 2 --tokens 300 --prompt 120 --greedy 150 --json g.json"), 0,
                 "%s", err);
    cr_assert(
        strstr(out, "Greedy text, 150 tokens after a prompt of 120 in each of 2 windows: tokens as fp32"),
        "%s", out);
    cr_assert_eq(run("$E " FEW_BITS "--generate 150 --prompt 120 --json w.json"), 0, "%s", err);
    static char text[1 << 18];
    read_file("g.json", text, sizeof text);
    json_t *measured = load_json(text);
    read_file("w.json", text, sizeof text);
    json_t *written = load_json(text);
    cr_assert(json_is_false(json_object_get(measured, "partial")));
    const json_t *runs = json_object_get(measured, "runs"), *texts = json_object_get(written, "runs");
    cr_assert(json_array_size(runs) == 4 && json_array_size(texts) == 4);
    for (size_t i = 0; i < 4; i++) {
        const json_t *greedy = json_object_get(json_array_get(runs, i), "greedy");
        const json_t *first = json_object_get(greedy, "first_difference"),
                     *median = json_object_get(greedy, "median");
        cr_expect_eq(json_object_size(greedy), 4);
        cr_expect_eq(json_integer_value(json_object_get(greedy, "n")), 150);
        cr_expect_eq(json_integer_value(json_object_get(greedy, "n_prompt")), 120);
        cr_assert_eq(json_array_size(first), 2);
        const json_t *a = json_array_get(first, 0), *b = json_array_get(first, 1);
        cr_expect(json_equal(a, json_object_get(json_array_get(texts, i), "first_difference")),
                  "run %zu differs from what is written", i);
        cr_expect(i > 0 || (json_is_null(a) && json_is_null(b) && json_is_null(median)), "fp32");
        const json_int_t x = json_is_null(a) ? 150 : json_integer_value(a),
                         y = json_is_null(b) ? 150 : json_integer_value(b), least = x < y ? x : y;
        cr_expect(least == 150 ? json_is_null(median) : json_integer_value(median) == least);
    }
    json_decref(measured);
    json_decref(written);
}

/* Without --prompt: half of what is left, and what is measured otherwise stays what it was. */
Test(divergence, the_prompt_is_half_of_what_is_left, .init = enter, .fini = leave)
{
    static char plain[1 << 16];
    cr_assert_eq(run("$E " SMALL "--csv -"), 0, "%s", err);
    strcpy(plain, strchr(out, '\n'));
    cr_assert_eq(run("$E " SMALL "--greedy 19 --csv -"), 0, "%s", err);
    cr_expect_eq(strncmp(strstr(out, "\"kivi2"), strstr(plain, "\"kivi2"), 200), 0, "%s", out);
    cr_assert_eq(run("$E " SMALL "--greedy 19"), 0, "%s", err);
    cr_expect(strstr(out, "Greedy text, 19 tokens after a prompt of 31 in 1 window: "), "%s", out);
    cr_assert_eq(run("$E " SMALL "--greedy 79 --json -"), 0, "%s", err);
    cr_expect(strstr(out, "\"n_prompt\": 1,"), "%s", out);
    cr_assert_eq(run("$E " SMALL "--json -"), 0, "%s", err);
    cr_expect(!strstr(out, "greedy"), "%s", out);
}

Test(divergence, what_cannot_be_is_refused, .init = enter, .fini = leave)
{
    static const struct {
        const char *arguments;
        int status;
        const char *wanted;
    } cases[] = {
        {"--greedy 1", 2, "--greedy: expected a whole number from 2 to"},
        {"--greedy 5 --generate 5", 2, "--greedy and --generate: the former measures"},
        {"--greedy 5 --kv some.npy", 2, "--kv and --greedy: a recording has no model to run"},
        {"--greedy 5 --model random:gpt2", 2, "--greedy means nothing for random weights"},
        {"--greedy 5 --append-only", 2, "--greedy and --append-only: prompts are not in full precision then"},
        {"--tokens 80 --greedy 80", 1,
         "--greedy 80: windows of 80 tokens have no room for a prompt before it\n"},
        {"--tokens 80 --greedy 2000", 1, "--greedy 2000: windows of 80 tokens have no room"},
        {"--tokens 80 --greedy 20 --prompt 0", 1,
         "--prompt 0: --greedy needs a prompt of at least 1 token\n"},
        {"--tokens 80 --greedy 20 --prompt 61", 1,
         "--greedy 20: with a prompt of 61 over the windows' 80 tokens\n"},
    };
    for (size_t i = 0; i < sizeof cases / sizeof cases[0]; i++) {
        cr_expect_eq(run("$E --windows 1 --json r.json %s", cases[i].arguments), cases[i].status, "%s: %s",
                     cases[i].arguments, err);
        cr_expect(strstr(err, cases[i].wanted), "%s: %s", cases[i].arguments, err);
        cr_expect(out[0] == '\0' && n_files() == 0, "%s", cases[i].arguments);
    }
}
