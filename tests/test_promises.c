/*
 * What the project promises of its default model and text, in hard numbers: they hold on any machine, or the
 * promise must be taken back.
 */
#define _XOPEN_SOURCE 700

#include "tests/support.h"
#include "tests/tool.h"

TestSuite(promises, .init = enter, .fini = leave, .disabled = SANITIZED);

static const json_t *expect_run(const json_t *root, size_t i, const char *scheme)
{
    const json_t *r = json_array_get(json_object_get(root, "runs"), i);
    cr_assert_str_eq(json_string_value(json_object_get(r, "scheme")), scheme);
    return r;
}

/* A number of at most this, and no less than a third: figures of another kind would be no promise. */
static void expect_at_most(const char *what, const json_t *number, double most)
{
    cr_assert(json_is_real(number), "%s", what);
    const double x = json_real_value(number);
    cr_expect(x <= most && x > most / 3, "%s is %g, promised are %g", what, x, most);
}

static const json_t *divergence(const json_t *r)
{
    return json_object_get(json_object_get(r, "propagated"), "kld_mean");
}

Test(promises, the_default_table)
{
    cr_assert_eq(run("$E --quiet --json -"), 0, "%s", err);
    json_t *root = load_json(out);
    cr_assert_eq(json_array_size(json_object_get(root, "runs")), 3);
    const json_t *text = json_object_get(root, "text");
    cr_assert_eq(json_integer_value(json_object_get(text, "n_windows")), 4);
    cr_assert_eq(json_integer_value(json_object_get(text, "n_tokens")), 4096);
    expect_run(root, 0, "fp32");
    const json_t *kivi2 = expect_run(root, 1, "kivi2"), *kvq2 = expect_run(root, 2, "kvq2");
    expect_at_most("kvq2's mean KL", divergence(kvq2), 0.00025);
    expect_at_most("kvq2's bits", json_object_get(kvq2, "bits_packed"), 2.45);
    cr_expect_eq(json_real_value(json_object_get(kivi2, "bits_packed")), 3.0);
    cr_expect_gt(json_real_value(divergence(kivi2)), 8 * json_real_value(divergence(kvq2)));
    json_decref(root);
}

Test(promises, feedback)
{
    cr_assert_eq(run("$E --quiet --bound off --scheme kvq2-fb --json -"), 0, "%s", err);
    json_t *root = load_json(out);
    const json_t *r = expect_run(root, 1, "kvq2-fb");
    expect_at_most("kvq2-fb's mean KL", divergence(r), 0.00010);
    expect_at_most("kvq2-fb's bits", json_object_get(r, "bits_packed"), 2.45);
    json_decref(root);
}
