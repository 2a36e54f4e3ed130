/* Tuning: choices against all choices there are, texts, bytes; and a whole run on the default model. */
#define _XOPEN_SOURCE 700

#include "eval/common/splitmix.h"
#include "eval/measure/evaluate.h"
#include "eval/tune/choice.h"
#include "tests/support.h"
#include "tests/tool.h"

#include <criterion/criterion.h>
#include <jansson.h>
#include <math.h>
#include <stdlib.h>
#include <string.h>

/* ---- the greedy choice ---- */

enum { L = 3, N_EACH = CHOICE_N_K * CHOICE_N_V, N_ALL = N_EACH * N_EACH * N_EACH };

static double uniform(uint64_t *state)
{
    return (double)(splitmix64(5, ++*state) >> 11) * 0x1p-53;
}

/* Divergences that fall by about 4 for each bit, as real ones do, from different beginnings. */
static choice_table made_up(double *k, double *v, uint64_t *state)
{
    choice_table t = {.n_layers = L, .k_kl = k, .v_kl = v};
    for (size_t l = 0; l < L; l++) {
        const double k0 = exp(6.0 * uniform(state)), v0 = exp(6.0 * uniform(state));
        for (size_t i = 0; i < CHOICE_N_K; i++)
            k[l * CHOICE_N_K + i] = k0 * pow(4.0, -atof(choice_k_bits[i])) * (0.9 + 0.2 * uniform(state));
        for (size_t i = 0; i < CHOICE_N_V; i++)
            v[l * CHOICE_N_V + i] = v0 * pow(4.0, -atof(choice_v_bits[i])) * (0.9 + 0.2 * uniform(state));
    }
    for (size_t i = 0; i < CHOICE_N_K; i++)
        for (size_t j = 0; j < CHOICE_N_V; j++)
            t.bytes[i][j] = 10.0 * (atof(choice_k_bits[i]) + atof(choice_v_bits[j])) + 3.0;
    return t;
}

static void nth_choice(size_t n, choice *x)
{
    for (size_t l = 0; l < L; l++, n /= N_EACH)
        x[l] = (choice){n % N_EACH / CHOICE_N_V, n % CHOICE_N_V};
}

Test(choice, greedy_is_near_the_best_of_all_choices)
{
    double k[L * CHOICE_N_K], v[L * CHOICE_N_V];
    uint64_t state = 0;
    for (size_t round = 0; round < 12; round++) {
        const choice_table t = made_up(k, v, &state);
        const double budget = 105.0 + 170.0 * uniform(&state);
        choice mine[L], other[L];
        double best = INFINITY;
        for (size_t n = 0; n < N_ALL; n++) {
            nth_choice(n, other);
            if (choice_table_bytes(&t, other) <= budget)
                best = fmin(best, choice_table_kl(&t, other));
        }
        cr_assert(choice_greedy(mine, &t, budget));
        cr_expect_leq(choice_table_bytes(&t, mine), budget);
        /* Whole widths leave a rest that greedy cannot always spend: up to 1.6 times in these twelve; the
         * average layer by itself would be several times worse. */
        cr_expect_leq(choice_table_kl(&t, mine), 2.0 * best, "round %zu: %g, best %g", round,
                      choice_table_kl(&t, mine), best);
    }
}

Test(choice, greedy_says_when_nothing_fits_and_spends_all_there_is)
{
    double k[L * CHOICE_N_K], v[L * CHOICE_N_V];
    uint64_t state = 9;
    const choice_table t = made_up(k, v, &state);
    choice mine[L];
    cr_assert_not(choice_greedy(mine, &t, 98.9), "three layers at 33 bytes");
    cr_assert(choice_greedy(mine, &t, 99.0));
    for (size_t l = 0; l < L; l++)
        cr_assert(mine[l].k == 0 && mine[l].v == 0);
    cr_assert(choice_greedy(mine, &t, 1e9));
    for (size_t l = 0; l < L; l++)
        cr_assert(mine[l].k == CHOICE_N_K - 1 && mine[l].v == CHOICE_N_V - 1);
}

/* ---- texts and bytes ---- */

Test(choice, texts_are_schemes_of_the_layers)
{
    const choice choices[4] = {{1, 1}, {1, 1}, {5, 2}, {0, 1}};
    const choice_common common = {.heavy_hitters = 2, .residual = 128};
    char *text = choice_text(choices, 4, &common);
    kvq_scheme *s;
    cr_assert_eq(kvq_scheme_create(&s, text, NULL), KVQ_OK, "%s", text);
    cr_expect_str_eq(kvq_scheme_text(kvq_scheme_of_layer(s, 0)), "kvq2");
    cr_expect_str_eq(kvq_scheme_text(kvq_scheme_of_layer(s, 1)), "kvq2");
    cr_expect_str_eq(kvq_scheme_text(kvq_scheme_of_layer(s, 2)),
                     "k=tier:4,v=rot:3,mode=sliding,rtype=f16/i8,s=4,hh=2");
    cr_expect_str_eq(kvq_scheme_text(kvq_scheme_of_layer(s, 3)),
                     "k=tier:1.5,v=rot:2,mode=sliding,rtype=f16/i8,s=4,hh=2");
    kvq_scheme_free(s);
    free(text);
    text = choice_text_alone(2, true, 3, &common);
    cr_expect_str_eq(text, "fp32+2=k=tier:3,v=f32,r=128,mode=sliding,rtype=f16/i8,s=4,hh=2");
    free(text);
    text = choice_text_alone(0, false, 2, &common);
    cr_expect_str_eq(text, "fp32+0=k=f32,v=rot:3,r=128,mode=sliding,rtype=f16/i8,s=4,hh=2");
    free(text);
}

Test(choice, bytes_are_those_of_a_cache_and_of_its_growth)
{
    const model_shape small = {.n_layer = 2, .n_head = 4, .n_kv_head = 2, .head_dim = 64, .n_ctx = 1 << 20};
    eval_error e = {""};
    double at_300 = 0.0, per_token = 0.0;
    cr_assert(choice_bytes(&small, "fp16", &(choice_budget){.context = 300}, &at_300, &e), "%s", e.text);
    cr_assert(choice_bytes(&small, "fp16", &(choice_budget){.context = 0}, &per_token, &e), "%s", e.text);
    /* 300 tokens of 2 layers, keys and values, 2 heads of 64 halves: 307,200 bytes. They lie on three pages
     * of 128, and the pool of pages has up to an eighth more. */
    cr_expect(at_300 >= 307200.0 && at_300 < 307200.0 * 384 / 300 * 1.13, "%g", at_300);
    /* A token adds its 1,024 bytes and a share of its page's tables. */
    cr_expect(per_token >= 1024.0 && per_token < 1.03 * 1024.0, "%g", per_token);
    double narrow = 0.0;
    cr_assert(choice_bytes(&small, "kvq2", &(choice_budget){.context = 0}, &narrow, &e), "%s", e.text);
    cr_expect(narrow < per_token / 5.0, "%g", narrow);
}

/* ---- the command ---- */

#define TUNE "--tokens 320 --windows 3 --tune-windows 1 --rounds 1 --quiet --out t.jsonl "

TestSuite(tune, .init = enter, .fini = leave);

static double figure_of(const json_t *tuned, const char *which)
{
    return json_number_value(json_object_get(json_object_get(tuned, which), "value"));
}

Test(tune, finds_a_scheme_that_fits_and_goes_on_from_its_file)
{
    if (SANITIZED) /* minutes; what it measures with, sweeps, is tested there as well */
        return;
    cr_assert_eq(run("$E tune --bits 2.3 " TUNE "--json r.json --scheme-file s.txt"), 0, "%s", err);
    cr_expect(strstr(out, "judged on 2 windows of 320 tokens") && strstr(out, "--scheme "), "%s", out);
    char text[1 << 14];
    read_file("r.json", text, sizeof text);
    json_t *report = load_json(text);
    const json_t *chosen = json_object_get(report, "chosen"), *uniform = json_object_get(report, "uniform");
    const char *scheme = json_string_value(json_object_get(chosen, "scheme"));
    const double budget = json_number_value(json_object_get(json_object_get(report, "budget"), "bytes"));
    cr_assert_not_null(scheme);
    cr_expect_float_eq(budget, 2.3 / 8 * 2 * 6 * 4 * 64, 1e-6, "six layers of four heads of 64");
    cr_expect_leq(json_number_value(json_object_get(chosen, "bytes")), budget);
    cr_assert_gt(json_array_size(uniform), 1);
    size_t i;
    const json_t *x;
    double best = INFINITY, best_at_tuning = INFINITY;
    json_array_foreach(uniform, i, x)
    {
        cr_expect_leq(json_number_value(json_object_get(x, "bytes")), budget);
        best = fmin(best, figure_of(x, "kld_unseen"));
        best_at_tuning = fmin(best_at_tuning, figure_of(x, "kld_tuning"));
    }
    cr_expect_eq(figure_of(json_array_get(uniform, 0), "kld_unseen"), best,
                 "the verdict is against the best");
    cr_expect_lt(figure_of(chosen, "kld_tuning"), best_at_tuning, "where it was tuned it must be better");
    cr_expect_float_eq(figure_of(report, "log_ratio"), log(figure_of(chosen, "kld_unseen") / best), 1e-6);

    double times = 0.0, low = 0.0, high = 0.0;
    cr_assert_eq(sscanf(strstr(out, "it diverges "), "it diverges %lf times", &times), 1, "%s", out);
    cr_assert_eq(sscanf(strstr(out, "(95 % interval of the ratio "),
                        "(95 %% interval of the ratio %lf to %lf)", &low, &high),
                 2, "%s", out);
    const json_t *ratio = json_object_get(report, "log_ratio");
    cr_expect_float_eq(times, exp(-figure_of(report, "log_ratio")), 0.006);
    cr_expect_float_eq(low, exp(-json_number_value(json_object_get(ratio, "high"))), 0.006);
    cr_expect_float_eq(high, exp(-json_number_value(json_object_get(ratio, "low"))), 0.006);

    /* The text is a scheme for every command, and gives the figure that was promised. */
    read_file("s.txt", text, sizeof text);
    text[strcspn(text, "\n")] = '\0';
    cr_expect_str_eq(text, scheme);
    cr_assert_eq(run("$E --tokens 320 --windows 1 --threads 1 --bound off --json - --scheme '%s'", scheme), 0,
                 "%s", err);
    json_t *plain = load_json(out);
    const json_t *propagated =
        json_object_get(json_array_get(json_object_get(plain, "runs"), 1), "propagated");
    const double kl = json_number_value(json_object_get(propagated, "kld_mean"));
    cr_expect_float_eq(kl / figure_of(chosen, "kld_tuning"), 1.0, 0.01, "%g", kl);
    json_decref(plain);
    json_decref(report);

    /* Again: the same answer, and nothing to measure. */
    cr_assert_eq(run("cp t.jsonl before && $E tune --bits 2.3 " TUNE
                     "--json again.json && cmp t.jsonl before && "
                     "cmp r.json again.json"),
                 0, "%s", err);
}

Test(tune, says_what_it_cannot_do)
{
    static const struct {
        const char *arguments;
        int status;
        const char *message;
    } cases[] = {
        {"", 2, "give one of --bits, --bytes-per-token and --bytes-at"},
        {"--bits 2 --bytes-per-token 900", 2, "give one of"},
        {"--bytes-at 32k", 2, "expected CONTEXT=BYTES"},
        {"--bytes-at x=1", 2, "--bytes-at"},
        {"--bits 2 --model random:gpt2", 2, "nothing to tune for"},
        {"--bits 2 --tokens 300 --windows 2 --tune-windows 2", 1,
         "at least one must be left for the verdict"},
        {"--bits 2 --tokens 300 --windows 1", 1, "at least one must be left"},
        {"--bits 2 --tokens 128 --windows 2 --out short.jsonl", 1, "nothing is packed yet"},
        {"--bits 0.5 --tokens 300 --windows 2 --out none", 1, "bytes per token are too few for this model"},
        {"--bytes-at 2k=1000 --tokens 300 --windows 2 --out none", 1,
         "1000 bytes are too few for 2048 tokens"},
        {"--bits 2 --out -", 2, "take a file"},
        {"--bits 2 --out x --json x", 2, "x"},
    };
    for (size_t i = 0; i < sizeof cases / sizeof cases[0]; i++) {
        cr_expect_eq(run("$E tune --quiet %s", cases[i].arguments), cases[i].status, "%s: %s",
                     cases[i].arguments, err);
        cr_expect(strstr(err, cases[i].message), "%s: %s", cases[i].arguments, err);
    }
    cr_expect_eq(run("test -e none"), 1, "what cannot be had is known before anything is measured");
}
