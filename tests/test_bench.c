/* `kvq-eval bench` as a user runs it, on grids of a moment: exit statuses, every field of the reports, and
 * one clear line for everything that is wrong. Nothing here looks at a time: what is fast depends on who else
 * is running. */
#define _XOPEN_SOURCE 700

#include "eval/bench/decode.h"
#include "eval/bench/report.h"
#include "eval/model/model.h"
#include "tests/tool.h"

#define TINY "bench --quick --quiet --seconds 0.001 --threads 1 "
#define CELL TINY "--shape 32,2 --tokens 256 --scheme kivi2,mode=sliding,r=0 "

/* With `before` in front of the program's name. */
static int bench(const char *before, const char *arguments)
{
    return run("%s $E %s", before, arguments);
}

static json_t *load_report(const char *text)
{
    json_t *root = load_json(text);
    cr_assert_str_eq(json_string_value(json_object_get(root, "schema")), "kvq-eval-bench/2");
    return root;
}

/* Fields that every row has, as numbers above 0. */
static void check_fields(const json_t *row, const char *const *names)
{
    for (; *names; names++) {
        const json_t *value = json_object_get(row, *names);
        cr_assert(json_is_number(value) && json_number_value(value) > 0.0, "%s is missing or not above 0",
                  *names);
    }
}

static const json_t *table(const json_t *root, const char *name, size_t least)
{
    const json_t *rows = json_object_get(root, name);
    cr_assert(json_is_array(rows) && json_array_size(rows) >= least, "%s: %zu rows", name,
              json_is_array(rows) ? json_array_size(rows) : 0);
    return rows;
}

TestSuite(bench, .init = enter, .fini = leave);

Test(bench, attention_reports_every_field)
{
    static const char *const machine[] = {"cores", "l1d_bytes", "l2_bytes", "l3_bytes", "memory_bytes", NULL};
    static const char *const attend[] = {"head_dim",
                                         "n_heads",
                                         "n_kv_heads",
                                         "tokens",
                                         "threads",
                                         "us",
                                         "us_p10",
                                         "us_p90",
                                         "ns_per_token_head",
                                         "ns_per_query_token_head",
                                         "gb_s",
                                         "bytes_read",
                                         "bandwidth_percent",
                                         "x_sgemv",
                                         "x_sgemm",
                                         "x_fp32",
                                         "x_fp16",
                                         "bytes_per_token",
                                         "bytes_total",
                                         "memory_x_fp32",
                                         "n_layers",
                                         "rounds",
                                         NULL};
    static const char *const encode[] = {"threads",     "gb_s",  "gb_s_p10", "gb_s_fresh",
                                         "input_bytes", "bytes", NULL};
    static const char *const bandwidth[] = {"threads",  "bytes",  "gb_s", "gb_s_p10",
                                            "gb_s_p90", "rounds", NULL};
    static const char *const headline[] = {"tokens",  "threads", "us_sgemv", "us_sgemm", "us",
                                           "x_sgemv", "x_sgemm", "x_fp32",   "x_packed", NULL};
    cr_assert_eq(bench("", CELL "--json - --csv c.csv"), 0, "%s", err);
    cr_assert_str_empty(err);
    json_t *root = load_report(out), *row;
    cr_assert_str_eq(json_string_value(json_object_get(root, "mode")), "attend");
    check_fields(json_object_get(root, "machine"), machine);
    size_t i;
    json_array_foreach(table(root, "attend", 5), i, row)
    {
        check_fields(row, attend);
        cr_assert_geq(json_number_value(json_object_get(row, "rounds")), 5.0);
    }
    /* sgemv, sgemm, fp32, fp16, the scheme; only the last has an error to show */
    cr_assert_eq(i, 5);
    row = json_array_get(json_object_get(root, "attend"), 4);
    cr_assert_str_eq(json_string_value(json_object_get(row, "scheme")), "kivi2,r=0,mode=sliding");
    cr_assert_str_eq(json_string_value(json_object_get(row, "precision")), "fast");
    cr_assert(json_number_value(json_object_get(row, "error")) <= 1e-3, "fast precision is that far off");
    /* Two heads over two superblocks of 128 tokens, which are all of them. */
    cr_assert_eq(json_integer_value(json_object_get(row, "heads")), 2);
    cr_assert_eq(json_integer_value(json_object_get(row, "superblocks")), 4);
    cr_assert(json_is_integer(json_object_get(row, "superblocks_wide")));
    cr_assert(json_is_integer(json_object_get(row, "superblocks_exact")));
    cr_assert_leq(json_integer_value(json_object_get(row, "superblocks_wide")), 4);
    cr_assert_leq(json_integer_value(json_object_get(row, "superblocks_exact")), 4);
    cr_assert_leq(json_integer_value(json_object_get(row, "heads_again")), 2);
    cr_assert(json_is_integer(json_object_get(row, "heads_again")));
    cr_assert(json_is_null(json_object_get(json_array_get(json_object_get(root, "attend"), 0), "heads")));
    cr_assert(strstr(out, "Fast precision scored "));
    cr_assert_eq(json_array_size(table(root, "left_out", 0)), 0);
    json_array_foreach(table(root, "encode", 1), i, row)
    {
        check_fields(row, encode);
    }
    json_array_foreach(table(root, "bandwidth", 3), i, row)
    {
        check_fields(row, bandwidth);
    }
    json_array_foreach(table(root, "headline", 1), i, row)
    {
        check_fields(row, headline);
    }
    cr_assert_geq(json_array_size(json_object_get(root, "headline_sentences")),
                  1); /* and one if others are busy */
    json_decref(root);
    read_file("c.csv", out, sizeof out);
    cr_assert(strncmp(out, "shape,head_dim,", 15) == 0 && strstr(out, "\"kivi2,r=0,mode=sliding\""));
}

Test(bench, grouped_queries_windows_and_markdown)
{
    cr_assert_eq(bench("", TINY "--shape 32,4,2 --tokens 200 --scheme kivi2,mode=sliding,r=0 --scheme kivi2 "
                                "--scheme kivi2,rtype=f16 --markdown"),
                 0, "%s", err);
    cr_assert(strstr(out, "| 32 x 2, 4 q | 200 |") && strstr(out, "times as fast as OpenBLAS"), "%s", out);
    cr_assert(strstr(out, "|---|---:|") && strstr(out, "One decode step of one layer"));
}

Test(bench, another_instruction_set_by_option_and_by_variable)
{
    cr_assert_eq(bench("", CELL "--isa portable --json -"), 0, "%s", err);
    cr_assert(strstr(out, "\"isa\": \"portable\""));
    cr_assert_eq(bench("KVQ_ISA=portable", CELL "--json -"), 0, "%s", err);
    cr_assert(strstr(out, "\"isa\": \"portable\"") && !strstr(out, "\"isa\": \"avx2\""));
}

/* What a window adds is told by rows that differ in nothing else. */
Test(bench, windows_are_told_from_the_packed_part)
{
    cr_assert_eq(bench("", TINY
                       "--shape 32,2 --tokens 256 --scheme kvq2 --scheme kvq2,r=0,s=0 --scheme kvq2,rtype=i8 "
                       "--scheme kvq3,r=0,s=0 --json -"),
                 0, "%s", err);
    json_t *root = load_report(out);
    const json_t *rows = table(root, "attend", 8), *headline = json_array_get(table(root, "headline", 1), 0);
    for (size_t i = 4; i < 8; i++) {
        const json_t *row = json_array_get(rows, i);
        const bool has_window = i == 4 || i == 6;
        cr_assert_eq(json_is_number(json_object_get(row, "residual_us")), has_window, "row %zu", i);
    }
    cr_assert_str_eq(json_string_value(json_object_get(headline, "scheme")), "kvq2");
    cr_assert(json_is_number(json_object_get(headline, "x_packed")));
    cr_assert(json_is_number(json_object_get(headline, "x_window_i8")));
    json_decref(root);
    cr_assert(strstr(out, "times without its window."));
}

/* OpenBLAS must agree with the fp32 cache, causal mask and order of heads included, or the command fails. */
Test(bench, many_queries_at_once)
{
    cr_assert_eq(bench("", TINY "--queries 5 --shape 32,6,2 --tokens 7 --tokens 300 --scheme kvq2 --json -"),
                 0, "%s", err);
    json_t *root = load_report(out), *row;
    size_t i;
    json_array_foreach(table(root, "attend", 8), i, row)
    {
        cr_assert_str_neq(json_string_value(json_object_get(row, "scheme")), "OpenBLAS sgemv");
        cr_assert_eq(json_integer_value(json_object_get(row, "queries")), 5);
        const double us = json_number_value(json_object_get(row, "us"));
        const double tokens = json_number_value(json_object_get(row, "tokens"));
        const double ns = json_number_value(json_object_get(row, "ns_per_query_token_head"));
        cr_assert_float_eq(ns * 5 * 6 * tokens * 1e-3, us, 1e-6 * us);
        const double ns_step = json_number_value(json_object_get(row, "ns_per_token_head"));
        cr_assert_float_eq(ns_step * 2 * tokens * 1e-3, us, 1e-6 * us);
    }
    cr_assert_eq(i, 8); /* sgemm, fp32, fp16, the scheme; two lengths */
    json_decref(root);
    cr_assert(strstr(out, "kernels; sgemm) with 5 queries over 300 tokens"), "%s", out);
    cr_assert_eq(bench("", TINY "--queries 2 --shape 32,2 --tokens 7 --scheme kivi2"), 0, "%s", err);
    cr_assert(strstr(out, "Several queries over one layer") && !strstr(out, "decode step"), "%s", out);
}

/* If caches had seen the queries that are timed, and no others, their bits would lie where one of them looks,
 * and nine in ten superblocks of kvq4 were scored wide for the rest. */
Test(bench, caches_have_learnt_from_other_queries)
{
    cr_assert_eq(bench("", TINY "--queries 64 --shape 64,2 --tokens 1024 --scheme kvq4 --json -"), 0, "%s",
                 err);
    json_t *root = load_report(out);
    const json_t *row = json_array_get(table(root, "attend", 4), 3);
    const double all = json_number_value(json_object_get(row, "superblocks"));
    const double wide = json_number_value(json_object_get(row, "superblocks_wide"));
    cr_assert(all > 0 && wide <= 0.02 * all, "%g of %g", wide, all); /* none here; a few at other shapes */
    json_decref(root);
}

Test(bench, more_threads_than_cores)
{
    char arguments[256], warning[64];
    const long n_cores = sysconf(_SC_NPROCESSORS_ONLN);
    snprintf(arguments, sizeof arguments,
             "bench --quick --quiet --seconds 0.001 --threads %ld --shape 32,1 --tokens 32 --scheme kivi2",
             n_cores + 1);
    snprintf(warning, sizeof warning, "DO NOT QUOTE: %ld threads shared %ld core", n_cores + 1, n_cores);
    cr_assert_eq(bench("", arguments), 0, "%s", err);
    cr_assert(strstr(out, warning), "%s", out);
}

static double number_of(const json_t *row, const char *before, const char *after)
{
    char key[64];
    snprintf(key, sizeof key, "%s%s", before, after);
    const json_t *value = json_object_get(row, key);
    cr_assert(json_is_number(value), "%s is missing", key);
    return json_number_value(value);
}

Test(bench, phases_add_up)
{
    static const char *const phases[] = {"fold",   "score",  "softmax",    "accumulate",
                                         "window", "rotate", "dequantize", "other"};
    static const char *const fields[] = {"head_dim", "n_heads", "n_kv_heads", "tokens",   "queries", "us",
                                         "us_p10",   "us_p90",  "ns",         "n_layers", "rounds",  NULL};
    enum { N = sizeof phases / sizeof phases[0] };
    cr_assert_eq(
        bench("", "bench --phases --quick --quiet --seconds 0.001 --shape 64,4,2 --tokens 512 --scheme kvq2 "
                  "--scheme kvq2,r=0,s=0 --scheme kivi2,mode=sliding,r=0 --scheme q4_0 --json - --csv c.csv"),
        0, "%s", err);
    cr_assert_str_empty(err);
    json_t *root = load_report(out), *row;
    cr_assert_str_eq(json_string_value(json_object_get(root, "mode")), "phases");
    size_t n;
    json_array_foreach(table(root, "phases", 4), n, row)
    {
        check_fields(row, fields);
        double sum = 0.0, share = 0.0;
        const double us = json_number_value(json_object_get(row, "us"));
        for (size_t i = 0; i < N; i++) {
            sum += number_of(row, phases[i], "_us");
            share += number_of(row, phases[i], "_percent");
            cr_assert_float_eq(number_of(row, phases[i], "_ns") * 512 * 2 * 1e-3,
                               number_of(row, phases[i], "_us"), 1e-6 * us);
            /* Only the rest can be below 0, where clocks make the parts look longer than the whole. */
            cr_assert(number_of(row, phases[i], "_us") >= 0.0 || i + 1 == N, "%s is negative", phases[i]);
        }
        cr_assert_float_eq(sum, us, 1e-6 * us);
        cr_assert_float_eq(share, 100.0, 1e-4);
        /* kivi2 turns nothing and has no window here, q4_0 attends over dequantized blocks. */
        cr_assert(number_of(row, "softmax", "_calls") > 0.0);
        cr_assert_eq(number_of(row, "fold", "_calls") > 0.0, n != 3);
        cr_assert_eq(number_of(row, "score", "_calls") > 0.0, n != 3);
        cr_assert_eq(number_of(row, "accumulate", "_calls") > 0.0, n != 3);
        cr_assert_eq(number_of(row, "window", "_calls") > 0.0, n != 2);
        cr_assert_eq(number_of(row, "rotate", "_calls") > 0.0, n < 2);
        cr_assert_str_eq(json_string_value(json_object_get(row, "precision")), n == 3 ? "float32" : "fast");
    }
    cr_assert_eq(n, 4);
    json_decref(root);
    read_file("c.csv", out, sizeof out);
    cr_assert(strncmp(out, "shape,head_dim,", 15) == 0 && strstr(out, ",fold_us,"));
    cr_assert_eq(bench("",
                       "bench --phases --quick --quiet --seconds 0.001 --shape 32,2 --tokens 256 --queries 3 "
                       "--scheme kvq2 --isa portable --markdown"),
                 0, "%s", err);
    cr_assert(strstr(out, "| portable |") && strstr(out, "ns per query, token and query head"), "%s", out);
    cr_assert_eq(bench("", "bench --phases --memory 0.0001"), 1);
    cr_assert(strstr(err, "nothing to measure"), "%s", err);
}

/* Prompts longer than the 256 queries that OpenBLAS takes at once, so that its blocks are checked, too; the
 * library's answers are checked against it by the command itself. Reports have nine digits. */
Test(bench, prompts_are_compared_with_openblas)
{
    static const char *const fields[] = {"head_dim", "n_heads", "n_kv_heads", "tokens", "threads", "ms",
                                         "ms_p10",   "ms_p90",  "x_sgemm",    "x_fp32", NULL};
    cr_assert_eq(bench("", "bench --prompts --quick --quiet --seconds 0.001 --shape 64,4,2 --tokens 600 "
                           "--threads 1 --threads 2 --scheme kvq2 --scheme kivi2,r=32 --json -"),
                 0, "%s", err);
    cr_assert_str_empty(err);
    json_t *root = load_report(out), *row;
    cr_assert_str_eq(json_string_value(json_object_get(root, "mode")), "prompts");
    size_t n;
    double of_blas = 0.0, of_fp32 = 0.0;
    json_array_foreach(table(root, "prompts", 8), n, row)
    {
        check_fields(row, fields);
        const double ms = number_of(row, "ms", "");
        if (n % 4 == 0) { /* OpenBLAS, fp32 and two schemes for each number of threads */
            of_blas = ms;
            of_fp32 = number_of(json_array_get(json_object_get(root, "prompts"), n + 1), "ms", "");
        }
        cr_assert_float_eq(number_of(row, "threads", ""), n < 4 ? 1.0 : 2.0, 0.0);
        cr_assert_float_eq(number_of(row, "ns_per_query_token_head", ""), ms * 1e6 / (4 * 600 * 601 / 2),
                           1e-7 * ms * 1e6);
        cr_assert_float_eq(number_of(row, "x_sgemm", "") * ms, of_blas, 1e-7 * of_blas);
        cr_assert_float_eq(number_of(row, "x_fp32", "") * ms, of_fp32, 1e-7 * of_fp32);
    }
    cr_assert_eq(n, 8);
    json_decref(root);
    cr_assert_eq(bench("", "bench --prompts --quick --quiet --seconds 0.001 --shape 320,1 --tokens 64 "
                           "--scheme kvq2-fb --scheme fp16"),
                 0, "%s", err);
    cr_assert(strstr(out, "Left out") && strstr(out, "does not take a head dimension of 320"), "%s", out);
    cr_assert_eq(bench("", "bench --prompts --memory 0.0001"), 1);
    cr_assert(strstr(err, "nothing to measure"), "%s", err);
}

Test(bench, what_does_not_fit_is_left_out)
{
    cr_assert_eq(bench("", CELL "--tokens 1000000 --memory 0.05"), 0, "%s", err);
    cr_assert(strstr(out, "Left out") && strstr(out, "32 x 2  1,000,000 ") &&
                  strstr(out, "one layer of every competitor takes more than 0.05 GB (--memory)"),
              "%s", out);
    cr_assert_eq(bench("", CELL "--memory 0.0001"), 1);
    cr_assert(strstr(err, "nothing to measure: 32 x 2: one layer of every competitor"), "%s", err);
}

/* What ran, not what was asked for: fast precision does not serve every scheme; plain rows are float32. */
Test(bench, precision_is_what_ran)
{
    static const struct {
        const char *scheme, *precision;
    } rows[] = {{"OpenBLAS sgemv", ""}, {"OpenBLAS sgemm", ""}, {"fp32", "float32"},  {"fp16", "float32"},
                {"kvq2", "fast"},       {"kvq3", "fast keys"},  {"turbo2", "float32"}};
    cr_assert_eq(
        bench("", TINY "--shape 64,2 --tokens 512 --scheme kvq2 --scheme kvq3 --scheme turbo2 --json -"), 0,
        "%s", err);
    json_t *root = load_report(out), *row;
    size_t i;
    json_array_foreach(table(root, "attend", 7), i, row)
    {
        cr_assert_str_eq(json_string_value(json_object_get(row, "scheme")), rows[i].scheme);
        cr_assert_str_eq(json_string_value(json_object_get(row, "precision")), rows[i].precision, "%s",
                         rows[i].scheme);
        cr_assert_eq(json_is_number(json_object_get(row, "error")), i == 4 || i == 5, "%s", rows[i].scheme);
    }
    cr_assert_eq(i, 7);
    cr_assert(strstr(out, " and 0 % in float32"), "only what ran in fast precision is counted");
    json_decref(root);
    /* Nothing is packed yet. */
    cr_assert_eq(bench("", TINY "--shape 64,2 --tokens 64 --scheme kvq2 --json -"), 0, "%s", err);
    root = load_report(out);
    row = json_array_get(table(root, "attend", 5), 4);
    cr_assert_str_eq(json_string_value(json_object_get(row, "precision")), "float32");
    json_decref(root);
}

/* The first scheme in exact precision as well, but not twice the same. */
Test(bench, exact_precision_is_measured_once)
{
    static const struct {
        const char *scheme;
        size_t n_rows;
    } cases[] = {{"kvq2", 6}, {"turbo2", 5}};
    for (size_t i = 0; i < 2; i++) {
        char arguments[256];
        snprintf(arguments, sizeof arguments,
                 "bench --quiet --seconds 0.001 --threads 1 --isa portable --shape 32,1 --tokens 512 "
                 "--scheme %s --json -",
                 cases[i].scheme);
        cr_assert_eq(bench("", arguments), 0, "%s", err);
        json_t *root = load_report(out);
        cr_assert_eq(json_array_size(table(root, "attend", 5)), cases[i].n_rows, "%s", cases[i].scheme);
        json_decref(root);
    }
}

/* Feedback takes head dimensions up to 256. */
Test(bench, a_scheme_that_does_not_take_a_head_dimension_is_left_out)
{
    cr_assert_eq(
        bench("", TINY "--shape 320,1 --shape 32,1 --tokens 256 --scheme kvq2-fb --scheme kvq2 --json -"), 0,
        "%s", err);
    json_t *root = load_report(out), *row;
    cr_assert_eq(json_array_size(table(root, "attend", 11)), 11); /* five and six */
    cr_assert_eq(json_array_size(table(root, "encode", 3)), 3);
    cr_assert_eq(json_array_size(table(root, "left_out", 1)), 1);
    row = json_array_get(json_object_get(root, "left_out"), 0);
    cr_assert_str_eq(json_string_value(json_object_get(row, "where")), "320 x 1");
    cr_assert_str_eq(json_string_value(json_object_get(row, "scheme")), "kvq2-fb");
    cr_assert_str_eq(json_string_value(json_object_get(row, "why")), "does not take a head dimension of 320");
    json_decref(root);
    cr_assert_eq(bench("", TINY "--shape 320,1 --tokens 256 --scheme kvq2-fb"), 1);
    cr_assert(strstr(err, "nothing to measure: 320 x 1, kvq2-fb: does not take a head dimension of 320"),
              "%s", err);
    cr_assert_eq(bench("", "bench --phases --quick --quiet --seconds 0.001 --shape 320,1 --tokens 256 "
                           "--scheme kvq2-fb --scheme kvq2 --isa portable"),
                 0, "%s", err);
    cr_assert(strstr(out, "does not take a head dimension of 320"), "%s", out);
    cr_assert_eq(bench("", "bench --phases --quick --quiet --seconds 0.001 --shape 320,1 --tokens 256 "
                           "--scheme kvq2-fb"),
                 1);
    cr_assert_eq(bench("", "bench --decode --quick --quiet --threads 1 --model random:1,1,320,32,100 "
                           "--scheme kvq2-fb --scheme kivi2"),
                 0, "%s", err);
    cr_assert(strstr(out, "does not take a head dimension of 320"), "%s", out);
}

/* ---- a machine that is not quiet ---- */

/* Rows of 10 with percentiles of 1 and `p90` in every second one. */
static void put_spread(bench_report *r, const char *noise, double p90)
{
    static const bench_column columns[] = {
        {"us", "us", 1}, {"us_p10", NULL, 1}, {"us_p90", NULL, 1}, {"more", NULL, 1}};
    bench_table *t = bench_add_table(r, "t", "t", columns, 4, 0);
    t->noise = noise;
    for (int i = 0; i < 10; i++) {
        bench_put_number(t, 1.0);
        bench_put_number(t, 1.0);
        bench_put_number(t, i % 2 == 0 ? p90 : 1.1);
        bench_put_number(t, 7.0);
    }
}

Test(bench, a_wide_spread_is_told_first)
{
    static bench_report r;
    put_spread(&r, "us", 1.5); /* not over it */
    put_spread(&r, NULL, 9.0); /* of work that is not equal */
    bench_headline(&r, "kvq2 is fast.");
    bench_say_noise(&r);
    cr_assert_eq(r.n_headline, 1);
    put_spread(&r, "us", 1.6);
    bench_say_noise(&r);
    cr_assert_eq(r.n_headline, 2);
    cr_assert(strstr(r.headline[0], "DO NOT QUOTE") && strstr(r.headline[0], "in 5 of 10 rows"), "%s",
              r.headline[0]);
    cr_assert_str_eq(r.headline[1], "kvq2 is fast.");
    for (int i = 0; i < BENCH_MAX_LINES; i++)
        bench_headline(&r, "more");
    bench_say_noise(&r);
    cr_assert_eq(r.n_headline, BENCH_MAX_LINES);
    cr_assert(strstr(r.headline[0], "DO NOT QUOTE"));
    bench_report_free(&r);
}

/* In each kind of report the warning stands if its rows say so: how busy this machine is does not matter. */
static void check_warning(const char *arguments, const char *name, const char *key)
{
    cr_assert_eq(bench("", arguments), 0, "%s", err);
    json_t *root = load_report(out), *row;
    size_t i, n = 0, n_wide = 0;
    json_array_foreach(table(root, name, 1), i, row)
    {
        char p10[64], p90[64];
        snprintf(p10, sizeof p10, "%s_p10", key);
        snprintf(p90, sizeof p90, "%s_p90", key);
        const json_t *least = json_object_get(row, p10), *most = json_object_get(row, p90);
        cr_assert(least && most, "%s has no %s", name, p10);
        n += json_is_number(least) && json_is_number(most);
        n_wide += json_is_number(least) && json_number_value(most) > 1.5 * json_number_value(least);
    }
    cr_assert_gt(n, 0);
    cr_assert_eq(strstr(out, "DO NOT QUOTE") != NULL, 4 * n_wide > n, "%s: %zu of %zu", name, n_wide, n);
    json_decref(root);
}

Test(bench, every_kind_of_report_warns)
{
    check_warning(CELL "--json -", "attend", "us");
    check_warning(
        "bench --phases --quick --quiet --seconds 0.001 --shape 32,1 --tokens 256 --scheme kvq2 --json -",
        "phases", "us");
    check_warning("bench --prompts --quick --quiet --seconds 0.001 --shape 32,2 --tokens 300 --threads 1 "
                  "--scheme kvq2 --json -",
                  "prompts", "ms");
    check_warning("bench --kernels --quick --quiet --seconds 0.001 --isa portable --json -", "kernels", "ns");
    check_warning("bench --decode --quick --quiet --threads 1 --model random:1,1,32,64,100 --json -",
                  "decode", "matrix_ms");
}

/* Steps grow with what they attend to; that is no noise, but matrix work of uneven length is. */
Test(bench, growth_is_no_noise_in_generation)
{
    enum { N = 64 };
    static double steps[3][N], attention[3][N];
    static model m;
    for (int noisy = 0; noisy < 2; noisy++) {
        static bench_report r;
        static decode_run d;
        d = (decode_run){
            .model = &m, .isa = "portable", .n_threads = 1, .n_output = N, .points = {N}, .n_points = 1};
        d.n_ways = 3;
        for (size_t way = 0; way < 3; way++) {
            d.ways[way] = (decode_way){.has_cache = way > 0, .step = steps[way], .attention = attention[way]};
            for (size_t i = 0; i < N; i++) {
                attention[way][i] = 0.01 * (double)(i + 1);
                steps[way][i] = attention[way][i] + (noisy && i % 3 == 0 ? 0.002 : 0.001);
            }
        }
        bench_decode_table(&r);
        bench_decode_rows(&r, &d);
        bench_say_noise(&r);
        cr_assert_eq(strstr(r.headline[0], "DO NOT QUOTE") != NULL, noisy, "%s", r.headline[0]);
        bench_report_free(&r);
        r = (bench_report){0};
    }
}

Test(bench, kernels_are_all_there)
{
    static const char *const fields[] = {"head_dim", "ns",   "ns_p10",     "ns_p90",
                                         "bytes",    "gb_s", "x_portable", NULL};
    cr_assert_eq(bench("", "bench --kernels --quick --quiet --seconds 0.001 --json -"), 0, "%s", err);
    json_t *root = load_report(out), *row;
    size_t i;
    json_array_foreach(table(root, "kernels", 14), i, row)
    {
        check_fields(row, fields);
    }
    json_decref(root);
}

Test(bench, decode_compares_every_kind_of_cache)
{
    static const char *const fields[] = {"output_tokens", "tokens_per_s", "ttft_ms", "step_ms",
                                         "cache_ms",      "x_no_cache",   "x_fp32",  NULL};
    cr_assert_eq(
        bench("", "bench --decode --quick --quiet --threads 1 --model random:2,2,32,64,100 --json -"), 0,
        "%s", err);
    json_t *root = load_report(out), *row;
    size_t i;
    json_array_foreach(table(root, "decode", 15), i, row)
    {
        check_fields(row, fields);
    }
    cr_assert_eq(i, 15); /* 16, 32 and 48 tokens, five ways */
    json_decref(root);
    cr_assert_eq(bench("", "bench --decode --quiet --threads 1 --model random:2,2,32,17,100"), 1);
    cr_assert(strstr(err, "a context of at least 18 tokens is needed, not 17"), "%s", err);
}

/* ---- what is wrong ---- */

Test(bench, refuses_what_is_wrong)
{
    static const struct {
        const char *arguments, *message;
        int status;
    } cases[] = {
        {"bench --shape 64", "--shape: expected D,H or D,H,HKV", 2},
        {"bench --shape 64,12,", "--shape: expected", 2},
        {"bench --shape 64,12,5", "--shape: expected", 2},
        {"bench --shape 0,12", "--shape: expected", 2},
        {"bench --shape 2000,12", "--shape: expected", 2},
        {"bench --tokens 0", "--tokens: expected a whole number from 1", 2},
        {"bench --tokens many", "--tokens: expected a whole number from 1", 2},
        {"bench --threads 0", "--threads: expected a whole number from 1", 2},
        {"bench --seconds -1", "--seconds: expected a number above 0", 2},
        {"bench --memory nan", "--memory: expected a number above 0", 2},
        {"bench --scheme kivi9", "--scheme: ", 1},
        {"bench --scheme kivi2+1=kivi4",
         "--scheme: 'kivi2+1=kivi4' differs by layer, and bench has one layer", 1},
        {"bench --queries 0", "--queries: expected a whole number from 1", 2},
        {"bench --queries some", "--queries: expected a whole number from 1", 2},
        {"bench --queries 20000", "--queries: expected a whole number from 1", 2},
        {"bench --queries 65 --tokens 64", "--queries: 65 are more than --tokens 64", 2},
        {"bench --kernels --queries 2", "--queries: means nothing with --kernels", 2},
        {"bench --decode --queries 2", "--queries: means nothing with --decode", 2},
        {"bench --phases --threads 2", "--threads: means nothing with --phases", 2},
        {"bench --phases --model default", "--model: means nothing without --decode", 2},
        {"bench --phases --decode", "only one at a time", 2},
        {"bench --prompts --phases", "only one at a time", 2},
        {"bench --prompts --queries 2", "--queries: means nothing with --prompts", 2},
        {"bench --phases --isa phases", "--isa phases: no instruction set of that name runs here", 1},
        {"bench --isa sse9", "--isa sse9: no instruction set of that name runs here", 1},
        {"bench --kernels --decode", "only one at a time", 2},
        {"bench --kernels --tokens 5", "--tokens: means nothing with --kernels", 2},
        {"bench --decode --shape 64,2", "--shape: means nothing with --decode", 2},
        {"bench --model random:gpt2", "--model: means nothing without --decode", 2},
        {"bench --decode --model /nowhere/gpt2", "/nowhere/gpt2", 1},
        {"bench --json ''", "--json: the name is empty", 2},
        {"bench --json a --csv ./a", "are one file", 2},
        {"bench --quick --json /nowhere/a.json", "/nowhere", 1},
        {"bench more", "nothing but options can stand here, not 'more'", 2},
        {"bench --bits 2", "unrecognized option '--bits'", 2},
        {"bench --json - --csv -", "only one of --json and --csv", 2},
    };
    for (size_t i = 0; i < sizeof cases / sizeof cases[0]; i++) {
        cr_assert_eq(bench("", cases[i].arguments), cases[i].status, "%s: %s", cases[i].arguments, err);
        cr_assert(strstr(err, cases[i].message), "%s: %s", cases[i].arguments, err);
        cr_assert_str_empty(out);
    }
}

/* n times the option. */
static void repeat(char *to, const char *option, size_t n)
{
    for (size_t i = 0; i < n; i++)
        strcat(to, option);
}

/* All that is asked for is measured, or the command says that it is too much. */
Test(bench, refuses_more_combinations_than_it_can_hold)
{
    static const struct {
        size_t n_schemes, n_isas, n_threads;
        const char *message; /* NULL: none */
    } cases[] = {
        {16, 4, 1, NULL},
        {13, 5, 1, "65 combinations of --scheme and --isa are too many for one run: at most 64,"},
        /* Quick: sgemv, sgemm, fp32, fp16 and the schemes. */
        {16, 1, 13,
         "260 combinations of --scheme, --isa and --threads, baselines included, are too many for one run: "
         "at most 256,"},
    };
    for (size_t i = 0; i < sizeof cases / sizeof cases[0]; i++) {
        char arguments[2048] = "bench --quick --quiet --seconds 0.001 --shape 32,1 --tokens 32 --json - ";
        repeat(arguments, "--scheme kivi2 ", cases[i].n_schemes);
        repeat(arguments, "--isa portable ", cases[i].n_isas);
        repeat(arguments, "--threads 1 ", cases[i].n_threads);
        const int status = bench("", arguments);
        if (cases[i].message) {
            cr_assert(status == 1 && strstr(err, cases[i].message) && n_lines(err) == 1, "%d: %s", status,
                      err);
            cr_assert_str_empty(out);
            continue;
        }
        cr_assert_eq(status, 0, "%s", err);
        json_t *root = load_report(out);
        cr_assert_eq(json_array_size(table(root, "attend", 1)),
                     cases[i].n_threads * (4 + cases[i].n_schemes * cases[i].n_isas));
        json_decref(root);
    }
}

Test(bench, refuses_an_unknown_isa_in_the_environment)
{
    cr_assert_eq(bench("KVQ_ISA=sse9", "bench --quick"), 1);
    cr_assert(strstr(err, "KVQ_ISA=sse9: no instruction set of that name runs here"), "%s", err);
}

/* ---- the baseline's kernels ---- */

Test(bench, a_forced_choice_of_openblas_is_told)
{
    cr_assert_eq(bench("OPENBLAS_CORETYPE=Prescott", CELL "--json - --csv c.csv"), 0, "%s", err);
    cr_assert(strstr(err, "note: OPENBLAS_CORETYPE=Prescott") && n_lines(err) == 1, "%s", err);
    json_t *root = load_report(out), *machine = json_object_get(root, "machine");
    cr_assert_str_eq(json_string_value(json_object_get(machine, "openblas_coretype")), "Prescott");
    json_decref(root);
    cr_assert_eq(bench("OPENBLAS_CORETYPE=Prescott", CELL), 0, "%s", err);
    cr_assert(strstr(out, "(forced by OPENBLAS_CORETYPE)"), "%s", out);
    cr_assert_eq(bench("", CELL "--json -"), 0, "%s", err);
    cr_assert_str_empty(err);
    root = load_report(out), machine = json_object_get(root, "machine");
    cr_assert(json_is_null(json_object_get(machine, "openblas_coretype")));
    cr_assert(json_is_string(json_object_get(machine, "openblas_kernels")));
    json_decref(root);
}

Test(bench, a_report_that_cannot_be_written_costs_no_run)
{
    cr_assert_eq(bench("", CELL "--json /dev/full --csv c.csv"), 1);
    cr_assert(strstr(out, "times as fast as OpenBLAS"), "%s", out);
    cr_assert(strstr(err, "/dev/full: write failed") && n_lines(err) == 1, "%s", err);
    read_file("c.csv", out, sizeof out);
    cr_assert_eq(strncmp(out, "shape,head_dim,", 15), 0);
}

Test(bench, another_seed_is_in_the_report)
{
    for (int seed = 3; seed < 5; seed++) {
        char arguments[256];
        snprintf(arguments, sizeof arguments, CELL "--seed %d --json -", seed);
        cr_assert_eq(bench("", arguments), 0, "%s", err);
        json_t *root = load_report(out);
        cr_assert_eq(json_integer_value(json_object_get(root, "seed")), seed);
        json_decref(root);
    }
}
