/* What the tool says of how sure its figures are: limits with an interval, figures by window, a line for each
 * token. */
#define _XOPEN_SOURCE 700

#include "tests/tool.h"

#include <math.h>

TestSuite(uncertainty, .init = enter, .fini = leave);

#define TWO "--windows 2 --tokens 200 --scheme kivi2,r=32 --bound off --quiet "

static const json_t *part_of(const json_t *root, size_t i, const char *name)
{
    return json_object_get(json_array_get(json_object_get(root, "runs"), i), name);
}

static double number(const json_t *object, const char *name)
{
    return json_number_value(json_object_get(object, name));
}

Test(uncertainty, a_confident_limit_is_the_intervals_end)
{
    cr_assert_eq(run("$E compare kivi2,r=32 fp32 --json - --windows 2 --tokens 200 --quiet"), 0, "%s", err);
    json_t *c = load_json(out);
    const json_t *kl = json_object_get(json_object_get(json_object_get(c, "figures"), "kld_mean"), "a");
    const double value = number(kl, "value"), high = number(kl, "high");
    cr_assert(value > 0.0 && high > 1.05 * value);
    cr_expect_eq(run("$E " TWO "--max-kld %.6g", 0.5 * (value + high)), 0, "%s", err);
    cr_expect_eq(run("$E " TWO "--max-kld %.6g --confident", 0.5 * (value + high)), 3);
    cr_expect(strstr(err, "kivi2,r=32: the 95 % interval's end of mean next-token KL") &&
                  strstr(err, "breaks --max-kld"),
              "%s", err);
    cr_expect_eq(run("$E " TWO "--max-kld %.6g --confident", 1.01 * high), 0, "%s", err);
    json_decref(c);
    /* A window of one block has no interval, so nothing can be said. */
    cr_expect_eq(run("$E --windows 1 --tokens 60 --scheme kivi2,r=32 --quiet --max-kld 100 --confident"), 3);
    cr_expect(strstr(err, "mean next-token KL has no interval, so --max-kld --confident cannot hold"), "%s",
              err);
    cr_expect_eq(run("$E " TWO "--confident"), 2);
    cr_expect(strstr(err, "--confident is about"), "%s", err);
}

Test(uncertainty, windows_of_a_report_add_up)
{
    cr_assert_eq(run("$E " TWO "--json -"), 0, "%s", err);
    json_t *root = load_json(out);
    const json_t *windows = part_of(root, 1, "per_window"), *whole = part_of(root, 1, "propagated");
    cr_assert_eq(json_array_size(windows), 2);
    const json_t *a = json_array_get(windows, 0), *b = json_array_get(windows, 1);
    cr_expect(number(a, "window") == 0.0 && number(b, "window") == 1.0);
    const double kl = 0.5 * (number(a, "kld_mean") + number(b, "kld_mean"));
    cr_expect(fabs(kl - number(whole, "kld_mean")) <= 1e-7 * kl, "both windows have as many steps");
    const double ppl = exp(0.5 * (log(number(a, "ppl")) + log(number(b, "ppl"))));
    cr_expect(fabs(ppl - number(whole, "ppl")) <= 1e-6 * ppl);
    cr_expect(fabs(0.5 * (number(a, "top1") + number(b, "top1")) - number(whole, "top1")) < 1e-7);
    const json_t *how = json_object_get(root, "uncertainty");
    cr_expect_str_eq(json_string_value(json_object_get(how, "drawn")), "blocks of 64 tokens");
    cr_expect_eq(number(how, "replicates"), 1000.0);
    /* Standard errors lie where those of some eight blocks must: not nothing, not as large as the figure. */
    cr_expect(number(whole, "kld_mean_se") > 0.01 * kl && number(whole, "kld_mean_se") < kl);
    json_decref(root);
}

/* Sums over the lines of a scheme. */
typedef struct sums {
    size_t n, n_next, n_agree;
    double kl, nll;
    json_int_t next; /* of the line before */
} sums;

enum { PROMPT = 30, COUNTED = 200 - PROMPT }; /* steps of a window */

static void add_line(sums *s, const char *line, size_t at)
{
    json_t *x = load_json(line);
    cr_assert_str_eq(json_string_value(json_object_get(x, "scheme")), "kivi2,r=32");
    cr_assert_eq(number(x, "window"), (double)(at / COUNTED));
    cr_assert_eq(number(x, "position"), (double)(PROMPT + at % COUNTED));
    const json_t *next = json_object_get(x, "next"), *nll = json_object_get(x, "nll");
    cr_assert_eq(json_is_null(next), at % COUNTED == COUNTED - 1);
    cr_assert_eq(json_is_null(nll), json_is_null(next));
    cr_assert(at % COUNTED == 0 || json_integer_value(json_object_get(x, "token")) == s->next);
    s->next = json_integer_value(next);
    s->n++;
    s->n_next += !json_is_null(next);
    s->n_agree +=
        json_integer_value(json_object_get(x, "best")) == json_integer_value(json_object_get(x, "best_fp32"));
    s->kl += number(x, "kl");
    s->nll += json_number_value(nll);
    json_decref(x);
}

Test(uncertainty, a_line_for_each_token)
{
    cr_assert_eq(run("$E " TWO "--prompt 30 --per-token - > t.jsonl && $E " TWO
                     "--prompt 30 --json - --per-token again.jsonl && "
                     "cmp t.jsonl again.jsonl"),
                 0, "%s", err);
    json_t *root = load_json(out);
    static char lines[1 << 18];
    sums s = {0};
    read_file("t.jsonl", lines, sizeof lines);
    size_t at = 0;
    for (char *line = strtok(lines, "\n"); line; line = strtok(NULL, "\n"))
        add_line(&s, line, at++);
    const json_t *whole = part_of(root, 1, "propagated");
    cr_assert_eq(s.n, 2 * COUNTED);
    cr_assert_eq(s.n_next, 2 * COUNTED - 2);
    cr_expect(fabs(s.kl / (2 * COUNTED) / number(whole, "kld_mean") - 1.0) < 1e-7);
    cr_expect(fabs((double)s.n_agree / (2 * COUNTED) - number(whole, "top1")) < 1e-8);
    cr_expect(fabs(exp(s.nll / (2 * COUNTED - 2)) / number(whole, "ppl") - 1.0) < 1e-7);
    json_decref(root);
    cr_expect_eq(run("$E --model random:2,2,32,128,100 --per-token x"), 2);
    cr_expect(strstr(err, "--per-token means nothing for random weights"), "%s", err);
    cr_expect_eq(run("$E " TWO "--per-token x --json x"), 2);
    cr_expect_eq(run("$E " TWO "--per-token - --json -"), 2);
    cr_expect_eq(run("$E " TWO "--per-token /nowhere/x"), 1);
    cr_expect(strstr(err, "/nowhere/x"), "%s", err);
}
