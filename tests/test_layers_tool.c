/* Schemes that differ by layer in kvq-eval: measurements, generation, reports, layers that a model lacks. */
#define _XOPEN_SOURCE 700

#include "eval/measure/evaluate.h"
#include "eval/measure/generate.h"
#include "eval/model/inputs.h"
#include "tests/support.h"
#include "tests/tool.h"

#include <math.h>

#define MODEL   DATA "/gpt2-6m" /* of 6 layers */
#define N_LAYER ((size_t)6)

TestSuite(layers, .init = enter, .fini = leave);

static inputs load(size_t n_tokens, size_t n_prompt)
{
    inputs in;
    eval_error e;
    progress line = {.shown = false};
    const inputs_request request = {.model = MODEL,
                                    .text = DATA "/sample.txt",
                                    .windows = 1,
                                    .tokens = n_tokens,
                                    .prompt = n_prompt,
                                    .seed = 7};
    cr_assert(inputs_load(&in, &request, &line, &e), "%s", e.text);
    return in;
}

static bool evaluated(evaluation *ev, const inputs *in, kvq_scheme *const *schemes, size_t n, eval_error *e)
{
    const evaluate_config config = {.model = in->model,
                                    .ids = in->ids,
                                    .n_windows = in->n_windows,
                                    .n_tokens = in->n_tokens,
                                    .n_prompt = in->n_prompt,
                                    .schemes = schemes,
                                    .n_schemes = n,
                                    .bound_every = 64};
    return evaluate(ev, &config, e);
}

static void expect_same_head(const evaluate_head *got, const evaluate_head *wanted, size_t layer)
{
    const metric_l2 a[] = {got->k, got->v, got->k_packed, got->v_packed, got->attn};
    const metric_l2 b[] = {wanted->k, wanted->v, wanted->k_packed, wanted->v_packed, wanted->attn};
    for (size_t i = 0; i < 5; i++)
        cr_expect(a[i].error == b[i].error && a[i].reference == b[i].reference && a[i].n == b[i].n,
                  "layer %zu, figure %zu: error %g, expected %g", layer, i, a[i].error, b[i].error);
    cr_expect(got->prob_kl_sum == wanted->prob_kl_sum && got->attn_max_abs == wanted->attn_max_abs &&
                  got->n_steps == wanted->n_steps && got->bound.max == wanted->bound.max,
              "layer %zu", layer);
}

/* Local errors are those of each layer's scheme alone, bit for bit, sinks and packed tokens told apart. */
Test(layers, have_the_local_errors_of_their_own_schemes)
{
    static const char *const texts[] = {"fp32", "kivi2,r=32", "kivi4,r=64,s=5",
                                        "fp32+1=kivi2,r=32+3-4=kivi4,r=64,s=5"};
    static const size_t run_of_layer[N_LAYER] = {0, 1, 0, 2, 2, 0};
    kvq_scheme *schemes[4];
    for (size_t i = 0; i < 4; i++)
        schemes[i] = scheme_of(texts[i]);
    inputs in = load(150, 10);
    evaluation ev;
    eval_error e;
    cr_assert(evaluated(&ev, &in, schemes, 4, &e), "%s", e.text);
    cr_assert(ev.n_runs == 4 && ev.n_layer == N_LAYER);
    const evaluate_run *mixed = &ev.runs[3];
    cr_assert_str_eq(mixed->text, texts[3]);
    for (size_t i = 0; i < ev.n_layer * ev.n_head; i++) {
        const size_t layer = i / ev.n_head;
        expect_same_head(&mixed->heads[i], &ev.runs[run_of_layer[layer]].heads[i], layer);
        cr_expect_eq(mixed->heads[i].attn.error > 0.0, run_of_layer[layer] > 0, "layer %zu", layer);
    }
    cr_assert(mixed->kld_mean > 0.0 && mixed->attn_rel_l2 < ev.runs[1].attn_rel_l2);
    cr_assert(mixed->usage.total < ev.runs[0].usage.total && mixed->usage.total > ev.runs[1].usage.total);
    cr_assert_eq(mixed->usage.sinks, 2 * 2 * 5 * 4 * 64 * sizeof(float), "of two layers");
    evaluation_free(&ev);
    inputs_free(&in);
}

/* One scheme said layer by layer, so that its own cache is made anew for each: every figure is the same. */
Test(layers, that_are_all_named_are_that_scheme)
{
    kvq_scheme *const schemes[] = {scheme_of("kivi2,r=32"), scheme_of("fp32+0-5=kivi2,r=32")};
    inputs in = load(150, 0);
    evaluation ev;
    eval_error e;
    cr_assert(evaluated(&ev, &in, schemes, 2, &e), "%s", e.text);
    const evaluate_run *plain = &ev.runs[1], *named = &ev.runs[2];
    cr_assert_neq(strcmp(plain->text, named->text), 0);
    cr_assert(plain->kld_mean == named->kld_mean && plain->kld_mean > 0.0);
    cr_assert(plain->kld_max == named->kld_max && plain->ppl == named->ppl && plain->top1 == named->top1);
    cr_assert(plain->usage.total == named->usage.total && plain->bits_packed == named->bits_packed);
    cr_assert_eq(plain->pays_from, named->pays_from);
    for (size_t i = 0; i < ev.n_layer * ev.n_head; i++)
        expect_same_head(&named->heads[i], &plain->heads[i], i / ev.n_head);
    evaluation_free(&ev);
    inputs_free(&in);
}

/* The first layer that is off leaves everything before it exact, and what follows not. */
Test(layers, propagate_from_where_they_differ)
{
    kvq_scheme *const schemes[] = {scheme_of("fp32+5=kivi2,r=32"), scheme_of("fp32+0=kivi2,r=32"),
                                   scheme_of("fp32+0=fp32+5=fp32,r=16")};
    inputs in = load(150, 0);
    evaluation ev;
    eval_error e;
    cr_assert(evaluated(&ev, &in, schemes, 3, &e), "%s", e.text);
    cr_assert(ev.runs[1].kld_mean > 0.0 && ev.runs[2].kld_mean > 0.0);
    cr_assert_neq(ev.runs[1].kld_mean, ev.runs[2].kld_mean);
    cr_assert(ev.runs[3].kld_mean == 0.0 && ev.runs[3].kld_max == 0.0, "fp32 in another form is exact");
    evaluation_free(&ev);
    inputs_free(&in);
}

/* ---- layers that the model does not have ---- */

static const char beyond[] =
    "scheme kivi2+1=kivi4+3-6=kivi8: layer 6 is named, but the model has 6 layers (0 to 5)";

Test(layers, beyond_the_model_are_refused)
{
    kvq_scheme *const scheme = scheme_of("kivi2+1=kivi4+3-6=kivi8");
    inputs in = load(60, 20);
    evaluation ev = {0};
    eval_error e = {""};
    cr_assert(!evaluated(&ev, &in, &scheme, 1, &e));
    cr_assert_str_eq(e.text, beyond);
    cr_assert_null(ev.runs);
    const generate_config config = {
        .model = in.model, .scheme = scheme, .ids = in.ids, .n_prompt = 20, .n_tokens = 4};
    int32_t ids[4];
    double seconds;
    bool packed;
    e.text[0] = '\0';
    cr_assert(!generate(&config, ids, &seconds, &packed, &e));
    cr_assert_str_eq(e.text, beyond);
    inputs_free(&in);
}

Test(layers, beyond_the_model_end_every_command_before_its_work)
{
    static const char *const commands[] = {("$E " SMALL), "$E --generate 4 --prompt 8 --quiet ",
                                           "$E --kv kv.safetensors --quiet "};
    cr_assert_eq(run("$E dump --windows 1 --tokens 60 --quiet --out kv.safetensors"), 0, "%s", err);
    for (size_t i = 0; i < 3; i++) {
        cr_expect_eq(run("%s --scheme kivi4 --scheme kivi2+1=kivi4+3-6=kivi8 --json r.json", commands[i]), 1);
        char wanted[256];
        snprintf(wanted, sizeof wanted, "kvq-eval: %s\n", beyond);
        cr_expect_str_eq(err, wanted, "%s", commands[i]);
        cr_expect_str_empty(out, "%s", commands[i]);
        cr_expect_neq(run("test -e r.json"), 0, "%s", commands[i]);
    }
}

/* ---- reports ---- */

/* Columns that say what a scheme is have no figure, all others do. */
Test(layers, have_no_one_width_in_reports)
{
    static const char *const empty[] = {"k_bits",        "v_bits",         "group", "residual",
                                        "residual_mode", "residual_dtype", "sinks"};
    static const char *const full[] = {"bits_packed", "bits_here", "ratio_vs_fp16", "seconds"};
    cr_assert_eq(run("$E " SMALL "--scheme kivi2,r=32+0=fp16+2-5=kivi4,r=32 --json - --csv r.csv"), 0, "%s",
                 err);
    json_t *root = json_loads(out, 0, NULL), *runs = json_object_get(root, "runs");
    cr_assert_eq(json_array_size(runs), 3);
    const json_t *r = json_array_get(runs, 2);
    cr_assert_str_eq(json_string_value(json_object_get(r, "scheme")), "kivi2,r=32+0=fp16+2-5=kivi4,r=32");
    for (size_t i = 0; i < sizeof empty / sizeof empty[0]; i++) {
        cr_expect(json_is_null(json_object_get(r, empty[i])), "%s", empty[i]);
        cr_expect(!json_is_null(json_object_get(json_array_get(runs, 1), empty[i])), "%s", empty[i]);
    }
    for (size_t i = 0; i < sizeof full / sizeof full[0]; i++)
        cr_expect(json_is_number(json_object_get(r, full[i])), "%s", full[i]);
    json_decref(root);
    static char csv[1 << 16];
    read_file("r.csv", csv, sizeof csv);
    cr_assert(strstr(csv, "\n\"kivi2,r=32+0=fp16+2-5=kivi4,r=32\",,,,,,,,"), "%s", csv);
    cr_assert_eq(run("$E " SMALL "--scheme kivi2,r=32+0=fp16 --per-layer"), 0, "%s", err);
    cr_assert(strstr(out, "Per layer and head, kivi2,r=32+0=fp16:"), "%s", out);
}

Test(layers, are_measured_on_a_recording)
{
    cr_assert_eq(run("$E dump --windows 1 --tokens 80 --quiet --out kv.safetensors"), 0, "%s", err);
    cr_assert_eq(
        run("$E --kv kv.safetensors --scheme kivi2,r=32 --scheme fp32+1=kivi2,r=32 --quiet --json -"), 0,
        "%s", err);
    json_t *root = json_loads(out, 0, NULL), *runs = json_object_get(root, "runs");
    const json_t *plain = json_object_get(json_array_get(runs, 1), "per_layer"),
                 *mixed = json_object_get(json_array_get(runs, 2), "per_layer");
    cr_assert(json_array_size(mixed) > 0 && json_array_size(mixed) == json_array_size(plain));
    for (size_t i = 0; i < json_array_size(mixed); i++) {
        const json_t *head = json_array_get(mixed, i), *alone = json_array_get(plain, i);
        const bool differs = json_integer_value(json_object_get(head, "layer")) == 1;
        const double error = json_number_value(json_object_get(head, "k_rel_l2")),
                     wanted = json_number_value(json_object_get(alone, "k_rel_l2"));
        cr_assert_gt(wanted, 0.0);
        cr_expect_eq(error, differs ? wanted : 0.0, "head %zu", i);
    }
    json_decref(root);
}

Test(layers, generate_what_their_schemes_generate)
{
    cr_assert_eq(run("$E --generate 24 --prompt 60 --quiet --json - --scheme kivi1,r=32 "
                     "--scheme fp32+0-5=kivi1,r=32 --scheme kivi1,r=32+0-5=fp32"),
                 0, "%s", err);
    json_t *root = json_loads(out, 0, NULL), *runs = json_object_get(root, "runs");
    cr_assert_eq(json_array_size(runs), 4, "%s", out);
    const json_t *ids[4];
    for (size_t i = 0; i < 4; i++)
        ids[i] = json_object_get(json_array_get(runs, i), "ids");
    cr_assert(json_is_array(ids[0]), "%s", out);
    cr_assert(json_equal(ids[1], ids[2]) && json_equal(ids[0], ids[3]) && !json_equal(ids[0], ids[1]), "%s",
              out);
    json_decref(root);
}
