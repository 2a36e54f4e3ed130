/* The reports, made from runs of made-up figures that all differ: each figure stands under its own name, the
 * table follows its width, the sentences say what the figures say, and the manual has every column. */
#define _XOPEN_SOURCE 700

#include "eval/report/columns.h"
#include "eval/report/report.h"
#include "tests/support.h"

#include <criterion/criterion.h>
#include <jansson.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

/* What the columns must show of the run below. This list is the test's own, and repeats the one in columns.c
 * on purpose: a value under a wrong name must differ from it. */
typedef struct shown_figure {
    const char *name;  /* in CSV */
    const char *value; /* there */
    const char *title; /* in the Markdown table; NULL: not there */
    const char *cell;
} shown_figure;

static const shown_figure figures[] = {
    {"scheme", "\"k=4/64,v=2,r=192,mode=sliding,s=7\"", "scheme", "k=4/64,v=2,r=192,mode=sliding,s=7"},
    {"k_bits", "4", NULL, NULL},
    {"v_bits", "2", NULL, NULL},
    {"group", "64", NULL, NULL},
    {"residual", "192", NULL, NULL},
    {"residual_mode", "\"sliding\"", NULL, NULL},
    {"residual_dtype", "\"f16/i8\"", NULL, NULL},
    {"sinks", "7", NULL, NULL},
    {"payload", "1001", NULL, NULL},
    {"metadata", "1002", NULL, NULL},
    {"residual_bytes", "1003", NULL, NULL},
    {"sinks_bytes", "1004", NULL, NULL},
    {"slack", "1005", NULL, NULL},
    {"bookkeeping", "1006", NULL, NULL},
    {"evidence", "1107", NULL, NULL},
    {"total", "7128", "cache bytes", "7.1 kB"},
    {"fp16_bytes", "7000", NULL, NULL},
    {"fp32_bytes", "14000", NULL, NULL},
    {"bits_packed", "3.5", "bits packed", "3.50"},
    {"bits_here", "8.25", "bits here", "8.25"},
    {"ratio_vs_fp16", "1.25", "vs fp16", "1.25x"},
    {"ratio_vs_fp32", "2.5", "vs fp32", "2.50x"},
    {"pays_from", "333", NULL, NULL},
    {"k_rel_l2", "0.125", "K error", "0.1250"},
    {"v_rel_l2", "0.25", "V error", "0.2500"},
    {"k_rel_l2_packed", "0.1875", "K err. packed", "0.1875"},
    {"v_rel_l2_packed", "0.375", "V err. packed", "0.3750"},
    {"attn_rel_l2", "0.0625", "attn. error", "0.0625"},
    {"attn_rel_l2_se", "0.001953125", NULL, NULL},
    {"attn_max_abs", "0.75", NULL, NULL},
    {"attn_worst_rel_l2", "0.5", NULL, NULL},
    {"attn_worst_layer", "1", NULL, NULL},
    {"attn_worst_head", "2", NULL, NULL},
    {"attn_prob_kl", "0.03125", "attn. KL", "0.0312"},
    {"attn_prob_kl_se", "0.00390625", NULL, NULL},
    {"bound_max", "17.5", NULL, NULL},
    {"bound_looseness", "65.5", NULL, NULL},
    {"kld_mean", "0.015625", "token KL mean", "0.0156"},
    {"kld_mean_se", "0.00048828125", "KL s.e.", "4.9e-04"},
    {"kld_p99", "0.4375", "token KL p99", "0.4375"},
    {"kld_max", "0.875", NULL, NULL},
    {"top1", "0.9375", "top-1 same", "93.8 %"},
    {"top1_se", "0.0078125", NULL, NULL},
    {"ppl", "84", "perplexity", "84.00"},
    {"ppl_se", "0.75", NULL, NULL},
    {"ppl_fp32", "80", NULL, NULL},
    {"ppl_increase", "5", "change", "+5.00 %"},
    {"ppl_increase_se", "0.25", "change s.e.", "0.25 %"},
    {"seconds", "12.5", NULL, NULL},
    {"partial", "1", NULL, NULL},
};
enum { N_SHOWN = sizeof figures / sizeof figures[0], N_HEADS = 6 };

static evaluate_head heads[N_HEADS];

static evaluate_run made_up_run(void)
{
    evaluate_run run = {
        .text = "k=4/64,v=2,r=192,mode=sliding,s=7",
        .usage = {.payload = 1001,
                  .metadata = 1002,
                  .residual = 1003,
                  .sinks = 1004,
                  .slack = 1005,
                  .bookkeeping = 1006,
                  .evidence = 1107,
                  .total = 7128,
                  .n_packed_elements = 1},
        .bits_packed = 3.5,
        .bits_here = 8.25,
        .fp32_bytes = 14000,
        .fp16_bytes = 7000,
        .ratio_vs_fp32 = 2.5,
        .ratio_vs_fp16 = 1.25,
        .pays_from = 333,
        .k_rel_l2 = 0.125,
        .v_rel_l2 = 0.25,
        .k_rel_l2_packed = 0.1875,
        .v_rel_l2_packed = 0.375,
        .attn_rel_l2 = 0.0625,
        .attn_max_abs = 0.75,
        .attn_worst_rel_l2 = 0.5,
        .attn_worst_layer = 1,
        .attn_worst_head = 2,
        .attn_prob_kl = 0.03125,
        .bound_max = 17.5,
        .bound_looseness = 65.5,
        .estimates = {[FIGURE_ATTN_ERROR] = {.se = 0.001953125},
                      [FIGURE_ATTN_KL] = {.se = 0.00390625},
                      [FIGURE_KL] = {.se = 0.00048828125},
                      [FIGURE_TOP1] = {.se = 0.0078125},
                      [FIGURE_PPL] = {.se = 0.75},
                      [FIGURE_PPL_CHANGE] = {.se = 0.25, .low = 4.5, .high = 5.5}},
        .kld_mean = 0.015625,
        .kld_p99 = 0.4375,
        .kld_max = 0.875,
        .top1 = 0.9375,
        .ppl = 84.0,
        .ppl_fp32 = 80.0,
        .seconds = 12.5,
        .heads = heads,
    };
    run.scheme = scheme_of("k=4/64,v=2,r=192,mode=sliding,rtype=f16/i8,s=7");
    for (size_t i = 0; i < N_HEADS; i++)
        heads[i] = (evaluate_head){.k = {1.0, 100.0, 1},
                                   .v = {4.0, 100.0, 1},
                                   .k_packed = {9.0, 100.0, 1},
                                   .v_packed = {16.0, 100.0, 1},
                                   .attn = {25.0, 100.0, 1},
                                   .prob_kl_sum = 1.2,
                                   .n_steps = 2,
                                   .attn_max_abs = 0.7f};
    return run;
}

static evaluation evaluation_of(evaluate_run *run)
{
    return (evaluation){.n_layer = 2,
                        .n_head = 3,
                        .head_dim = 64,
                        .n_windows = 1,
                        .n_tokens = 400,
                        .n_weighed = 1024,
                        .has_quality = true,
                        .runs = run,
                        .n_runs = 1};
}

static const model some_model = {.n_params = 1};
static const report_context context = {.isa = "portable",
                                       .precision = "fast",
                                       .threads = 1,
                                       .model_name = "m",
                                       .model = &some_model,
                                       .text_name = "t",
                                       .bos_id = -1};

/* What report_people prints. The caller frees it. */
static char *people(const evaluation *ev, const report_style *style)
{
    char *text = NULL;
    size_t size = 0;
    FILE *f = open_memstream(&text, &size);
    cr_assert_not_null(f);
    report_people(f, &context, ev, style);
    cr_assert_eq(fclose(f), 0);
    return text;
}

static void undo_line_breaks(char *text)
{
    for (; *text; text++)
        *text = *text == '\n' ? ' ' : *text;
}

/* Field i of a line of CSV; commas inside quotes do not count. */
static char *csv_field(const char *line, size_t i)
{
    bool quoted = false;
    for (; i > 0; line++) {
        cr_assert(*line && *line != '\n', "too few fields");
        quoted = quoted != (*line == '"');
        i -= *line == ',' && !quoted;
    }
    size_t length = 0;
    for (quoted = false; line[length] && line[length] != '\n' && (line[length] != ',' || quoted); length++)
        quoted = quoted != (line[length] == '"');
    return strndup(line, length);
}

static void expect_text(const char *what, const char *name, char *got, const char *expected)
{
    cr_expect_str_eq(got, expected, "%s: %s is '%s', expected '%s'", what, name, got, expected);
    free(got);
}

Test(report, csv_has_each_figure_under_its_name)
{
    evaluate_run run = made_up_run();
    evaluation ev = evaluation_of(&run);
    ev.n_windows_asked = 3; /* it was interrupted */
    char *text = NULL;
    size_t size = 0;
    FILE *f = open_memstream(&text, &size);
    cr_assert_not_null(f);
    report_csv(f, &ev);
    cr_assert_eq(fclose(f), 0);
    cr_assert_eq(n_columns, N_SHOWN, "a column was added: say here what it must show");
    const char *row = strchr(text, '\n') + 1;
    for (size_t i = 0; i < N_SHOWN; i++) {
        expect_text("CSV", "a name", csv_field(text, i), figures[i].name);
        expect_text("CSV", figures[i].name, csv_field(row, i), figures[i].value);
    }
    free(text);
}

Test(report, json_has_each_figure_under_its_name)
{
    evaluate_run run = made_up_run();
    evaluation ev = evaluation_of(&run);
    ev.n_windows_asked = 3; /* it was interrupted */
    char *text = NULL;
    size_t size = 0;
    eval_error e;
    FILE *f = open_memstream(&text, &size);
    cr_assert_not_null(f);
    cr_assert(report_json(f, &context, &ev, &e), "%s", e.text);
    cr_assert_eq(fclose(f), 0);
    json_t *root = json_loads(text, JSON_REJECT_DUPLICATES, NULL);
    const json_t *r = json_array_get(json_object_get(root, "runs"), 0);
    for (size_t i = 0; i < N_SHOWN; i++) {
        /* The objects are known here by what is in them; residual_bytes is bytes.residual. */
        static const char *const objects[] = {"bytes", "local", "propagated"};
        const char *name = figures[i].name;
        const bool in_bytes = i >= 8 && i <= 15;
        const json_t *v = in_bytes ? NULL : json_object_get(r, name);
        char plain[32];
        snprintf(plain, sizeof plain, "%.*s", in_bytes ? (int)strcspn(name, "_") : 31, name);
        for (size_t j = 0; !v && j < 3; j++)
            v = json_object_get(json_object_get(r, objects[j]), plain);
        char shown[80];
        if (json_is_string(v))
            snprintf(shown, sizeof shown, "\"%s\"", json_string_value(v));
        else
            snprintf(shown, sizeof shown, "%.9g", json_number_value(v));
        cr_expect(v && strcmp(shown, figures[i].value) == 0, "JSON: %s is %s", name, shown);
    }
    const json_t *head = json_array_get(json_object_get(r, "per_layer"), 4);
    static const struct {
        const char *name;
        double value;
    } of_head[] = {{"layer", 1.0},           {"head", 1.0},
                   {"k_rel_l2", 0.1},        {"v_rel_l2", 0.2},
                   {"k_rel_l2_packed", 0.3}, {"v_rel_l2_packed", 0.4},
                   {"attn_rel_l2", 0.5},     {"attn_prob_kl", 0.6},
                   {"attn_max_abs", 0.7}};
    cr_expect_eq(json_object_size(head), sizeof of_head / sizeof of_head[0]);
    for (size_t i = 0; i < sizeof of_head / sizeof of_head[0]; i++)
        cr_expect_float_eq(json_number_value(json_object_get(head, of_head[i].name)), of_head[i].value, 1e-6,
                           "%s", of_head[i].name);
    json_decref(root);
    free(text);
}

/* Cell i of a row of a Markdown table. */
static char *markdown_cell(const char *row, size_t i)
{
    for (; i > 0; i--)
        row = strchr(row + 1, '|');
    cr_assert(row[0] == '|' && row[1] == ' ', "too few cells: %s", row);
    return strndup(row + 2, (size_t)(strstr(row + 1, " |") - row - 2));
}

Test(report, markdown_has_each_figure_under_its_title)
{
    evaluate_run run = made_up_run();
    const evaluation ev = evaluation_of(&run);
    char *text = people(&ev, &(report_style){.markdown = true, .per_layer = true});
    const char *heading = strstr(text, "| scheme |"), *row = strstr(text, "\n| k=4") + 1;
    size_t n = 0;
    for (size_t i = 0; i < N_SHOWN; i++) {
        if (!figures[i].title)
            continue;
        expect_text("Markdown", "a title", markdown_cell(heading, n), figures[i].title);
        expect_text("Markdown", figures[i].title, markdown_cell(row, n), figures[i].cell);
        n++;
    }
    cr_expect(strstr(text,
                     "| layer | head | K error | V error | K err. packed | V err. packed | attn. error | "
                     "attn. KL |\n"),
              "%s", text);
    cr_expect(strstr(text, "\n| 1 | 2 | 0.1000 | 0.2000 | 0.3000 | 0.4000 | 0.5000 | 0.6000 |\n"), "%s",
              text);
    free(text);
}

/* The plain table: both lines of each title and its value end in the same place. */
static void expect_plain(const char *lines, int left, const shown_figure *const *shown, size_t n)
{
    const char *line[3] = {lines, strchr(lines, '\n') + 1, NULL};
    line[2] = strchr(line[1], '\n') + 1;
    if (strncmp(line[2], "k=4", 3) == 0) /* a long scheme has a line of its own */
        line[2] = strchr(line[2], '\n') + 1;
    size_t at = (size_t)left;
    for (size_t i = 0; i < n; i++) {
        const char *title = shown[i]->title, *space = strrchr(title, ' ');
        const char *lower = space ? space + 1 : title;
        at += strspn(line[2] + at, " ") + strlen(shown[i]->cell);
        const struct {
            size_t line;
            const char *text;
            size_t length;
        } pieces[] = {{0, title, space ? (size_t)(space - title) : 0},
                      {1, lower, strlen(lower)},
                      {2, shown[i]->cell, strlen(shown[i]->cell)}};
        for (size_t p = pieces[0].length > 0 ? 0 : 1; p < 3; p++)
            cr_expect(at >= pieces[p].length &&
                          strncmp(line[pieces[p].line] + at - pieces[p].length, pieces[p].text,
                                  pieces[p].length) == 0 &&
                          line[pieces[p].line][at - pieces[p].length - 1] == ' ',
                      "'%s' does not end at place %zu of\n%s", pieces[p].text, at, lines);
    }
}

Test(report, the_plain_table_has_each_figure_under_its_title)
{
    evaluate_run run = made_up_run();
    const evaluation ev = evaluation_of(&run);
    const shown_figure *shown[N_SHOWN];
    size_t n = 0;
    for (size_t i = 1; i < N_SHOWN; i++)
        if (figures[i].title)
            shown[n++] = &figures[i];
    char *text = people(&ev, &(report_style){.per_layer = true});
    expect_plain(strstr(text, "\n\n") + 2, 12, shown, n);
    static const shown_figure of_head[] = {
        {NULL, NULL, "K error", "0.1000"},       {NULL, NULL, "V error", "0.2000"},
        {NULL, NULL, "K err. packed", "0.3000"}, {NULL, NULL, "V err. packed", "0.4000"},
        {NULL, NULL, "attn. error", "0.5000"},   {NULL, NULL, "attn. KL", "0.6000"}};
    for (size_t i = 0; i < 6; i++)
        shown[i] = &of_head[i];
    expect_plain(strchr(strstr(text, "Per layer"), '\n') + 1, 12, shown, 6);
    free(text);
}

/* Every width drops the least important columns, and names exactly those. */
Test(report, a_narrow_table_names_what_it_left_out)
{
    evaluate_run run = made_up_run();
    const evaluation ev = evaluation_of(&run);
    size_t n_before = 0;
    for (size_t width = 40; width <= 160; width++) {
        char *text = people(&ev, &(report_style){.width = width});
        for (const char *at = text; *at; at += strcspn(at, "\n") + 1)
            cr_expect_leq(strcspn(at, "\n"), width, "%s", text);
        char *left_out = strstr(text, "Not shown at a width of"), *table = strstr(text, "\n\n") + 2;
        if (left_out) {
            undo_line_breaks(left_out);
            char *end = strchr(left_out, '(');
            end[-1] = ','; /* each name ends with one */
            *end = '\0';
        }
        const char *lower = strchr(table, '\n') + 1, *cells = strchr(strchr(lower, '\n') + 1, '\n') + 1;
        size_t n = 0;
        for (size_t i = 1; i < N_SHOWN; i++) {
            char padded[40], named[40];
            snprintf(padded, sizeof padded, " %s", figures[i].title ? figures[i].cell : "");
            snprintf(named, sizeof named, " %s,", figures[i].title ? figures[i].title : "");
            const char *shown = figures[i].title ? strstr(cells, padded) : NULL;
            const bool is_shown = shown && shown < cells + strcspn(cells, "\n");
            n += is_shown;
            if (figures[i].title)
                cr_expect_eq(is_shown, !(left_out && strstr(left_out, named)), "width %zu: %s\n%s", width,
                             named, text);
        }
        cr_expect(n >= n_before && n >= 3, "%zu columns at a width of %zu", n, width);
        n_before = n;
        free(text);
    }
    cr_expect_eq(n_before, 18);
}

/* A report of made-up figures: perplexity off by less than is shown, divergences where decimals run out. */
Test(report, small_numbers_keep_two_digits_and_zero_has_no_sign)
{
    const report_style style = {0};
    for (int sign = -1; sign <= 1; sign += 2) {
        evaluate_run run = {.text = "kivi8",
                            .scheme = scheme_of("kivi8"),
                            .bits_packed = 9.0,
                            .bits_here = 9.5,
                            .usage = {.total = 2000000, .residual = 1580000, .n_packed_elements = 1},
                            .fp32_bytes = 4000000,
                            .k_rel_l2 = 0.0006,
                            .attn_rel_l2 = 0.00094,
                            .attn_prob_kl = 0.0012,
                            .kld_mean = 0.00051,
                            .kld_p99 = 0.0123,
                            .ppl = 100.0 + 0.0049 * sign,
                            .ppl_fp32 = 100.0};
        const evaluation ev = {.n_windows = 1, .n_tokens = 9, .has_quality = true, .runs = &run, .n_runs = 1};
        char *text = people(&ev, &style);
        cr_expect(strstr(text, "(0.00 %)") && strstr(text, " 0.00 %\n"), "%s", text);
        cr_expect(!strstr(text, "-0.00") && !strstr(text, "+0.00"), "%s", text);
        static const char *const cells[] = {" 6.0e-04", " 9.4e-04", " 0.0012", " 5.1e-04", " 0.0123"};
        for (size_t i = 0; i < sizeof cells / sizeof cells[0]; i++)
            cr_expect(strstr(text, cells[i]), "%s is not in\n%s", cells[i], text);
        undo_line_breaks(text);
        cr_expect(
            strstr(
                text,
                "A packed number costs 9.00 bits, at this length and with everything around it 9.50; 1.58 MB "
                "of the cache are tokens kept as float32, a share"),
            "%s", text);
        free(text);
    }
}

/* ---- greedy text ---- */

/* What report_people prints with these first differences, of 1,500 tokens, of three runs in three windows. */
static char *people_of_greedy(size_t n_windows, const report_style *style)
{
    evaluate_run runs[3] = {made_up_run(), made_up_run(), made_up_run()};
    static size_t first[3][3] = {{1500, 1500, 1500}, {1200, 7, 1500}, {1500, 1500, 3}};
    divergence_run found[3] = {{first[0], 1500}, {first[1], 1200}, {first[2], 1500}};
    runs[0].is_reference = true;
    runs[0].text = "fp32";
    runs[1].text = "short";
    evaluation ev = evaluation_of(runs);
    ev.n_runs = 3;
    const divergence d = {.n = 1500,
                          .n_prompt = 262,
                          .n_windows = n_windows,
                          .n_windows_asked = 3,
                          .runs = n_windows > 0 ? found : NULL,
                          .n_runs = 3};
    report_context with = context;
    with.greedy = &d;
    char *text = NULL;
    size_t size = 0;
    FILE *f = open_memstream(&text, &size);
    cr_assert_not_null(f);
    report_people(f, &with, &ev, style);
    cr_assert_eq(fclose(f), 0);
    return text;
}

#define GREEDY_SENTENCE                                                                                      \
    "Greedy text, 1,500 tokens after a prompt of 262 in each of 3 windows: tokens as fp32 writes them "      \
    "before "                                                                                                \
    "the first that differs (1,500+: none does).\n"

Test(report, greedy_text_has_a_table)
{
    char *text = people_of_greedy(3, &(report_style){0});
    cr_expect(strstr(text, "\n\n" GREEDY_SENTENCE "scheme          median     least      most         never\n"
                           "short            1,200         7    1,500+        1 of 3\n"
                           "k=4/64,v=2,r=192,mode=sliding,s=7\n"
                           "                1,500+         3    1,500+        2 of 3\n\n"),
              "%s", text);
    free(text);
    text = people_of_greedy(3, &(report_style){.markdown = true});
    cr_expect(strstr(text, "\n\n" GREEDY_SENTENCE "\n| scheme | median | least | most | never |\n"
                           "|---|---:|---:|---:|---:|\n| short | 1,200 | 7 | 1,500+ | 1 of 3 |\n"
                           "| k=4/64,v=2,r=192,mode=sliding,s=7 | 1,500+ | 3 | 1,500+ | 2 of 3 |\n\n"),
              "%s", text);
    free(text);
}

Test(report, greedy_text_that_was_interrupted_says_so)
{
    char *text = people_of_greedy(2, &(report_style){0});
    cr_expect(strstr(text, "PARTIAL: interrupted when the greedy text of 2 of 3 windows was done.\n") &&
                  strstr(text, "in each of 2 windows") &&
                  strstr(text, "short            1,200         7     1,200        0 of 2\n"),
              "%s", text);
    free(text);
    text = people_of_greedy(0, &(report_style){0});
    cr_expect(strstr(text, "the greedy text of 0 of 3 windows was done.\n") && !strstr(text, "Greedy text,"),
              "%s", text);
    free(text);
}

/* ---- the sentences ---- */

static void expect_sentence(const evaluate_run *run, const char *sentence, bool wanted)
{
    evaluate_run copy = *run;
    const evaluation ev = evaluation_of(&copy);
    char *text = people(&ev, &(report_style){.width = 90});
    undo_line_breaks(text);
    cr_expect_eq(strstr(text, sentence) != NULL, wanted, "'%s' is%s in: %s", sentence, wanted ? " not" : "",
                 text);
    free(text);
}

Test(report, sentences_say_where_a_cache_is_larger_than_fp16)
{
    evaluate_run run = made_up_run();
    expect_sentence(
        &run,
        "keeps the cache of 400 tokens in 7.1 kB, where plain fp16 takes 7.0 kB and fp32 14.0 kB: 1.25 "
        "times smaller than fp16. From 333 tokens on it stays smaller than fp16. A packed number costs "
        "3.50 bits, at this length and with everything around it 8.25; 2.0 kB of the cache are tokens "
        "kept as float16 keys and int8 values, a share that shrinks as the context grows; 1.1 kB are for "
        "what "
        "it learns from the queries.",
        true);
    run.ratio_vs_fp16 = 0.9;
    run.pays_from = 1000;
    expect_sentence(&run, "and fp32 14.0 kB: larger than fp16. From 1,000 tokens on it stays smaller", true);
    run.pays_from = 0;
    expect_sentence(
        &run,
        "larger than fp16. Up to 1,024 tokens there is no length from which on it stays smaller than "
        "fp16.",
        true);
    run.usage.n_packed_elements = 0;
    expect_sentence(&run, "Nothing is packed yet, because all tokens fit the residual and the sinks.", true);
    expect_sentence(&run, "A packed number", false);
}

Test(report, sentences_cut_a_scheme_of_many_layers)
{
    static const char text[] = "kivi2+0=kivi4+2=kivi4+4=kivi4+6=kivi4+8=kivi4+10=kivi4+12=kivi4+14=kivi4+16="
                               "kivi4+18=kivi4+20=kivi4+22=kivi4+24=kivi4+26=kivi4";
    evaluate_run run = made_up_run();
    run.scheme = scheme_of(text);
    run.text = kvq_scheme_text(run.scheme);
    cr_assert_str_eq(run.text, text);
    expect_sentence(&run, "+22=kivi4+24=kivi... keeps the cache of 400 tokens in 7.1 kB", true);
    expect_sentence(&run, "2.0 kB of the cache are tokens kept as their layer's scheme says, a share", true);
}

Test(report, sentences_call_the_attention_error_pooled_and_name_the_worst_head)
{
    const evaluate_run run = made_up_run();
    expect_sentence(
        &run, "attention is off by 6.2 %, layers and heads pooled; the worst, head 2 of layer 1, by 50 %.",
        true);
    expect_sentence(&run, "in each layer", false);
}

Test(report, sentences_keep_to_plain_numbers)
{
    evaluate_run run = made_up_run();
    run.attn_rel_l2 = 1.063, run.attn_worst_rel_l2 = 23.4;
    expect_sentence(&run, "attention is off by 106 %", true);
    expect_sentence(&run, "by 2340 %.", true);
    run.ppl_fp32 = (double)INFINITY;
    expect_sentence(&run, "perplexity passes what a number can hold: with fp32 it is inf", true);
    expect_sentence(&run, "ruins", false);
}

/* What a person must know to repeat a run stands in its title, but for what is the default. */
Test(report, titles_name_what_was_asked_for)
{
    static const report_style style = {.width = 1000};
    const struct {
        const char *precision;
        bool append_only;
        const char *end;
    } cases[] = {{"fast", false, "portable kernels, 1 thread\n"},
                 {"exact", false, "portable kernels, 1 thread, exact precision\n"},
                 {"exact", true, "1 thread, exact precision, without evidence (append only)\n"}};
    for (size_t i = 0; i < sizeof cases / sizeof cases[0]; i++) {
        report_context c = context;
        char text[2048] = "";
        c.precision = cases[i].precision;
        c.append_only = cases[i].append_only;
        FILE *f = fmemopen(text, sizeof text, "w");
        cr_assert_not_null(f);
        report_header(f, &c, 1, 400, 0, &style);
        cr_assert_eq(fclose(f), 0);
        cr_assert_not_null(strstr(text, cases[i].end), "%s", text);
    }
}

/* Each verdict on either side of where it begins. */
Test(report, sentences_judge_the_change_of_perplexity)
{
    static const struct {
        double percent;
        const char *verdict;
    } cases[] = {{0.09, "nothing one could notice"}, {0.11, "a small change"},
                 {0.99, "a small change"},           {1.01, "clear but moderate"},
                 {4.9, "clear but moderate"},        {5.1, "a serious loss"},
                 {19.9, "a serious loss"},           {20.1, "ruins"},
                 {-1.01, "chance, not a gain"}};
    for (size_t i = 0; i < sizeof cases / sizeof cases[0]; i++) {
        evaluate_run run = made_up_run();
        run.ppl = run.ppl_fp32 * (1 + cases[i].percent / 100);
        expect_sentence(&run, cases[i].verdict, true);
    }
}

/* Three schemes after fp32: the last is described and compared with the first, and the front leaves out the
 * one that another beats in both. */
static void expect_comparison_of(size_t n_runs, size_t unpacked, const char *sentence, bool wanted)
{
    evaluate_run runs[4] = {made_up_run(), made_up_run(), made_up_run(), made_up_run()};
    runs[0].scheme = scheme_of("fp32");
    runs[0].text = "fp32";
    static const char *const names[] = {NULL, "first", "second", "third"};
    static const double kl[] = {0, 0.02, 0.05, 0.005};
    static const size_t total[] = {0, 3000, 4000, 5000};
    for (size_t i = 1; i < 4; i++) {
        runs[i].text = names[i];
        runs[i].kld_mean = kl[i];
        runs[i].usage.total = total[i];
        runs[i].bits_packed = (double)i;
        runs[i].usage.n_packed_elements = i == unpacked ? 0 : 1000;
    }
    evaluation ev = evaluation_of(runs);
    ev.n_runs = n_runs;
    char *text = people(&ev, &(report_style){.width = 90});
    undo_line_breaks(text);
    cr_expect_eq(strstr(text, sentence) != NULL, wanted, "'%s' is%s in: %s", sentence, wanted ? " not" : "",
                 text);
    free(text);
}

static void expect_comparison(size_t n_runs, const char *sentence, bool wanted)
{
    expect_comparison_of(n_runs, 0, sentence, wanted);
}

Test(report, sentences_have_no_factor_next_to_one_that_has_packed_nothing)
{
    expect_comparison_of(3, 0, "Next to first, second has 2.5 times", true);
    expect_comparison_of(3, 1, "Next to", false);
    expect_comparison_of(3, 2, "Next to", false);
    expect_comparison_of(3, 2, "second keeps the cache of 400 tokens in 4.0 kB", true);
}

Test(report, sentences_compare_the_last_scheme_with_the_first)
{
    expect_comparison(2, "Next to", false);
    expect_comparison(2, "first keeps the cache of 400 tokens in 3.0 kB", true);
    expect_comparison(3, "second keeps the cache of 400 tokens in 4.0 kB", true);
    expect_comparison(3,
                      "Next to first, second has 2.5 times more next-token divergence, in 4.0 kB instead of "
                      "3.0 kB and 2.00 instead of 1.00 bits for a packed number. ",
                      true);
    expect_comparison(3, "On the front", false);
    expect_comparison(4, "third keeps the cache of 400 tokens in 5.0 kB", true);
    expect_comparison(4,
                      "Next to first, third has 4 times less next-token divergence, in 5.0 kB instead of "
                      "3.0 kB and 3.00 instead of 1.00 bits for a packed number. ",
                      true);
    expect_comparison(4,
                      "On the front, where no other scheme here is both smaller and closer to fp32: first; "
                      "third.",
                      true);
}

/* What is beside packed numbers is compared layer by layer, of the layers that there are. */
Test(report, sentences_say_where_layers_keep_other_tokens)
{
    static const struct {
        const char *scheme;
        bool alike;
    } cases[] = {
        {"kivi4", true}, {"kivi4+0=kivi8", true}, {"kivi4+1=kivi8,s=4", false}, {"kivi4,s=4", false}};
    for (size_t i = 0; i < 2 * sizeof cases / sizeof cases[0]; i++) {
        evaluate_run runs[2] = {made_up_run(), made_up_run()};
        for (size_t j = 0; j < 2; j++) {
            runs[j].scheme = scheme_of(j == i % 2 ? "kivi2" : cases[i / 2].scheme);
            runs[j].text = kvq_scheme_text(runs[j].scheme);
        }
        evaluation ev = evaluation_of(runs);
        ev.n_runs = 2;
        char *text = people(&ev, &(report_style){.width = 90});
        undo_line_breaks(text);
        cr_expect_eq(strstr(text, "differ in what they keep") == NULL, cases[i / 2].alike, "%s: %s",
                     cases[i / 2].scheme, text);
        free(text);
    }
}

/* ---- the manual ---- */

/* The lines of METRICS, one after the other; `at` moves on. False after its last. */
static bool next_line(const char **at, char *line, size_t size)
{
    if (strncmp(*at, ".Sh ", 4) == 0 || **at == '\0')
        return false;
    const size_t length = strcspn(*at, "\n");
    cr_assert_lt(length, size);
    memcpy(line, *at, length);
    line[length] = '\0';
    *at += length + 1;
    return true;
}

/* Its sections are the parts, its items the columns with name, title and sentences, in their order, and there
 * are no others. */
Test(report, the_manual_has_every_column_and_nothing_else)
{
    static char manual[1 << 16];
    FILE *f = fopen(KVQ_SOURCE_DIR "/eval/kvq-eval.1", "r");
    cr_assert_not_null(f);
    manual[fread(manual, 1, sizeof manual - 1, f)] = '\0';
    fclose(f);
    const char *at = strstr(manual, ".Sh METRICS\n");
    cr_assert_not_null(at);
    at = strchr(at, '\n') + 1;
    char line[256], doc[2048] = "";
    size_t n = 0;
    int part = -1;
    const column *item = NULL;
    for (bool more = true; more;) {
        more = next_line(&at, line, sizeof line);
        if (item && (!more || line[0] == '.')) {
            cr_expect_str_eq(doc, item->doc, "kvq-eval.1 says of %s: '%s', columns.c: '%s'", item->name, doc,
                             item->doc);
            item = NULL;
        }
        if (more && strncmp(line, ".Ss ", 4) == 0) {
            cr_assert_lt(++part, N_PARTS, "a section too many: %s", line);
            cr_expect_str_eq(line + 4, column_parts[part].title);
        } else if (more && strncmp(line, ".It ", 4) == 0) {
            cr_assert_lt(n, n_columns, "an item too many: %s", line);
            item = &columns[n++];
            char wanted[128], title[64];
            snprintf(title, sizeof title, "%s", item->title + (item->title[0] == '|'));
            if (strchr(title, '|'))
                *strchr(title, '|') = ' ';
            snprintf(wanted, sizeof wanted, ".It %s (%s)", item->name, title);
            cr_expect_str_eq(line, wanted);
            cr_expect_eq((int)item->part, part, "%s is in another section", item->name);
            doc[0] = '\0';
        } else if (more && item) {
            cr_assert_lt(strlen(doc) + strlen(line) + 2, sizeof doc);
            strcat(doc, doc[0] ? " " : "");
            strcat(doc, line);
        }
    }
    cr_expect_eq(n, n_columns, "kvq-eval.1 ends before %s", columns[n < n_columns ? n : 0].name);
    cr_expect_eq(part + 1, N_PARTS);
}

/* What the table relies on. */
Test(report, ranks_are_different_and_titles_fit_their_columns)
{
    bool seen[64] = {false};
    for (size_t i = 0; i < n_columns; i++) {
        const column *c = &columns[i];
        if (i > 0)
            cr_expect_geq((int)c->part, (int)columns[i - 1].part, "%s: parts stand together", c->name);
        if (c->rank == 0)
            continue;
        cr_assert(c->rank < 32 && !seen[c->rank], "%s: rank %d", c->name, c->rank);
        seen[c->rank] = true;
        const size_t upper = strcspn(c->title, "|"), whole = strlen(c->title);
        const size_t lower = upper < whole ? whole - upper - 1 : whole;
        cr_expect((upper == whole || (int)upper < c->width) && (int)lower < c->width, "%s: '%s' in %d",
                  c->name, c->title, c->width);
    }
}
