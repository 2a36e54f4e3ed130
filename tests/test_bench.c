/* `kvq-eval bench` as a user runs it, on grids of a moment: exit statuses, every field of the reports, and
 * one clear line for everything that is wrong. Nothing here looks at a time: what is fast depends on who else
 * is running. */
#define _XOPEN_SOURCE 700

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
    cr_assert_str_eq(json_string_value(json_object_get(root, "schema")), "kvq-eval-bench/1");
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
                                         "gb_s",
                                         "bytes_read",
                                         "bandwidth_share",
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
    static const char *const headline[] = {"tokens", "threads", "us_sgemv", "us", "x_sgemv", "x_fp32", NULL};
    cr_assert_eq(bench("", CELL "--json - --csv c.csv"), 0, "%s", err);
    cr_assert_str_empty(err);
    json_t *root = load_report(out), *row;
    cr_assert_str_eq(json_string_value(json_object_get(root, "mode")), "attend");
    check_fields(json_object_get(root, "machine"), machine);
    size_t i;
    json_array_foreach(table(root, "attend", 5), i, row)
    {
        check_fields(row, attend);
        cr_assert_geq(json_number_value(json_object_get(row, "rounds")), 9.0);
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
    cr_assert(strstr(out, "| 32 x 2, 4 q | 200 |") && strstr(out, "faster than OpenBLAS"), "%s", out);
    cr_assert(strstr(out, "|---|---:|"));
}

Test(bench, another_instruction_set_by_option_and_by_variable)
{
    cr_assert_eq(bench("", CELL "--isa portable --json -"), 0, "%s", err);
    cr_assert(strstr(out, "\"isa\": \"portable\""));
    cr_assert_eq(bench("KVQ_ISA=portable", CELL "--json -"), 0, "%s", err);
    cr_assert(strstr(out, "\"isa\": \"portable\"") && !strstr(out, "\"isa\": \"avx2\""));
}

Test(bench, what_does_not_fit_is_left_out)
{
    cr_assert_eq(bench("", CELL "--tokens 1000000 --memory 0.05"), 0, "%s", err);
    cr_assert(strstr(out, "Left out: 1000000 tokens"), "%s", out);
    cr_assert_eq(bench("", CELL "--memory 0.0001"), 1);
    cr_assert(strstr(err, "nothing to measure"), "%s", err);
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
    cr_assert(strstr(out, "faster than OpenBLAS"), "%s", out);
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
