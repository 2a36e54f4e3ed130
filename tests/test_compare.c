/* kvq-eval compare: from results and measured now, and what it refuses. */
#define _XOPEN_SOURCE 700

#include "tests/tool.h"

#include <math.h>

TestSuite(compare, .init = enter, .fini = leave);

#define WHERE "--windows 2 --tokens 200 --threads 1 --quiet "

static const json_t *figure(const json_t *root, const char *name)
{
    return json_object_get(json_object_get(root, "figures"), name);
}

static double value(const json_t *figure, const char *of, const char *which)
{
    return json_number_value(json_object_get(json_object_get(figure, of), which));
}

Test(compare, says_which_is_better_and_how_sure)
{
    cr_assert_eq(run("$E compare kivi4,r=32 kivi2,r=32 " WHERE), 0, "%s", err);
    cr_expect(strstr(out, "A: kivi4,r=32\nB: kivi2,r=32\n"), "%s", out);
    cr_expect(strstr(out, "A is closer to fp32 than B: ") && strstr(out, "times less next-token divergence"),
              "%s", out);
    cr_expect(strstr(out, "which is more than chance. A takes") && strstr(out, "% more bytes."), "%s", out);
    cr_expect(strstr(out, "blocks of 64 tokens"), "%s", out);
    /* The other way round everything is the other way round. */
    cr_assert_eq(run("$E compare kivi2,r=32 kivi4,r=32 " WHERE), 0, "%s", err);
    cr_expect(strstr(out, "B is closer to fp32 than A: ") && strstr(out, "% fewer bytes."), "%s", out);
}

Test(compare, nothing_has_no_factor)
{
    cr_assert_eq(run("$E compare fp32 kivi2,r=32 " WHERE), 0, "%s", err);
    cr_expect(
        strstr(out, "A is closer to fp32 than B: it has no next-token divergence, which is more than chance"),
        "%s", out);
}

/* Both schemes keep the first tokens whole, so in some draws of short windows nothing differs: no ratio. */
Test(compare, says_why_there_is_no_interval)
{
    cr_assert_eq(run("$E compare kivi4,r=128 kivi2,r=128 " WHERE), 0, "%s", err);
    cr_expect(strstr(out, "times less next-token divergence (no interval: some draws have no divergence)"),
              "%s", out);
    cr_assert_eq(run("$E compare kivi4,r=32 kivi2,r=32 " WHERE), 0, "%s", err);
    cr_expect(strstr(out, "(95 % interval ") && !strstr(out, "no interval"), "%s", out);
    cr_assert_eq(run("$E compare fp32 kivi2,r=32 " WHERE), 0, "%s", err);
    cr_expect(!strstr(out, "interval:"), "%s", out);
}

Test(compare, figures_are_those_of_the_report)
{
    cr_assert_eq(run("$E compare kivi4,r=32 kivi2,r=32 --json - " WHERE), 0, "%s", err);
    json_t *c = load_json(out);
    cr_assert_eq(run("$E --scheme kivi4,r=32 --scheme kivi2,r=32 --bound off --json - " WHERE), 0, "%s", err);
    json_t *r = load_json(out);
    static const char *const names[][2] = {{"propagated", "kld_mean"},
                                           {"propagated", "top1"},
                                           {"propagated", "ppl_increase"},
                                           {"local", "attn_rel_l2"},
                                           {"local", "attn_prob_kl"}};
    for (size_t i = 0; i < sizeof names / sizeof names[0]; i++) {
        const json_t *f = figure(c, names[i][1]);
        for (size_t side = 0; side < 2; side++) {
            char se[32];
            snprintf(se, sizeof se, "%s_se", names[i][1]);
            const json_t *run = json_array_get(json_object_get(r, "runs"), 1 + side);
            const json_t *part = json_object_get(run, names[i][0]);
            const char *of = side == 0 ? "a" : "b";
            const double wanted = json_number_value(json_object_get(part, names[i][1]));
            const double wanted_se = json_number_value(json_object_get(part, se));
            cr_expect(fabs(value(f, of, "value") - wanted) <= 1e-6 * fabs(wanted), "%s: %g, %g", names[i][1],
                      value(f, of, "value"), wanted);
            cr_expect(fabs(value(f, of, "se") - wanted_se) <= 1e-6 * wanted_se, "%s: %g, %g", se,
                      value(f, of, "se"), wanted_se);
        }
        const double diff = value(f, "a", "value") - value(f, "b", "value");
        cr_expect(fabs(value(f, "difference", "value") - diff) <= 1e-6 * fabs(diff), "%s", names[i][1]);
        /* 4 bits are better in everything that is measured here, perplexity's change but for chance. */
        const double better = json_number_value(json_object_get(f, "a_is_better"));
        cr_expect(i == 2 || better == 1.0, "%s: %g", names[i][1], better);
        cr_expect(value(f, "difference", "low") <= diff && diff <= value(f, "difference", "high"));
    }
    json_decref(c);
    json_decref(r);
}

/* What people read is what programs read: the factor and its limits either way round, units, bytes. */
static void expect_same_in_words(const char *schemes, bool a_is_closer)
{
    cr_assert_eq(run("$E compare %s --json r.json " WHERE, schemes), 0, "%s", err);
    static char text[1 << 14];
    read_file("r.json", text, sizeof text);
    json_t *root = load_json(text);
    const json_t *kl = figure(root, "kld_mean");
    const double sign = a_is_closer ? -1.0 : 1.0;
    double factor = 0.0, low = 0.0, high = 0.0, top1 = 0.0, se = 0.0, percent = 0.0;
    cr_assert_eq(sscanf(strstr(out, "closer to fp32 than ") + 21, ": %lf times", &factor), 1, "%s", out);
    cr_assert_eq(sscanf(strstr(out, "(95 % interval "), "(95 %% interval %lf to %lf)", &low, &high), 2, "%s",
                 out);
    cr_expect_float_eq(log(factor), sign * value(kl, "log_ratio", "value"), 0.01);
    cr_expect_float_eq(log(low), sign * value(kl, "log_ratio", a_is_closer ? "high" : "low"), 0.01);
    cr_expect_float_eq(log(high), sign * value(kl, "log_ratio", a_is_closer ? "low" : "high"), 0.01);
    cr_assert_eq(sscanf(strstr(out, "top-1 same, %"), "top-1 same, %% %lf ± %lf", &top1, &se), 2, "%s", out);
    cr_expect_float_eq(top1, 100.0 * value(figure(root, "top1"), "a", "value"), 0.006);
    cr_expect_float_eq(se / (100.0 * value(figure(root, "top1"), "a", "se")), 1.0, 0.5, "one digit: %g", se);
    const char *line = strstr(out, "bytes of the cache");
    const char *end = strstr(line, " %\n");
    while (end[-1] != ' ')
        end--;
    percent = strtod(end, NULL);
    const double of_a = json_number_value(json_object_get(json_object_get(root, "a"), "bytes"));
    const double of_b = json_number_value(json_object_get(json_object_get(root, "b"), "bytes"));
    cr_expect_float_eq(percent, 100.0 * (of_a / of_b - 1.0), 0.051, "%g", percent);
    json_decref(root);
}

Test(compare, words_say_what_json_says)
{
    expect_same_in_words("kivi4,r=32 kivi2,r=32", true);
    expect_same_in_words("kivi2,r=32 kivi4,r=32", false);
}

Test(compare, results_give_what_measuring_gives)
{
    cr_assert_eq(run("$E sweep --out r.jsonl --scheme kivi4,r=32 --scheme kivi2,r=32 " WHERE), 0, "%s", err);
    cr_assert_eq(
        run("$E compare kivi2,r=32 kivi4,r=32 r.jsonl > from && $E compare kivi2,r=32 kivi4,r=32 " WHERE
            "> now && cmp from now"),
        0, "%s%s", out, err);
    cr_assert_eq(run("$E compare kivi2,r=32 kivi4,r=32 r.jsonl --bootstrap-seed 7"), 0);
    cr_expect(strstr(out, "seed 7"), "%s", out);
    cr_assert_eq(run("$E compare kvq2 kivi4,r=32 r.jsonl"), 1);
    cr_expect(strstr(err, "r.jsonl: there is no window that both kvq2 and kivi4,r=32 were measured on"), "%s",
              err);
}

Test(compare, refuses_what_makes_no_sense)
{
    static const struct {
        const char *arguments;
        int status;
        const char *message;
    } cases[] = {
        {"", 2, "which two schemes?"},
        {"kvq2", 2, "which two schemes?"},
        {"kvq2 kvq2", 1, "are the same scheme"},
        {"kvq2 k=tier:2,v=rot:2,hh=2,s=4,mode=sliding,rtype=f16/i8", 1, "are the same scheme"},
        {"kvq2 nonsense", 1, "nonsense"},
        {"kvq2 kivi2 missing.jsonl", 1, "missing.jsonl"},
        {"kvq2 kivi2 missing.jsonl --tokens 100", 2, "results are there already"},
        {"kvq2 kivi2 --kv x --model y", 2, "--kv and --model"},
    };
    for (size_t i = 0; i < sizeof cases / sizeof cases[0]; i++) {
        cr_expect_eq(run("$E compare --quiet %s", cases[i].arguments), cases[i].status, "%s: %s",
                     cases[i].arguments, err);
        cr_expect(strstr(err, cases[i].message), "%s: %s", cases[i].arguments, err);
    }
}
