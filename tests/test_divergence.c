/* Where greedy text differs first: found without letting schemes write, it is where texts that they do write, token
 * by token, differ; medians of hand-made lists; what is left of work that was stopped; --greedy as a user runs it. */
#define _XOPEN_SOURCE 700

#include "eval/measure/divergence.h"
#include "eval/measure/generate.h"
#include "eval/model/inputs.h"
#include "tests/support.h"
#include "tests/tool.h"

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

/* ---- against texts that are written ---- */

static void write_text_with(const inputs *in, const kvq_scheme *scheme, kvq_precision precision,
                            size_t window, size_t n_prompt, size_t n, int32_t *out_ids)
{
    eval_error e;
    double seconds;
    bool packed;
    const generate_config config = {.model = in->model,
                                    .scheme = scheme,
                                    .ids = in->ids + window * in->n_tokens,
                                    .n_prompt = n_prompt,
                                    .n_tokens = n,
                                    .precision = precision};
    cr_assert(generate(&config, out_ids, &seconds, &packed, &e), "%s", e.text);
}

enum { N_WINDOWS = 4, N_TOKENS = 400, N_WRITTEN = 90 };
#define SCHEMES                                                                                              \
    {                                                                                                        \
        scheme_of("kivi2,r=32"), scheme_of("fp32"), scheme_of("kivi1,r=32"), scheme_of("kvq2"),              \
            scheme_of("kivi2,r=0,mode=sliding"), scheme_of("kivi4,r=32"), scheme_of("k=1,v=8,r=32"),         \
            scheme_of("kvq1.5,s=0"), scheme_of("kivi1,r=32+0-2=kivi4"), scheme_of("q4_0")                    \
    }
enum { N_SCHEMES = 10 };

/* What a prompt of n_prompt tokens of each window gives, each scheme by itself; returns how many texts differ. */
static size_t expect_as_written(const inputs *in, size_t n_prompt, kvq_precision precision, int n_threads)
{
    kvq_scheme *const schemes[] = SCHEMES;
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
    cr_assert(divergence_measure(&d, &config, n_prompt, N_WRITTEN, &e), "%s", e.text);
    cr_assert_eq(d.n_runs, N_SCHEMES);
    cr_assert(d.n == N_WRITTEN && d.n_prompt == n_prompt && d.n_windows == in->n_windows &&
              d.n_windows_asked == in->n_windows);
    size_t n_differ = 0;
    for (size_t window = 0; window < in->n_windows; window++) {
        int32_t fp32[N_WRITTEN], own[N_WRITTEN];
        write_text_with(in, schemes[1], precision, window, n_prompt, N_WRITTEN, fp32);
        cr_expect_eq(d.runs[0].first[window], N_WRITTEN, "fp32 differs from itself");
        for (size_t i = 0; i < N_SCHEMES; i++) {
            if (i == 1) /* fp32, which is the first run */
                continue;
            const size_t found = d.runs[i == 0 ? 1 : i].first[window];
            size_t n_same = 0;
            write_text_with(in, schemes[i], precision, window, n_prompt, N_WRITTEN, own);
            while (n_same < N_WRITTEN && own[n_same] == fp32[n_same])
                n_same++;
            cr_expect_eq(found, n_same, "%s, window %zu, prompt %zu: found %zu, written %zu",
                         kvq_scheme_text(schemes[i]), window, n_prompt, found, n_same);
            n_differ += n_same < N_WRITTEN;
        }
    }
    divergence_free(&d);
    return n_differ;
}

Test(divergence, is_where_texts_that_schemes_write_differ, .disabled = SANITIZED)
{
    static const struct {
        size_t n_prompt;
        kvq_precision precision;
        int n_threads;
    } cases[] = {{1, KVQ_PRECISION_FAST, 2},
                 {200, KVQ_PRECISION_FAST, 1},
                 {N_TOKENS - N_WRITTEN, KVQ_PRECISION_EXACT, 0}};
    inputs in = load(N_WINDOWS, N_TOKENS);
    size_t n_differ = 0;
    for (size_t i = 0; i < sizeof cases / sizeof cases[0]; i++)
        n_differ += expect_as_written(&in, cases[i].n_prompt, cases[i].precision, cases[i].n_threads);
    const size_t n_texts = N_WINDOWS * (N_SCHEMES - 1) * sizeof cases / sizeof cases[0];
    printf("%zu of %zu texts differ\n", n_differ, n_texts);
    cr_expect(n_differ > n_texts / 4 && n_differ < n_texts, "%zu of %zu texts differ: both must be seen",
              n_differ, n_texts);
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

Test(divergence, a_stop_leaves_the_windows_that_are_done)
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
