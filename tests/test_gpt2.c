/* GPT-2: logits and greedy tokens against the independent reference, the pieces against plain formulas, and
 * checkpoints of every accepted kind and some that must be refused. */
#define _XOPEN_SOURCE 700

#include "eval/model/attention.h"
#include "eval/model/gpt2_forward.h"
#include "eval/model/gpt2_model.h"
#include "eval/model/model.h"
#include "tests/attend_plainly.h"
#include "tests/checkpoint_files.h"
#include "tests/npy.h"
#include "tests/tiny_llama.h"

#include <criterion/criterion.h>
#include <math.h>
#include <omp.h>

#define MODEL     KVQ_SOURCE_DIR "/data/gpt2-6m"
#define REFERENCE KVQ_SOURCE_DIR "/tests/reference/"

static void *allocate(size_t n, size_t size)
{
    void *p = calloc(n + 1, size);
    cr_assert_not_null(p);
    return p;
}

static float *floats(size_t n)
{
    return allocate(n, sizeof(float));
}

static gpt2_model *load_default(void)
{
    gpt2_model *m;
    eval_error e;
    cr_assert(gpt2_model_load(&m, MODEL, &e), "%s", e.text);
    return m;
}

static gpt2_model *make_random(const char *spec, uint64_t seed)
{
    gpt2_model *m;
    eval_error e;
    cr_assert(gpt2_model_random(&m, spec, seed, &e), "%s", e.text);
    return m;
}

static npy_array load_reference(const char *name, const char *dtype)
{
    char path[512];
    npy_array a;
    snprintf(path, sizeof path, "%s%s", REFERENCE, name);
    cr_assert(npy_load(&a, path), "cannot read %s", path);
    cr_assert_str_eq(a.dtype, dtype);
    return a;
}

static void prompt_attention(const gpt2_model *m, size_t layer, const float *q, const float *k,
                             const float *v, size_t n, float *out)
{
    const gpt2_config *c = &m->config;
    const attention_shape shape = {
        .H = c->n_head, .Hkv = c->n_head, .D = c->head_dim, .scale = gpt2_attn_scale(m, layer)};
    attention_causal(&shape, q, k, v, n, out);
}

/* All of it at once: logits[n][vocab]. */
static void run_prompt(const gpt2_model *m, const int32_t *ids, size_t n, float *logits)
{
    const size_t E = m->config.n_embd;
    float *x = floats(n * E), *q = floats(n * E), *k = floats(n * E), *v = floats(n * E),
          *attn = floats(n * E);
    float *scratch = floats(gpt2_scratch_floats(&m->config, n));
    gpt2_embed(m, ids, 0, n, x);
    for (size_t l = 0; l < m->config.n_layer; l++) {
        gpt2_layer_qkv(m, l, x, n, scratch, q, k, v);
        prompt_attention(m, l, q, k, v, n, attn);
        gpt2_layer_finish(m, l, x, attn, n, scratch);
    }
    gpt2_logits(m, x, n, scratch, logits);
    float *all[] = {x, q, k, v, attn, scratch};
    for (size_t i = 0; i < 6; i++)
        free(all[i]);
}

/* Token by token with a plain cache: the logits of each of the n tokens go to logits[n][vocab]. If `greedy`,
 * tokens from `n_prompt` on are chosen on the way and written to ids. */
static void run_steps(const gpt2_model *m, int32_t *ids, size_t n_prompt, size_t n, bool greedy,
                      float *logits)
{
    const gpt2_config *c = &m->config;
    const size_t E = c->n_embd, V = c->vocab_size;
    float *x = floats(E), *q = floats(E), *attn = floats(E), *scratch = floats(gpt2_scratch_floats(c, 1));
    float *k = floats(c->n_layer * n * E), *v = floats(c->n_layer * n * E);
    /* Tests run side by side; for work this small, threads that spin for one another take a hundred times
     * longer. */
    omp_set_num_threads(1);
    for (size_t t = 0; t < n; t++) {
        gpt2_embed(m, &ids[t], t, 1, x);
        for (size_t l = 0; l < c->n_layer; l++) {
            float *kl = k + l * n * E, *vl = v + l * n * E;
            gpt2_layer_qkv(m, l, x, 1, scratch, q, kl + t * E, vl + t * E);
            for (size_t h = 0; h < E; h += c->head_dim)
                attend_plainly(q + h, kl + h, vl + h, t + 1, E, c->head_dim, (double)gpt2_attn_scale(m, l),
                               attn + h);
            gpt2_layer_finish(m, l, x, attn, 1, scratch);
        }
        float *row = logits + t * V;
        gpt2_logits(m, x, 1, scratch, row);
        if (greedy && t + 1 >= n_prompt && t + 1 < n) {
            size_t best = 0;
            for (size_t i = 1; i < V; i++)
                best = row[i] > row[best] ? i : best;
            ids[t + 1] = (int32_t)best;
        }
    }
    float *all[] = {x, q, attn, scratch, k, v};
    for (size_t i = 0; i < 6; i++)
        free(all[i]);
}

/* ---- against the reference ---- */

Test(gpt2, logits_match_the_reference)
{
    gpt2_model *m = load_default();
    npy_array ids = load_reference("logits_ids.npy", "<i4"),
              positions = load_reference("logits_positions.npy", "<i4");
    npy_array expected = load_reference("logits.npy", "<f4");
    const size_t n = ids.n_elems, V = m->config.vocab_size;
    float *logits = floats(n * V), *steps = floats(n * V), largest = 0;
    cr_assert(expected.n_dims == 2 && expected.shape[0] == positions.n_elems && expected.shape[1] == V);
    run_prompt(m, ids.data, n, logits);
    run_steps(m, ids.data, n, n, false, steps);
    for (size_t i = 0; i < positions.n_elems; i++) {
        const size_t row = (size_t)((const int32_t *)positions.data)[i] * V;
        for (size_t j = 0; j < V; j++) {
            const float want = ((const float *)expected.data)[i * V + j];
            largest = fmaxf(largest, fmaxf(fabsf(logits[row + j] - want), fabsf(steps[row + j] - want)));
        }
    }
    cr_log_info("largest difference of a logit: %g", (double)largest);
    cr_assert_lt(largest, 2e-3f, "a logit differs by %g", (double)largest);
    npy_free(&ids);
    npy_free(&positions);
    npy_free(&expected);
    free(logits);
    free(steps);
    gpt2_model_free(m);
}

/* A random model as GGUF, whose matrices lie the other way round, through the interface that everybody uses.
 * Seen: 1.3e-6 for logits up to about 6; a transposed matrix or exchanged tensors of one shape give
 * differences above 1. */
Test(gpt2, gguf_logits_match_the_reference)
{
    enum { N = 40, E = 24, V = 61 };
    model *m;
    eval_error e;
    npy_array ids, expected;
    cr_assert(model_load(&m, KVQ_SOURCE_DIR "/tests/vectors/gpt2/tiny.gguf", &e), "%s", e.text);
    cr_assert(npy_load(&ids, KVQ_SOURCE_DIR "/tests/vectors/gpt2/ids.npy") && ids.n_elems == N);
    cr_assert(npy_load(&expected, KVQ_SOURCE_DIR "/tests/vectors/gpt2/logits.npy") &&
              expected.n_elems == N * V);
    cr_assert_str_eq(m->shape.architecture, "gpt2");
    cr_assert(m->shape.n_kv_head == 3 && m->shape.head_dim == 8 && m->shape.n_ctx == N && m->note[0] == '\0');
    float *x = floats(N * E), *q = floats(N * E), *k = floats(N * E), *v = floats(N * E),
          *attn = floats(N * E);
    float *scratch = floats(model_scratch_floats(m, N)), *logits = floats(N * V), largest = 0;
    model_embed(m, ids.data, 0, N, x);
    for (size_t l = 0; l < 2; l++) {
        model_layer_qkv(m, l, x, 0, N, scratch, q, k, v);
        model_attention_causal(m, l, q, k, v, N, attn);
        model_layer_finish(m, l, x, attn, N, scratch);
    }
    model_logits(m, x, N, scratch, logits);
    for (size_t i = 0; i < N * V; i++)
        largest = fmaxf(largest, fabsf(logits[i] - ((const float *)expected.data)[i]));
    cr_log_info("largest difference of a logit: %g", (double)largest);
    cr_assert_lt(largest, 2e-5f, "a logit differs by %g", (double)largest);
    float *all[] = {x, q, k, v, attn, scratch, logits};
    for (size_t i = 0; i < 7; i++)
        free(all[i]);
    npy_free(&ids);
    npy_free(&expected);
    model_free(m);
}

Test(gpt2, gguf_without_an_epsilon_is_refused)
{
    static const char *const keys[] = {"block_count", "attention.head_count", "embedding_length",
                                       "context_length"};
    tiny_gguf t = {.n_keys = 0};
    gguf_image image = {.n = 0};
    gguf *g = NULL;
    gpt2_config c;
    eval_error e = {""};
    for (size_t i = 0; i < sizeof keys / sizeof keys[0]; i++) {
        char key[64];
        snprintf(key, sizeof key, "gpt2.%s", keys[i]);
        tiny_u32(&t, key, 1);
    }
    tiny_finish(&t, &image);
    cr_assert(gguf_open_memory(&g, "test", image.bytes, image.n, &e), "%s", e.text);
    cr_expect_not(gpt2_config_gguf(&c, g, &e));
    cr_expect_str_eq(e.text, "test: key 'gpt2.attention.layer_norm_epsilon' is missing", "%s", e.text);
    gguf_close(g);
    gguf_image_free(&image);
}

Test(gpt2, greedy_tokens_match_the_reference)
{
    gpt2_model *m = load_default();
    npy_array expected = load_reference("greedy_ids.npy", "<i4");
    const size_t n = expected.n_elems, n_prompt = n - 64;
    int32_t *ids = allocate(n, sizeof *ids);
    float *logits = floats(n * m->config.vocab_size);
    memcpy(ids, expected.data, n_prompt * sizeof *ids);
    run_steps(m, ids, n_prompt, n, true, logits);
    cr_assert_eq(memcmp(ids, expected.data, n * sizeof *ids), 0);
    npy_free(&expected);
    free(ids);
    free(logits);
    gpt2_model_free(m);
}

/* ---- pieces ---- */

Test(gpt2, steps_agree_with_the_prompt_for_odd_shapes)
{
    gpt2_model *m = make_random("random:3,5,24,90,301", 11);
    const size_t n = 90, V = 301;
    int32_t ids[90];
    float *prompt = floats(n * V), *steps = floats(n * V);
    for (size_t i = 0; i < n; i++)
        ids[i] = (int32_t)(i * i * 7 % V);
    run_prompt(m, ids, n, prompt);
    run_steps(m, ids, n, n, false, steps);
    for (size_t i = 0; i < n * V; i++)
        cr_assert_float_eq(prompt[i], steps[i], 1e-5f);
    free(prompt);
    free(steps);
    gpt2_model_free(m);
}

/* Lengths around the tiles' edges, and scores so large that a softmax without its maximum would overflow. */
Test(gpt2, prompt_attention_matches_the_formula)
{
    static const size_t lengths[] = {1, 2, 63, 64, 65, 127, 128, 129, 200, 300};
    gpt2_model *m = make_random("random:2,3,40,300,10", 1);
    const size_t E = 120, D = 40, n_max = 300;
    float *q = floats(n_max * E), *k = floats(n_max * E), *v = floats(n_max * E), *out = floats(n_max * E);
    srand(5);
    for (size_t i = 0; i < n_max * E; i++) {
        q[i] = 12.0f * (float)rand() / (float)RAND_MAX - 6.0f;
        k[i] = 12.0f * (float)rand() / (float)RAND_MAX - 6.0f;
        v[i] = 2.0f * (float)rand() / (float)RAND_MAX - 1.0f;
    }
    for (size_t i = 0; i < sizeof lengths / sizeof lengths[0]; i++) {
        const size_t n = lengths[i];
        prompt_attention(m, 1, q, k, v, n, out);
        for (size_t t = 0; t < n; t++)
            for (size_t h = 0; h < E; h += D) {
                float expected[40];
                attend_plainly(q + t * E + h, k + h, v + h, t + 1, E, D, (double)gpt2_attn_scale(m, 1),
                               expected);
                for (size_t d = 0; d < D; d++)
                    cr_assert_float_eq(out[t * E + h + d], expected[d], 1e-4f, "n %zu, token %zu", n, t);
            }
    }
    prompt_attention(m, 1, q, k, v, 0, out); /* nothing to do is fine */
    float *again = floats(n_max * E);
    prompt_attention(m, 1, q, k, v, n_max, out);
    omp_set_num_threads(omp_get_max_threads() + 2);
    prompt_attention(m, 1, q, k, v, n_max, again);
    cr_assert_eq(memcmp(out, again, n_max * E * sizeof *out), 0,
                 "the result depends on the number of threads");
    float *all[] = {q, k, v, out, again};
    for (size_t i = 0; i < 5; i++)
        free(all[i]);
    gpt2_model_free(m);
}

/* One layer whose MLP passes a single value through gelu: x + gelu(LayerNorm(x) w). */
Test(gpt2, gelu_and_layer_norm_match_the_formulas)
{
    gpt2_model *m = make_random("random:1,1,2,4,4", 1);
    for (size_t i = 0; i < m->n_tensors; i++)
        if (strncmp(m->tensors[i].name, "h.0.", 4) == 0 && !strstr(m->tensors[i].name, "ln_"))
            memset(m->tensors[i].data, 0, m->tensors[i].n_elems * sizeof(float));
    float *mlp_in = (float *)m->layers[0].mlp_in_weight, *mlp_out = (float *)m->layers[0].mlp_out_weight;
    mlp_out[0] = 1.0f; /* hidden 0 to channel 0 */
    for (double gain = -100.0; gain <= 100.0; gain += 0.37) {
        float x[2] = {3.0f, 1.0f}, scratch[10];
        const float attn[2] = {0.0f, 0.0f};
        const double normed = 1.0 / sqrt(1.0 + 1e-5), h = (double)(float)gain * normed;
        mlp_in[0] = (float)gain;
        gpt2_layer_finish(m, 0, x, attn, 1, scratch);
        double gelu = 0.5 * h * (1.0 + tanh(sqrt(2.0 / 3.14159265358979324) * (h + 0.044715 * h * h * h)));
        cr_assert_float_eq((double)x[0], 3.0 + gelu, 1e-6 * (4.0 + fabs(h)), "gelu(%g) gave %g, expected %g",
                           h, (double)x[0] - 3.0, gelu);
        cr_assert_eq(x[1], 1.0f);
    }
    gpt2_model_free(m);
}

Test(gpt2, attention_scale_follows_the_config)
{
    gpt2_model m = {.config = {.head_dim = 64, .scale_attn = true}};
    cr_assert_eq(gpt2_attn_scale(&m, 3), 0.125f);
    m.config.scale_attn_by_layer = true;
    cr_assert_eq(gpt2_attn_scale(&m, 3), 0.03125f);
    m.config.scale_attn = false;
    cr_assert_eq(gpt2_attn_scale(&m, 3), 0.25f);
}

/* ---- configs ---- */

#define SIZES "\"n_layer\":2,\"n_head\":2,\"n_embd\":8,\"n_positions\":4,\"vocab_size\":6"

static bool parse_config(gpt2_config *c, const char *json, eval_error *e)
{
    return gpt2_config_parse(c, "config-file", json, strlen(json), e);
}

Test(gpt2, config_defaults_and_choices)
{
    gpt2_config c;
    eval_error e;
    cr_assert(parse_config(&c, "{" SIZES "}", &e), "%s", e.text);
    cr_assert(c.n_layer == 2 && c.n_head == 2 && c.head_dim == 4 && c.n_ctx == 4 && c.n_inner == 32);
    cr_assert(c.tied_head && c.scale_attn && !c.scale_attn_by_layer && c.layer_norm_epsilon == 1e-5f);
    cr_assert(c.bos_token_id == -1 && c.eos_token_id == -1);
    cr_assert(
        parse_config(&c,
                     "{\"model_type\":\"gpt2\",\"n_layer\":1,\"n_head\":3,\"n_embd\":9,\"n_ctx\":7,"
                     "\"vocab_size\":6,\"n_inner\":5,\"activation_function\":\"gelu_pytorch_tanh\","
                     "\"layer_norm_epsilon\":1e-6,\"tie_word_embeddings\":false,\"scale_attn_weights\":false,"
                     "\"scale_attn_by_inverse_layer_idx\":true,\"bos_token_id\":5,\"eos_token_id\":0}",
                     &e),
        "%s", e.text);
    cr_assert(c.head_dim == 3 && c.n_ctx == 7 && c.n_inner == 5 && c.layer_norm_epsilon == 1e-6f);
    cr_assert(!c.tied_head && !c.scale_attn && c.scale_attn_by_layer && c.bos_token_id == 5 &&
              c.eos_token_id == 0);
    cr_assert(parse_config(&c, "{" SIZES ",\"n_inner\":null,\"eos_token_id\":null}", &e), "%s", e.text);
    cr_assert(c.n_inner == 32 && c.eos_token_id == -1);
}

Test(gpt2, wrong_configs_are_named)
{
    static const char *const cases[][3] = {
        {"{" SIZES ",\"model_type\":\"llama\"}", "model_type is 'llama'", "expected 'gpt2'"},
        {"{" SIZES ",\"model_type\":3}", "model_type", "not a string"},
        {"{" SIZES ",\"activation_function\":\"relu\"}", "activation_function is 'relu'", "gelu_new"},
        {"{" SIZES ",\"add_cross_attention\":true}", "add_cross_attention", "decoder"},
        {"{" SIZES ",\"layer_norm_epsilon\":0}", "layer_norm_epsilon", "1e-30 to 1"},
        {"{" SIZES ",\"layer_norm_epsilon\":\"x\"}", "layer_norm_epsilon", "1e-30 to 1"},
        {"{" SIZES ",\"tie_word_embeddings\":1}", "tie_word_embeddings", "not true or false"},
        {"{" SIZES ",\"n_inner\":0}", "n_inner is 0", "from 1 to"},
        {"{" SIZES ",\"eos_token_id\":6}", "eos_token_id is 6", "from 0 to 5"},
        {"{" SIZES ",\"n_layer\":3}", "duplicate", "n_layer"},
        {"{\"n_layer\":2}", "n_head is missing", "from 1 to 1024"},
        {"{\"n_layer\":0}", "n_layer is 0", "from 1 to 1024"},
        {"{\"n_layer\":99999999}", "n_layer is 99999999", "from 1 to 1024"},
        {"{\"n_layer\":\"2\"}", "n_layer is \"2\"", "integer"},
        {"{\"n_layer\":2.5}", "n_layer is 2.5", "integer"},
        {"{\"n_layer\":2,\"n_head\":3,\"n_embd\":8,\"n_ctx\":4,\"vocab_size\":6}", "n_embd 8", "n_head 3"},
        {"{\"n_layer\":2,\"n_head\":1,\"n_embd\":1025,\"n_ctx\":4,\"vocab_size\":6}",
         "n_embd / n_head is 1025", "1024"},
        {"{\"n_layer\":2,\"n_head\":1,\"n_embd\":8,\"vocab_size\":6}", "n_ctx is missing", "config-file"},
        {"[]", "config-file", "JSON object"},
        {"", "config-file", "bad JSON"},
    };
    for (size_t i = 0; i < sizeof cases / sizeof cases[0]; i++) {
        gpt2_config c;
        eval_error e = {""};
        cr_assert_not(parse_config(&c, cases[i][0], &e), "accepted: %s", cases[i][0]);
        assert_mentions(e, "config-file: ");
        assert_mentions(e, cases[i][1]);
        assert_mentions(e, cases[i][2]);
    }
}

/* ---- random models ---- */

Test(gpt2, published_shapes)
{
    static const struct {
        const char *spec;
        size_t n_embd, n_params;
    } cases[] = {{"random:gpt2", 768, 124439808},
                 {"random:gpt2-medium", 1024, 354823168},
                 {"random:gpt2-large", 1280, 774030080},
                 {"random:gpt2-xl", 1600, 1557611200}};
    for (size_t i = 0; i < 4; i++) {
        gpt2_config c;
        eval_error e;
        cr_assert(gpt2_config_random(&c, cases[i].spec, &e), "%s", e.text);
        const size_t E = c.n_embd;
        cr_assert_eq(E, cases[i].n_embd);
        cr_assert_eq((c.vocab_size + c.n_ctx) * E + c.n_layer * (12 * E * E + 13 * E) + 2 * E,
                     cases[i].n_params);
    }
    gpt2_model *m = make_random("random:gpt2", 0);
    cr_assert_eq(m->n_params, 124439808);
    cr_assert(m->random);
    gpt2_model_free(m);
}

Test(gpt2, random_weights_depend_on_the_seed_only)
{
    gpt2_model *a = make_random("random:2,4,32,64,2000", 7);
    omp_set_num_threads(omp_get_max_threads() + 3);
    gpt2_model *b = make_random("random:2,4,32,64,2000", 7);
    gpt2_model *c = make_random("random:2,4,32,64,2000", 8);
    cr_assert_eq(gpt2_model_checksum(a), gpt2_model_checksum(b));
    cr_assert_neq(gpt2_model_checksum(a), gpt2_model_checksum(c));
    const uint64_t checksum = gpt2_model_checksum(b);
    b->config.layer_norm_epsilon *= 2.0f;
    cr_assert_neq(gpt2_model_checksum(b), checksum, "the other constant that figures depend on");

    cr_assert_neq(memcmp(a->wte, a->wpe, 16 * sizeof(float)), 0, "two tensors share their noise");
    for (size_t i = 0; i < a->n_tensors; i++) {
        const gpt2_tensor *t = &a->tensors[i];
        cr_assert_eq((uintptr_t)t->data % 64, 0);
        if (t->n_dims == 1) {
            const float init = strstr(t->name, "ln_") && strstr(t->name, "weight") ? 1.0f : 0.0f;
            for (size_t j = 0; j < t->n_elems; j++)
                cr_assert_eq(t->data[j], init, "%s", t->name);
            continue;
        }
        double sum = 0, squares = 0, n = (double)t->n_elems;
        for (size_t j = 0; j < t->n_elems; j++) {
            sum += (double)t->data[j];
            squares += (double)t->data[j] * (double)t->data[j];
        }
        const double std = strstr(t->name, "c_proj") ? 0.01 : 0.02; /* 0.02 / sqrt(2 * 2 layers) */
        cr_assert_lt(fabs(sum / n), 5 * std / sqrt(n), "%s: mean %g", t->name, sum / n);
        cr_assert_float_eq(sqrt(squares / n), std, 0.03 * std, "%s: std %g", t->name, sqrt(squares / n));
    }
    gpt2_model_free(a);
    gpt2_model_free(b);
    gpt2_model_free(c);
}

Test(gpt2, wrong_random_descriptions_are_named)
{
    static const char *const cases[] = {"random:",
                                        "random:gpt3",
                                        "random:1,2,3,4",
                                        "random:1,2,3,4,5,6",
                                        "random:0,2,3,4,5",
                                        "random:-1,2,3,4,5",
                                        "random:1,2,3,4,5x",
                                        "random:1, 2,3,4,5",
                                        "random:1,2,1025,4,5",
                                        "random:1,2,3,4,",
                                        "random:99999999999999999999,1,1,1,1",
                                        "gpt2"};
    for (size_t i = 0; i < sizeof cases / sizeof cases[0]; i++) {
        gpt2_model *m;
        eval_error e = {""};
        cr_assert_not(gpt2_model_random(&m, cases[i], 0, &e), "accepted: %s", cases[i]);
        assert_mentions(e, cases[i]);
        assert_mentions(e, "random:L,H,D,ctx,vocab");
    }
    gpt2_model *m;
    eval_error e;
    cr_assert_not(gpt2_model_random(&m, "random:1,1024,1024,4,5", 0, &e));
    assert_mentions(e, "H * D is 1048576");
    cr_assert(gpt2_config_is_random("random:gpt2") && !gpt2_config_is_random("data/gpt2-6m"));
}

/* ---- checkpoints ---- */

/* How to write the small model of tiny_config. A tensor is named without prefix; NULL means none of them. */
typedef struct variant {
    const char *prefix, *dtype;
    bool untied, sharded, mask_buffers;
    bool says_tied; /* config.json does, whatever is so */
    bool same_head; /* lm_head.weight holds the numbers of wte.weight */
    const char *skip, *reshape, *as_i64, *poison;
    const char *extra; /* one more tensor */
    float poison_value;
} variant;

#define TINY      "random:2,2,4,4,6"
#define CONFIG    "{" SIZES ",\"tie_word_embeddings\":%s}"
#define PLAIN     ((variant){.prefix = "", .dtype = "F32"})
#define MAX_ELEMS 512

/* Values every dtype can hold exactly. */
static float tiny_value(const char *name, size_t i)
{
    return (float)((int)((strlen(name) * 31 + i * 17) % 127) - 63) / 64.0f;
}

static void add_tiny_tensor(st_writer *w, const variant *how, const gpt2_tensor *t)
{
    char name[96];
    uint8_t data[MAX_ELEMS * 8];
    size_t shape[2] = {t->shape[0], t->shape[1]}, elem_bytes = strcmp(how->dtype, "F32") == 0 ? 4 : 2;
    const char *dtype = how->dtype;
    cr_assert_leq(t->n_elems, MAX_ELEMS);
    for (size_t i = 0; i < t->n_elems; i++) {
        bool poisoned = how->poison && strcmp(how->poison, t->name) == 0 && i == 5;
        const bool as_wte = how->same_head && strcmp(t->name, "lm_head.weight") == 0;
        float value = poisoned ? how->poison_value : tiny_value(as_wte ? "wte.weight" : t->name, i);
        uint32_t bits;
        memcpy(&bits, &value, sizeof bits);
        if (strcmp(dtype, "F16") == 0) /* these values are zero or normal halves */
            bits = value == 0.0f ? 0 : (bits >> 16 & 0x8000u) | (((bits & 0x7fffffffu) - (112u << 23)) >> 13);
        else if (strcmp(dtype, "BF16") == 0)
            bits >>= 16;
        memcpy(data + i * elem_bytes, &bits, elem_bytes); /* little-endian */
    }
    if (how->reshape && strcmp(how->reshape, t->name) == 0) {
        shape[0] = t->shape[1];
        shape[1] = t->shape[0];
    }
    if (how->as_i64 && strcmp(how->as_i64, t->name) == 0) {
        dtype = "I64";
        elem_bytes = 8;
        memset(data, 0, sizeof data);
    }
    snprintf(name, sizeof name, "%s%s", strcmp(t->name, "lm_head.weight") ? how->prefix : "", t->name);
    st_writer_add(w, name, dtype, t->n_dims, shape, data, t->n_elems * elem_bytes);
}

static void write_index(const char *dir, const variant *how, const gpt2_model *tiny)
{
    char index[8192];
    size_t n = (size_t)sprintf(index, "{\"weight_map\":{");
    for (size_t i = 0; i < tiny->n_tensors; i++)
        n += (size_t)sprintf(index + n, "%s\"%s%s\":\"%c.safetensors\"", i ? "," : "", how->prefix,
                             tiny->tensors[i].name, i % 2 ? 'b' : 'a');
    sprintf(index + n, "}}");
    write_text(dir, "model.safetensors.index.json", index);
}

static void write_checkpoint(const char *dir, variant how)
{
    static st_writer w[2];
    gpt2_model *tiny = make_random(TINY, 0); /* for its list of tensors */
    char config[512];
    const uint8_t mask[16] = {0};
    const size_t mask_shape[4] = {1, 1, 4, 4};
    snprintf(config, sizeof config, CONFIG, how.untied && !how.says_tied ? "false" : "true");
    write_text(dir, "config.json", config);
    for (size_t i = 0; i < tiny->n_tensors; i++)
        if (!how.skip || strcmp(how.skip, tiny->tensors[i].name) != 0)
            add_tiny_tensor(&w[how.sharded && i % 2], &how, &tiny->tensors[i]);
    if (how.untied) {
        gpt2_tensor head = tiny->tensors[0];
        snprintf(head.name, sizeof head.name, "lm_head.weight");
        if (!how.skip || strcmp(how.skip, head.name) != 0)
            add_tiny_tensor(&w[0], &how, &head);
    }
    if (how.mask_buffers)
        st_writer_add(&w[0], "h.0.attn.bias", "BOOL", 4, mask_shape, mask, sizeof mask);
    if (how.extra)
        st_writer_add(&w[0], how.extra, "BOOL", 4, mask_shape, mask, sizeof mask);
    st_writer_save(&w[0], dir, how.sharded ? "a.safetensors" : "model.safetensors");
    if (how.sharded) {
        st_writer_save(&w[1], dir, "b.safetensors");
        write_index(dir, &how, tiny);
    }
    gpt2_model_free(tiny);
}

static gpt2_model *load_variant(variant how)
{
    char dir[64];
    gpt2_model *m;
    eval_error e;
    make_dir(dir);
    write_checkpoint(dir, how);
    cr_assert(gpt2_model_load(&m, dir, &e), "%s", e.text);
    remove_dir(dir);
    return m;
}

Test(gpt2, accepted_checkpoints_are_the_same_model)
{
    const variant variants[] = {
        {.prefix = "transformer.", .dtype = "F32"},
        {.prefix = "", .dtype = "F16"},
        {.prefix = "transformer.", .dtype = "BF16"},
        {.prefix = "", .dtype = "F32", .mask_buffers = true},
        {.prefix = "transformer.", .dtype = "F32", .extra = "transformer.h.1.attn.masked_bias"},
        {.prefix = "transformer.", .dtype = "F16", .sharded = true},
    };
    gpt2_model *plain = load_variant(PLAIN);
    cr_assert_eq(plain->n_tensors, 28);
    for (size_t i = 0; i < plain->n_tensors; i++)
        for (size_t j = 0; j < plain->tensors[i].n_elems; j++)
            cr_assert_eq(plain->tensors[i].data[j], tiny_value(plain->tensors[i].name, j));
    cr_assert_eq(plain->layers[1].mlp_out_bias[7], tiny_value("h.1.mlp.c_proj.bias", 7));
    cr_assert_eq(plain->head, plain->wte);
    for (size_t i = 0; i < sizeof variants / sizeof variants[0]; i++) {
        gpt2_model *m = load_variant(variants[i]);
        cr_assert_eq(gpt2_model_checksum(m), gpt2_model_checksum(plain), "variant %zu", i);
        cr_assert_eq(m->n_params, plain->n_params);
        gpt2_model_free(m);
    }
    gpt2_model_free(plain);
}

Test(gpt2, untied_head_is_used)
{
    gpt2_model *m = load_variant((variant){.prefix = "transformer.", .dtype = "F32", .untied = true});
    const int32_t ids[3] = {1, 5, 0};
    float logits[3 * 6], x[8], scratch[40];
    cr_assert_neq(m->head, m->wte);
    cr_assert_eq(m->head[10], tiny_value("lm_head.weight", 10));
    run_prompt(m, ids, 3, logits);
    gpt2_embed(m, ids, 0, 1, x);
    memset(x, 0, sizeof x); /* LayerNorm of zeros is its bias, so the logits are head * ln_f.bias */
    gpt2_logits(m, x, 1, scratch, logits);
    for (size_t i = 0; i < 6; i++) {
        float expected = 0;
        for (size_t j = 0; j < 8; j++)
            expected += m->head[i * 8 + j] * m->ln_f_bias[j];
        cr_assert_float_eq(logits[i], expected, 1e-5f);
    }
    gpt2_model_free(m);
}

/* config.json says that the head is wte. The file may know better. */
Test(gpt2, a_head_of_its_own_is_used_whatever_the_config_says)
{
    static const char *const dtypes[] = {"F32", "F16", "BF16"};
    gpt2_model *plain = load_variant(PLAIN);
    cr_assert_not(plain->head_against_config);
    for (size_t i = 0; i < 3; i++) {
        variant how = {.prefix = "transformer.", .dtype = dtypes[i], .untied = true, .says_tied = true};
        gpt2_model *m = load_variant(how);
        cr_assert(m->head_against_config && !m->config.tied_head);
        cr_assert_neq(m->head, m->wte);
        for (size_t j = 0; j < 48; j++)
            cr_assert_eq(m->head[j], tiny_value("lm_head.weight", j));
        cr_assert_eq(m->n_params, plain->n_params + 48);
        gpt2_model_free(m);
        how.same_head = true;
        m = load_variant(how);
        cr_assert(!m->head_against_config && m->config.tied_head && m->head == m->wte);
        cr_assert_eq(gpt2_model_checksum(m), gpt2_model_checksum(plain));
        gpt2_model_free(m);
    }
    gpt2_model_free(plain);
}

static void expect_load_error(const char *dir, const char *first, const char *second)
{
    gpt2_model *m;
    eval_error e = {""};
    cr_assert_not(gpt2_model_load(&m, dir, &e), "accepted, expected an error about %s", first);
    assert_mentions(e, first);
    assert_mentions(e, second);
}

Test(gpt2, wrong_checkpoints_are_named)
{
    static const struct {
        variant how;
        const char *mentions[2];
    } cases[] = {
        {{.prefix = "", .dtype = "F32", .skip = "h.1.mlp.c_fc.bias"},
         {"'h.1.mlp.c_fc.bias' is missing", "config"}},
        {{.prefix = "", .dtype = "F32", .untied = true, .skip = "lm_head.weight"},
         {"'lm_head.weight' is missing", "config"}},
        {{.prefix = "", .dtype = "F32", .untied = true, .says_tied = true, .reshape = "lm_head.weight"},
         {"'lm_head.weight'", "shape is [8,6], but config.json expects [6,8]"}},
        {{.prefix = "", .dtype = "F32", .untied = true, .says_tied = true, .as_i64 = "lm_head.weight"},
         {"'lm_head.weight'", "dtype is I64"}},
        {{.prefix = "transformer.", .dtype = "F32", .reshape = "h.0.attn.c_attn.weight"},
         {"'transformer.h.0.attn.c_attn.weight'", "shape is [24,8], but config.json expects [8,24]"}},
        {{.prefix = "", .dtype = "F32", .as_i64 = "ln_f.bias"},
         {"'ln_f.bias'", "dtype is I64, expected F32, F16, BF16 or"}},
        {{.prefix = "", .dtype = "F32", .poison = "h.1.ln_2.weight", .poison_value = NAN},
         {"'h.1.ln_2.weight': element 5", "is NaN"}},
        {{.prefix = "", .dtype = "BF16", .poison = "wpe.weight", .poison_value = -INFINITY},
         {"'wpe.weight': element 5", "is infinite"}},
        {{.prefix = "", .dtype = "F32", .extra = "lm_head.bias"},
         {"'lm_head.bias' is none that", "not supported"}},
        {{.prefix = "", .dtype = "F32", .extra = "h.0.crossattention.c_attn.weight"},
         {"'h.0.crossattention.c_attn.weight' is none that", "not supported"}},
        {{.prefix = "", .dtype = "F32", .extra = "transformer.wte.bias"},
         {"'transformer.wte.bias' is none that", "not supported"}},
    };
    char dir[64];
    make_dir(dir);
    for (size_t i = 0; i < sizeof cases / sizeof cases[0]; i++) {
        write_checkpoint(dir, cases[i].how);
        expect_load_error(dir, cases[i].mentions[0], cases[i].mentions[1]);
    }
    write_checkpoint(dir, PLAIN);
    write_text(dir, "config.json", "{\"n_layer\":1,\"n_head\":2,\"n_embd\":8,\"n_ctx\":4,\"vocab_size\":6}");
    expect_load_error(dir, "'h.1.ln_1.weight'", "beyond n_layer 1");
    write_text(dir, "config.json", "{\"n_layer\":2,\"n_head\":2,\"n_embd\":8,\"n_ctx\":4,\"vocab_size\":7}");
    expect_load_error(dir, "'wte.weight'", "shape is [6,8], but config.json expects [7,8]");
    write_text(
        dir, "config.json",
        "{\"n_layer\":1024,\"n_head\":1024,\"n_embd\":262144,\"n_ctx\":1048576,\"vocab_size\":4194304}");
    expect_load_error(dir, "'wte.weight'", "shape is [6,8], but config.json expects [4194304,262144]");
    remove_file(dir, "config.json");
    expect_load_error(dir, "config.json", "cannot open");
    remove_dir(dir);
}

Test(gpt2, default_model)
{
    gpt2_model *m = load_default();
    cr_assert_eq(m->n_params, 6049792);
    cr_assert_not(m->random);
    cr_assert(m->config.n_layer == 6 && m->config.n_head == 4 && m->config.head_dim == 64);
    cr_assert_eq(m->config.eos_token_id, 4095);
    gpt2_model_free(m);
}
