/*
 * Inference on paper: parameter counts against published ones, arithmetic against hand-worked cases, bytes of
 * caches against caches, and what is refused.
 */
#define _GNU_SOURCE

#include "eval/plan/plan.h"

#include "eval/measure/memory.h"
#include "eval/model/llama_config.h"
#include "eval/model/llama_weights.h"
#include "tests/support.h"
#include "tests/tool.h"

#include <math.h>

TestSuite(plan, .init = enter, .fini = leave);

/* ---- parameters ---- */

/* The counts that the models' pages on huggingface.co state for their safetensors. */
Test(plan, published_models_have_the_parameters_they_are_known_for)
{
    static const struct {
        const char *name;
        uint64_t n_params;
    } known[] = {{"gpt2", 124439808},           {"gpt2-medium", 354823168},   {"gpt2-large", 774030080},
                 {"gpt2-xl", 1557611200},       {"llama-2-7b", 6738415616},   {"llama-2-13b", 13015864320},
                 {"llama-2-70b", 68976648192},  {"llama-3.1-8b", 8030261248}, {"llama-3.1-70b", 70553706496},
                 {"llama-3.2-1b", 1235814400},  {"llama-3.2-3b", 3212749824}, {"mistral-7b", 7248023552},
                 {"qwen2.5-0.5b", 494032768},   {"qwen2.5-1.5b", 1543714304}, {"qwen2.5-3b", 3085938688},
                 {"qwen2.5-7b", 7615616512},    {"qwen2.5-14b", 14770033664}, {"qwen2.5-32b", 32763876352},
                 {"qwen2.5-72b", 72706203648},  {"qwen3-8b", 8190735360},     {"qwen3-14b", 14768307200},
                 {"qwen3-32b", 32762123264},    {"gemma-3-1b", 999885952},    {"smollm2-135m", 134515008},
                 {"smollm2-360m", 361821120},   {"smollm2-1.7b", 1711376384}, {"smollm3-3b", 3075098624},
                 {"tinyllama-1.1b", 1100048384}};
    for (size_t i = 0; i < sizeof known / sizeof known[0]; i++) {
        model_dims d;
        model_params p;
        eval_error e;
        cr_assert(model_dims_find(&d, known[i].name, &e), "%s", e.text);
        model_count_params(&d, &p);
        cr_expect_eq(p.total, known[i].n_params, "%s: %llu, known for %llu", known[i].name,
                     (unsigned long long)p.total, (unsigned long long)known[i].n_params);
    }
}

/* Gemma's technical report (arXiv 2503.19786, table 1) has millions: embedding, everything else. */
Test(plan, gemma_3_has_the_parameters_of_its_report)
{
    static const struct {
        const char *name;
        double embedding, rest;
    } known[] = {{"gemma-3-1b", 302, 698},
                 {"gemma-3-4b", 675, 3209},
                 {"gemma-3-12b", 1012, 10759},
                 {"gemma-3-27b", 1416, 25600}};
    for (size_t i = 0; i < sizeof known / sizeof known[0]; i++) {
        model_dims d;
        model_params p;
        eval_error e;
        cr_assert(model_dims_find(&d, known[i].name, &e), "%s", e.text);
        model_count_params(&d, &p);
        const double rest = (double)(p.layers + p.vectors) / 1e6;
        cr_expect(fabs(rest - known[i].rest) < 1.0, "%s: %f", known[i].name, rest);
        cr_expect(fabs((double)p.embedding / 1e6 / known[i].embedding - 1.0) < 0.01, "%s", known[i].name);
    }
}

/* What random: would allocate, counted array by array, for every shape of a Llama. */
Test(plan, parameters_are_those_of_the_arrays)
{
    size_t n = 0;
    for (size_t i = 0; shapes_at(i); i++) {
        static llama_config c;
        model_dims d;
        model_params p;
        eval_error e;
        bool is_known = false;
        if (!shapes_is_llama(shapes_at(i)))
            continue;
        cr_assert(llama_config_random(&c, shapes_at(i)->name, &is_known, &e) && is_known);
        llama_model *m = llama_weights_list(&c);
        cr_assert_not_null(m);
        cr_assert(model_dims_find(&d, shapes_at(i)->name, &e));
        model_count_params(&d, &p);
        cr_expect_eq(p.total, m->n_params, "%s", shapes_at(i)->name);
        llama_weights_free(m);
        n++;
    }
    cr_assert_geq(n, 20);
}

/* ---- arithmetic, by hand ----
 *
 * A Llama of 2 layers, 2 query heads on 1 KV head of 4, width 8, MLP 16, vocabulary 10, untied:
 * a layer's matrices are q 8x8, k and v 4x8, out 8x8, gate, up and down 16x8 each: 64 + 64 + 64 + 384 = 576,
 * both 1152. Embedding and head 80 each; norms 2 * 2 * 8 + 8 = 40. Together 1152 + 160 + 40 = 1352.
 */
static model_dims toy(void)
{
    return (model_dims){.name = "toy",
                        .architecture = "llama",
                        .n_layer = 2,
                        .n_head = 2,
                        .n_kv_head = 1,
                        .head_dim = 4,
                        .n_embd = 8,
                        .n_inner = 16,
                        .n_ctx = 64,
                        .vocab_size = 10};
}

static const plan_machine slow = {"slow", 1e6, 100.0, 1000.0};

Test(plan, weights_of_a_toy)
{
    model_dims d = toy();
    model_params p;
    model_count_params(&d, &p);
    cr_assert_eq(p.total, 1352);
    cr_assert_eq(p.layers, 1152);
    cr_assert_eq(plan_weight_bytes(&d, TENSOR_BF16), 2 * 1352);
    cr_assert_eq(plan_weight_bytes(&d, TENSOR_F32), 4 * 1352);
    cr_assert_eq(plan_weight_bytes(&d, TENSOR_Q8_0), 1312 * 34 / 32 + 40 * 4);
    cr_assert_eq(plan_weight_bytes(&d, TENSOR_Q4_0), 1312 * 18 / 32 + 40 * 4);
    /* a step reads all but the embedding, unless that is the head */
    cr_assert_eq(plan_step_weight_bytes(&d, TENSOR_BF16), 2 * (1352 - 80));
    d.tied_head = true;
    cr_assert_eq(plan_weight_bytes(&d, TENSOR_BF16), 2 * (1352 - 80));
    cr_assert_eq(plan_step_weight_bytes(&d, TENSOR_BF16), 2 * (1352 - 80));
}

Test(plan, a_decode_step_of_a_toy)
{
    const model_dims d = toy();
    /* 3 sequences of 10 tokens: 2 * (1152 + 80) = 2464 in matrices, 4 * 10 tokens * 8 numbers * 2 layers =
     * 640 in attention, each; 2544 bytes of weights and 500 of cache. */
    const plan_work w = plan_decode_step(&d, TENSOR_BF16, &slow, 10, 3, 500.0);
    cr_assert_eq(w.flops, 3 * (2464 + 640));
    cr_assert_eq(w.bytes, 2544 + 500);
    cr_assert_float_eq(w.seconds, 30.44, 1e-9);
    cr_assert_float_eq(w.intensity, 9312.0 / 3044, 1e-12);
    cr_assert(!w.binds_on_compute);
    const plan_work many = plan_decode_step(&d, TENSOR_BF16, &slow, 10, 30, 500.0);
    cr_assert(many.binds_on_compute);
    cr_assert_float_eq(many.seconds, 93.12, 1e-9);
}

Test(plan, a_prompt_of_a_toy)
{
    model_dims d = toy();
    /* 10 tokens: 2 * 1152 * 10 in layers, 2 * 80 for the one head, and 1 + 2 + ... + 10 = 55 tokens attended
     * to, 4 * 8 each and layer. */
    cr_assert_eq(plan_prefill(&d, TENSOR_BF16, &slow, 10, 1).flops, 23040 + 160 + 55 * 32 * 2);
    cr_assert_eq(plan_prefill(&d, TENSOR_BF16, &slow, 10, 5).flops, 5 * (23040 + 160 + 55 * 32 * 2));
    cr_assert_eq(plan_prefill(&d, TENSOR_BF16, &slow, 10, 5).bytes, 2544);
    /* one of the layers sees 4 tokens: 1 + 2 + 3 + 4 * 7 = 34; in a step 4 instead of 10 */
    d.window = 4;
    d.n_windowed = 1;
    cr_assert_eq(plan_prefill(&d, TENSOR_BF16, &slow, 10, 1).flops, 23040 + 160 + (55 + 34) * 32);
    cr_assert_eq(plan_decode_step(&d, TENSOR_BF16, &slow, 10, 1, 0.0).flops, 2464 + (10 + 4) * 32);
    cr_assert_eq(plan_decode_step(&d, TENSOR_BF16, &slow, 3, 1, 0.0).flops, 2464 + (3 + 3) * 32);
}

Test(plan, an_rwkv_holds_matrices_and_two_rows)
{
    /* 2 layers, width 8, heads of 4: 2 matrices of 16 and 2 rows of 8 each, 4 bytes a number */
    cr_assert_eq(plan_rwkv_state(2, 8, 4), 2 * (2 * 16 + 2 * 8) * 4);
}

/* ---- bytes of caches ---- */

static void expect_bytes(const cache_bytes *b, const kvq_usage *u, const char *what)
{
    const uint64_t got[] = {b->payload,  b->metadata, b->residual,    b->sinks,
                            b->evidence, b->slack,    b->bookkeeping, b->total};
    const uint64_t wanted[] = {u->payload,  u->metadata, u->residual,    u->sinks,
                               u->evidence, u->slack,    u->bookkeeping, u->total};
    for (size_t i = 0; i < sizeof got / sizeof got[0]; i++)
        cr_expect_eq(got[i], wanted[i], "%s, purpose %zu: %llu, in a cache %llu", what, i,
                     (unsigned long long)got[i], (unsigned long long)wanted[i]);
}

static const char *const texts[] = {"fp32", "fp16", "q8_0", "kivi2", "kvq2", "kvq2-fb", "kivi4,s=5,r=64"};
static const struct {
    size_t n_layer, n_kv_head, head_dim, n_tokens, batch, window, n_windowed;
} sizes[] = {{1, 1, 32, 1, 1, 0, 0},
             {3, 2, 32, 700, 2, 0, 0},
             {2, 1, 64, 1300, 3, 0, 0},
             {4, 2, 16, 200, 5, 0, 0},
             {3, 1, 48, 1100, 2, 300, 2}};

static model_dims dims_of(size_t i)
{
    return (model_dims){.n_layer = sizes[i].n_layer,
                        .n_head = 2 * sizes[i].n_kv_head,
                        .n_kv_head = sizes[i].n_kv_head,
                        .head_dim = sizes[i].head_dim,
                        .window = sizes[i].window,
                        .n_windowed = sizes[i].n_windowed};
}

/* The same from a cache of random numbers that is fed here: a token with a query, then appends as the plan
 * says. */
static void ask_a_cache(const model_dims *d, const char *text, size_t n_tokens, size_t batch, kvq_usage *u)
{
    static float x[USAGE_CHUNK * 256], q[256], y[256];
    kvq_cache *cache = cache_of(text, (shape){d->n_layer, d->n_head, d->n_kv_head, d->head_dim, batch}, NULL);
    for (size_t i = 0; i < sizeof x / sizeof x[0]; i++)
        x[i] = sinf((float)i * 0.37f);
    for (size_t at = 0, n = 1; at < n_tokens; at += n) {
        n = at == 0 ? 1 : USAGE_CHUNK;
        for (size_t l = 0; l < d->n_layer; l++) {
            const bool slides = l >= d->n_layer - d->n_windowed;
            const size_t most = slides && d->window < n_tokens ? d->window : n_tokens;
            for (size_t s = 0; s < batch && at < most; s++) {
                const size_t m = at + n < most ? n : most - at;
                cr_assert_eq(at == 0 ? kvq_cache_step(cache, l, &s, 1, &m, q, x, x, 1.0f, NULL, y)
                                     : kvq_cache_append(cache, l, s, x, x, m),
                             KVQ_OK);
            }
        }
    }
    cr_assert_eq(kvq_cache_usage(cache, u), KVQ_OK);
    kvq_cache_free(cache);
}

Test(plan, bytes_are_those_of_a_cache)
{
    for (size_t i = 0; i < sizeof sizes / sizeof sizes[0]; i++) {
        for (size_t j = 0; j < sizeof texts / sizeof texts[0]; j++) {
            const model_dims d = dims_of(i);
            kvq_scheme *scheme = scheme_of(texts[j]);
            cache_bytes b;
            kvq_usage u;
            eval_error e;
            char what[64];
            snprintf(what, sizeof what, "%s, size %zu", texts[j], i);
            cr_assert(usage_of(&d, scheme, sizes[i].n_tokens, sizes[i].batch, USAGE_BUDGET, &b, &e), "%s",
                      e.text);
            cr_expect(!b.computed);
            ask_a_cache(&d, texts[j], sizes[i].n_tokens, sizes[i].batch, &u);
            expect_bytes(&b, &u, what);
        }
    }
}

/* Computed from a part: what is linear is exact, with budgets for two layers, for one, and for one head of
 * one. */
Test(plan, what_is_computed_is_what_a_cache_would_hold)
{
    for (size_t i = 1; i < sizeof sizes / sizeof sizes[0]; i++) {
        for (size_t j = 0; j < sizeof texts / sizeof texts[0]; j++) {
            const model_dims d = dims_of(i);
            kvq_scheme *scheme = scheme_of(texts[j]);
            const uint64_t one_head = 2 * sizes[i].n_tokens * d.head_dim;
            const uint64_t budgets[] = {2 * one_head * d.n_kv_head, one_head * d.n_kv_head, one_head, 1};
            kvq_usage u;
            ask_a_cache(&d, texts[j], sizes[i].n_tokens, sizes[i].batch, &u);
            for (size_t k = 0; k < sizeof budgets / sizeof budgets[0]; k++) {
                cache_bytes b;
                eval_error e;
                cr_assert(usage_of(&d, scheme, sizes[i].n_tokens, sizes[i].batch, budgets[k], &b, &e));
                cr_expect(b.computed);
                cr_expect(b.payload == u.payload && b.metadata == u.metadata && b.residual == u.residual &&
                              b.sinks == u.sinks && b.evidence == u.evidence,
                          "%s, size %zu, budget %zu", texts[j], i, k);
                cr_expect_eq(b.total, b.payload + b.metadata + b.residual + b.sinks + b.evidence + b.slack +
                                          b.bookkeeping);
            }
        }
    }
}

/* A plain cache is pages alone, and their room is reckoned as its pool grows: chunks below and above huge
 * pages. */
Test(plan, room_of_pages_is_exact)
{
    static const struct {
        size_t n_layer, n_kv_head, n_tokens, batch;
    } cases[] = {{4, 1, 900, 3}, {6, 2, 2000, 2}, {3, 8, 1500, 2}};
    for (size_t i = 0; i < sizeof cases / sizeof cases[0]; i++) {
        const model_dims d = {.n_layer = cases[i].n_layer,
                              .n_head = cases[i].n_kv_head,
                              .n_kv_head = cases[i].n_kv_head,
                              .head_dim = 32};
        kvq_scheme *scheme = scheme_of("fp16");
        cache_bytes run, computed;
        eval_error e;
        cr_assert(usage_of(&d, scheme, cases[i].n_tokens, cases[i].batch, USAGE_BUDGET, &run, &e));
        cr_assert(usage_of(&d, scheme, cases[i].n_tokens, cases[i].batch, 1, &computed, &e));
        cr_expect(!run.computed && computed.computed);
        cr_expect_eq(computed.slack, run.slack, "case %zu: %llu, %llu", i, (unsigned long long)computed.slack,
                     (unsigned long long)run.slack);
    }
}

/* ---- the whole plan ---- */

/* Limits are where they are said to be: one sequence or some tokens more no longer fit. */
Test(plan, limits_are_limits)
{
    progress none;
    static plan_result p;
    plan_request r = {.weights = TENSOR_BF16, .context = 1024, .batch = 2, .n_schemes = 2};
    eval_error e;
    r.schemes[0] = scheme_of("fp16");
    r.schemes[1] = scheme_of("kvq2");
    r.dims = toy();
    r.dims.head_dim = 32;
    progress_start(&none, true);
    r.machine = slow;
    r.state_bytes = 100000;
    cr_assert(plan_compute(&r, &p, &none, &e), "%s", e.text);
    for (size_t i = 0; i < 2; i++) {
        const plan_scheme *s = &p.schemes[i];
        cache_bytes less, more;
        const double room = r.machine.memory - (double)p.weight_bytes;
        cr_assert(s->fits && s->max_context > 1024 && s->max_context < 100000);
        cr_assert(usage_of(&r.dims, r.schemes[i], s->max_context * 17 / 20, 2, USAGE_BUDGET, &less, &e));
        cr_assert(usage_of(&r.dims, r.schemes[i], s->max_context * 23 / 20, 2, USAGE_BUDGET, &more, &e));
        cr_expect((double)less.total < room && (double)more.total > room, "%s: context %llu", s->text,
                  (unsigned long long)s->max_context);
        /* short sequences as a decode makes them, a token at a time */
        static uint64_t total[PLAN_PAYS_TOKENS];
        const model_shape decode = {.n_layer = 2, .n_head = 1, .n_kv_head = 1, .head_dim = 32};
        cr_assert(memory_growth(&decode, r.schemes[i], PLAN_PAYS_TOKENS, total, &e));
        cr_assert(s->state_from > 1 && s->state_from <= PLAN_PAYS_TOKENS);
        cr_expect_leq(total[s->state_from - 2], 100000, "%s: state from %llu", s->text,
                      (unsigned long long)s->state_from);
        for (size_t n = s->state_from; n <= PLAN_PAYS_TOKENS; n++)
            cr_expect_gt(total[n - 1], 100000, "%s: state from %llu", s->text,
                         (unsigned long long)s->state_from);
        cr_expect_float_eq(s->tokens_per_s, 2.0 / s->step.seconds, 1e-9);
    }
    cr_expect_eq(p.schemes[0].pays_from, 0);
    cr_expect_gt(p.schemes[1].pays_from, 0);
    cr_expect_lt(p.schemes[1].step.bytes, p.schemes[0].step.bytes);
    r.machine.memory = (double)p.weight_bytes - 1.0;
    cr_assert(plan_compute(&r, &p, &none, &e));
    cr_expect(!p.schemes[0].fits && p.schemes[0].max_batch == 0 && p.schemes[0].max_context == 0);
}

/* Where batches stop fitting, outweigh the weights and are bound by FLOPs: one sequence fewer does not. */
Test(plan, limits_of_batches_are_exact)
{
    progress none;
    static plan_result p;
    plan_request r = {.weights = TENSOR_BF16, .context = 1024, .batch = 2, .n_schemes = 2};
    eval_error e;
    r.schemes[0] = scheme_of("fp16");
    r.schemes[1] = scheme_of("kvq2");
    r.dims = toy();
    r.dims.head_dim = 32;
    r.dims.n_embd = 512;
    r.dims.n_inner = 2048;
    r.machine = (plan_machine){"some", 30e6, 1e6, 8e6};
    progress_start(&none, true);
    cr_assert(plan_compute(&r, &p, &none, &e), "%s", e.text);
    for (size_t i = 0; i < 2; i++) {
        const plan_scheme *s = &p.schemes[i];
        const double weights = (double)p.weight_bytes, room = r.machine.memory - weights;
        const double each = (double)s->cache.total / 2.0, read = (double)usage_read(&s->cache) / 2.0;
        cr_expect((double)s->max_batch * each <= room && (double)(s->max_batch + 1) * each > room, "%s: %llu",
                  s->text, (unsigned long long)s->max_batch);
        cr_expect((double)s->outweighs_batch * each > weights &&
                      (double)(s->outweighs_batch - 1) * each <= weights,
                  "%s: %llu", s->text, (unsigned long long)s->outweighs_batch);
        cache_bytes less, more;
        cr_assert_gt(s->outweighs_at, 2048);
        cr_assert(usage_of(&r.dims, r.schemes[i], s->outweighs_at * 17 / 20, 2, USAGE_BUDGET, &less, &e));
        cr_assert(usage_of(&r.dims, r.schemes[i], s->outweighs_at * 23 / 20, 2, USAGE_BUDGET, &more, &e));
        cr_expect((double)less.total < weights && (double)more.total > weights, "%s: context %llu", s->text,
                  (unsigned long long)s->outweighs_at);
        const size_t batch = s->compute_from_batch;
        cr_assert_gt(batch, 1);
        cr_expect(plan_decode_step(&r.dims, r.weights, &r.machine, 1024, batch, read * (double)batch)
                      .binds_on_compute);
        cr_expect_not(
            plan_decode_step(&r.dims, r.weights, &r.machine, 1024, batch - 1, read * (double)(batch - 1))
                .binds_on_compute);
    }
}

/* ---- the command ---- */

Test(plan, the_command_writes_tables_and_json)
{
    cr_assert_eq(
        run("$E plan --model llama-3.1-8b --context 2k --batch 3 --machine h100-sxm --rwkv 32,4096,64"), 0,
        "%s", err);
    static const char *const wanted[] = {"8.03 billion parameters",
                                         "3 sequences of 2,048 tokens",
                                         "Fits with fp16",
                                         "bound by memory",
                                         "Does it fit?",
                                         "The cache by purpose",
                                         "State: 34.60 MB",
                                         "kivi2"};
    for (size_t i = 0; i < sizeof wanted / sizeof wanted[0]; i++)
        cr_expect(strstr(out, wanted[i]), "%s is not in %s", wanted[i], out);
    cr_assert_eq(
        run("$E plan --model gemma-3-1b --context 4k --machine a100-80gb --scheme kvq2 --scheme kvq2 "
            "--weights q4_0 --json -"),
        0, "%s", err);
    json_t *root = load_json(out);
    const char *schema = "", *weights = "";
    json_int_t n_params = 0, context = 0, payload = 0, windowed = 0;
    json_t *schemes = NULL;
    cr_assert_eq(json_unpack(root, "{s:s, s:s, s:I, s:{s:I, s:I}, s:o}", "schema", &schema, "weights",
                             &weights, "context", &context, "model", "n_params", &n_params,
                             "n_layer_windowed", &windowed, "schemes", &schemes),
                 0);
    cr_assert_str_eq(schema, "kvq-eval-plan/1");
    cr_assert_str_eq(weights, "Q4_0");
    cr_assert(context == 4096 && n_params == 999885952 && windowed == 22);
    cr_assert_eq(json_array_size(schemes), 2, "fp16 and kvq2 once");
    /* 4 layers of 4,096 tokens and 22 of 512: keys and values of 256 halves */
    cr_assert_eq(json_unpack(json_array_get(schemes, 0), "{s:{s:I}}", "cache_bytes", "payload", &payload), 0);
    cr_assert_eq(payload, (4 * 4096 + 22 * 512) * 2 * 256 * 2);
    json_decref(root);
}

Test(plan, models_and_machines_are_read_from_files)
{
    static const char machine[] =
        "{\"name\": \"box\", \"memory_bytes\": 1e10, \"bandwidth_bytes_per_s\": 5e10, "
        "\"flops_per_s\": 1000000000000}";
    write_text("m.json", machine, strlen(machine));
    cr_assert_eq(run("$E plan --model %s/gpt2-6m --context 512 --machine m.json --scheme kivi2", DATA), 0,
                 "%s", err);
    cr_expect(strstr(out, "box: 10.00 GB of memory, 50 GB/s, 1 TFLOP/s") && strstr(out, "gpt2-6m: 0.00"),
              "%s", out);
    cr_assert_eq(run("$E plan --model random:2,4,2,16,64,100 --context 64 --machine ./m.json --memory 0.5"),
                 0, "%s", err);
    cr_expect(strstr(out, "500.00 MB of memory"), "%s", out);
}

Test(plan, what_is_wrong_is_said)
{
    static const struct {
        const char *file, *wanted;
    } files[] = {
        {"{", "m.json: byte 1"},
        {"[1]", "expected a JSON object"},
        {"{\"memory_bytes\": 1, \"flops_per_s\": 1}",
         "field bandwidth_bytes_per_s is missing, expected a number"},
        {"{\"memory_bytes\": \"1\", \"bandwidth_bytes_per_s\": 1, \"flops_per_s\": 1}",
         "memory_bytes is \"1\", expected a number above 0"},
        {"{\"memory_bytes\": 1, \"bandwidth_bytes_per_s\": -1, \"flops_per_s\": 1}",
         "bandwidth_bytes_per_s is -1, expected"},
        {"{\"memory_bytes\": 1, \"bandwidth_bytes_per_s\": 1, \"flops_per_s\": 0}",
         "flops_per_s is 0, expected"},
        {"{\"memory_bytes\": 1, \"bandwidth_bytes_per_s\": 1, \"flops_per_s\": 1, \"watts\": 3}",
         "field watts is unknown"},
        {"{\"name\": 3, \"memory_bytes\": 1, \"bandwidth_bytes_per_s\": 1, \"flops_per_s\": 1}", "name is 3"},
        {"{\"name\": \"\", \"memory_bytes\": 1, \"bandwidth_bytes_per_s\": 1, \"flops_per_s\": 1}",
         "name has 0 bytes"},
    };
    for (size_t i = 0; i < sizeof files / sizeof files[0]; i++) {
        write_text("m.json", files[i].file, strlen(files[i].file));
        cr_expect_eq(run("$E plan --model gpt2 --context 64 --machine m.json"), 1, "%s", files[i].file);
        cr_expect(strstr(err, files[i].wanted), "%s: %s", files[i].file, err);
        cr_expect_str_empty(out);
    }
    static const struct {
        const char *arguments, *wanted;
        int status;
    } cases[] = {
        {"", "--model is missing", 2},
        {"--model gpt3 --machine l4", "model 'gpt3': no file or directory, and none of gpt2, gpt2-medium", 1},
        {"--model ./none --machine l4", "none/config.json", 1},
        {"--model random:1,2 --machine l4", "expected random:", 1},
        {"--model gpt2 --machine abacus", "machine 'abacus': no file, not 'this', and none of a100-40gb", 1},
        {"--model gpt2 --machine none.json", "none.json", 1},
        {"--model gpt2 --machine l4 --scheme kivi7", "scheme 'kivi7': character", 1},
        {"--model gpt2 --machine l4 --context 0", "--context: expected a whole number from 1 to 1048576", 2},
        {"--model gpt2 --machine l4 --context 2m", "--context: expected", 2},
        {"--model gpt2 --machine l4 --context 3kk", "--context: expected", 2},
        {"--model gpt2 --machine l4 --context k", "--context: expected", 2},
        {"--model gpt2 --machine l4 --batch -1", "--batch: expected a whole number", 2},
        {"--model gpt2 --machine l4 --weights int3", "--weights: expected f32", 2},
        {"--model gpt2 --machine l4 --memory 0", "--memory: expected a number above 0", 2},
        {"--model gpt2 --machine l4 --rwkv 3,8", "--rwkv: expected L,E,HEAD", 2},
        {"--model gpt2 --machine l4 --rwkv 3,8,3", "--rwkv: expected L,E,HEAD", 2},
        {"--model gpt2 --machine l4 --rwkv 3,8,0", "--rwkv: expected L,E,HEAD", 2},
        {"--model gpt2 --machine l4 --state-bytes 0", "--state-bytes: expected", 2},
        {"--model gpt2 --machine l4 --measure", "--machine must be `this'", 2},
        {"--model gpt2 --machine l4 --json no/such/dir.json", "no/such", 1},
    };
    for (size_t i = 0; i < sizeof cases / sizeof cases[0]; i++) {
        cr_expect_eq(run("$E plan %s", cases[i].arguments), cases[i].status, "%s: %s", cases[i].arguments,
                     err);
        cr_expect(strstr(err, cases[i].wanted), "%s: %s", cases[i].arguments, err);
        cr_expect_str_empty(out);
    }
}

/* The widest and longest there are neither overflow nor ask for memory that a plan should not need. */
Test(plan, the_largest_is_planned)
{
    cr_assert_eq(run("%s$E plan --model random:3,1024,1024,256,64,100 --context 1m --batch 64k --machine l4 "
                     "--scheme kvq2 --json -",
                     SANITIZED ? "" : "ulimit -v 8000000; "), /* the address sanitizer's own map is larger */
                 0, "%s", err);
    json_t *root = load_json(out);
    json_int_t payload = 0;
    cr_assert_eq(json_unpack(json_array_get(json_object_get(root, "schemes"), 0), "{s:{s:I}}", "cache_bytes",
                             "payload", &payload),
                 0);
    cr_assert_eq(payload, (json_int_t)3 * 1024 * 256 * 2 * 2 << 36);
    json_decref(root);
    cr_assert_eq(run("$E plan --model %s/gpt2-6m --measure", DATA), 1);
    cr_expect(strstr(err, "gpt2-6m is read from a file"), "%s", err);
}

/* The line of a measured scheme has two times and an error that follows from them. */
Test(plan, measured_steps_stand_beside_their_prediction)
{
    cr_assert_eq(run("$E plan --model random:1,1,1,16,128,64 --context 64 --scheme kivi2 --measure"), 0, "%s",
                 err);
    const char *section = strstr(out, "Measured here: a step of one sequence of");
    cr_assert(section, "%s", out);
    const char *line = strstr(section, "\nkivi2");
    double predicted = 0.0, measured = 0.0, error = 0.0;
    cr_assert(line && sscanf(line, "\nkivi2 %lf ms %lf ms %lf %%", &predicted, &measured, &error) == 3, "%s",
              section);
    cr_expect(measured > 0.0 && error < 100.0 * (predicted + 0.001) / measured - 99.0 &&
                  error > 100.0 * (predicted - 0.001) / (measured + 0.001) - 101.0,
              "%s", section);
}
