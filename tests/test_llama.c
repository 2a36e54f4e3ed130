/* The Llama family against Hugging Face's implementation (vectors/llama): logits of every kind of model and
 * RoPE scaling, from directories and GGUF files; and random models. */
#define _XOPEN_SOURCE 700

#include "eval/common/input_file.h"
#include "eval/common/json_util.h"
#include "eval/model/llama_model.h"
#include "eval/model/llama_weights.h"
#include "tests/attend_plainly.h"
#include "tests/npy.h"

#include <criterion/criterion.h>
#include <math.h>
#include <omp.h>

#define VECTORS KVQ_SOURCE_DIR "/tests/vectors/llama/"

/* Of the largest logit. Measured: up to 3.4e-6 (smollm3, by steps) with gcc on x86-64, the rounding of
 * float32 sums in both implementations; three times that, for other compilers and BLAS kernels. */
#define TOLERANCE 1e-5

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

static npy_array load_npy(const char *name, const char *suffix, const char *dtype)
{
    char path[512];
    npy_array a;
    snprintf(path, sizeof path, VECTORS "%s%s", name, suffix);
    cr_assert(npy_load(&a, path), "cannot read %s", path);
    cr_assert_str_eq(a.dtype, dtype);
    return a;
}

static bool load_directory(model *m, const char *dir, eval_error *e)
{
    input_file file;
    *m = (model){.kind = NULL};
    cr_assert(input_file_read(&file, dir, "config.json", e), "%s", e->text);
    json_t *config = json_parse_object(file.path, file.data, file.size, 0, e);
    cr_assert_not_null(config, "%s", e->text);
    const bool ok = llama_load_directory(m, dir, config, "config.json", e);
    json_decref(config);
    input_file_free(&file);
    return ok;
}

static bool load_gguf(model *m, const char *path, eval_error *e)
{
    gguf *g;
    *m = (model){.kind = NULL};
    if (!gguf_open(&g, path, e))
        return false;
    const bool ok = llama_load_gguf(m, g, e);
    gguf_close(g);
    return ok;
}

static model load_vectors(const char *name)
{
    char path[512];
    eval_error e = {""};
    model m;
    snprintf(path, sizeof path, VECTORS "%s", name);
    cr_assert(strstr(name, ".gguf") ? load_gguf(&m, path, &e) : load_directory(&m, path, &e), "%s: %s", name,
              e.text);
    return m;
}

/* All n tokens, `at_once` in a pass, with a plain cache and an attention of the test's own:
 * logits[n][vocab]. */
static void run(const model *m, const int32_t *ids, size_t n, size_t at_once, float *logits)
{
    const model_shape *s = &m->shape;
    const size_t A = s->n_head * s->head_dim, C = s->n_kv_head * s->head_dim, D = s->head_dim;
    float *x = floats(n * s->n_embd), *q = floats(n * A), *attn = floats(n * A);
    float *k = floats(s->n_layer * n * C), *v = floats(s->n_layer * n * C);
    float *scratch = floats(m->kind->scratch_floats(m, at_once));
    for (size_t t0 = 0; t0 < n; t0 += at_once) {
        const size_t part = n - t0 < at_once ? n - t0 : at_once;
        m->kind->embed(m, ids + t0, t0, part, x);
        for (size_t l = 0; l < s->n_layer; l++) {
            float *kl = k + l * n * C, *vl = v + l * n * C;
            const size_t window = m->kind->attn_window(m, l);
            m->kind->layer_qkv(m, l, x, t0, part, scratch, q, kl + t0 * C, vl + t0 * C);
            for (size_t i = 0; i < part * s->n_head; i++) {
                const size_t t = i / s->n_head, h = i % s->n_head, end = t0 + t + 1;
                const size_t first = window && window < end ? end - window : 0;
                const size_t kv = first * C + h / (s->n_head / s->n_kv_head) * D;
                attend_plainly(q + i * D, kl + kv, vl + kv, end - first, C, D,
                               (double)m->kind->attn_scale(m, l), attn + i * D);
            }
            m->kind->layer_finish(m, l, x, attn, part, scratch);
        }
        m->kind->logits(m, x, part, scratch, logits + t0 * s->vocab_size);
    }
    float *all[] = {x, q, attn, k, v, scratch};
    for (size_t i = 0; i < sizeof all / sizeof all[0]; i++)
        free(all[i]);
}

static double largest_error(const float *a, const float *b, size_t n)
{
    double largest = 0, error = 0;
    for (size_t i = 0; i < n; i++) {
        largest = fmax(largest, fabs((double)b[i]));
        error = fmax(error, fabs((double)a[i] - (double)b[i]));
        error = isfinite(a[i]) ? error : INFINITY;
    }
    return error / largest;
}

/* ---- against Hugging Face ---- */

static const char *const vectors[][2] = {
    {"llama", "llama/logits.npy"},
    {"llama-linear", "llama-linear/logits.npy"},
    {"llama-llama3", "llama-llama3/logits.npy"},
    {"llama-yarn", "llama-yarn/logits.npy"},
    {"qwen2-yarn", "qwen2-yarn/logits.npy"},
    {"mistral", "mistral/logits.npy"},
    {"qwen2", "qwen2/logits.npy"},
    {"qwen3", "qwen3/logits.npy"},
    {"smollm3", "smollm3/logits.npy"},
    {"llama-bf16.gguf", "llama/logits.npy"},
    {"llama3-f32.gguf", "llama-llama3/logits.npy"},
    {"llama-linear-f16.gguf", "llama-linear/logits.npy"},
    {"llama-yarn-bf16.gguf", "llama-yarn/logits.npy"},
    {"mistral-q8_0.gguf", "mistral-q8_0.logits.npy"},
    {"mistral-q4_1.gguf", "mistral-q4_1.logits.npy"},
    {"qwen3-f32.gguf", "qwen3-f32.logits.npy"},
    {"qwen2-bf16.gguf", "qwen2-bf16.logits.npy"},
    {"smollm3-bf16.gguf", "smollm3-bf16.logits.npy"},
};

Test(llama, logits_match_hugging_face)
{
    npy_array ids = load_npy("ids.npy", "", "<i4");
    omp_set_num_threads(1); /* for work this small, threads that wait for one another take much longer */
    for (size_t i = 0; i < sizeof vectors / sizeof vectors[0]; i++) {
        model m = load_vectors(vectors[i][0]);
        npy_array expected = load_npy(vectors[i][1], "", "<f4");
        const size_t n = ids.n_elems, V = m.shape.vocab_size;
        cr_assert_eq(expected.n_elems, n * V);
        float *together = floats(n * V), *steps = floats(n * V), *sevens = floats(n * V);
        run(&m, ids.data, n, n, together);
        run(&m, ids.data, n, 1, steps);
        run(&m, ids.data, n, 7, sevens);
        const double error = largest_error(together, expected.data, n * V),
                     of_steps = largest_error(steps, expected.data, n * V),
                     between = largest_error(sevens, together, n * V);
        printf("%-22s %-8s %-16s error %.2g, by steps %.2g\n", vectors[i][0], m.shape.architecture, m.weights,
               error, of_steps);
        cr_assert_lt(error, TOLERANCE, "%s: %g", vectors[i][0], error);
        cr_assert_lt(of_steps, TOLERANCE, "%s: %g", vectors[i][0], of_steps);
        cr_assert_lt(between, TOLERANCE, "%s: %g", vectors[i][0], between);
        free(together);
        free(steps);
        free(sevens);
        npy_free(&expected);
        m.kind->free(&m);
    }
    npy_free(&ids);
}

/* ---- what is refused ---- */

/* A good config.json, to which each case adds fields; a later one of the same name wins. */
static bool parse_with(llama_config *c, const char *fields, eval_error *e)
{
    json_t *root = json_loads("{\"model_type\":\"llama\",\"hidden_size\":48,\"intermediate_size\":64,"
                              "\"num_hidden_layers\":2,\"num_attention_heads\":6,\"num_key_value_heads\":3,"
                              "\"max_position_embeddings\":64,\"vocab_size\":64}",
                              0, NULL);
    json_t *more = json_loads(fields, 0, NULL);
    cr_assert(root && more, "the test's JSON is wrong: %s", fields);
    json_object_update(root, more);
    const bool ok = llama_config_parse(c, "config.json", root, e);
    json_decref(root);
    json_decref(more);
    return ok;
}

Test(llama, settings_that_compute_something_else_are_refused_by_name)
{
    static const char *const cases[][2] = {
        {"{\"model_type\":\"mixtral\"}",
         "model_type is 'mixtral', expected one of llama, mistral, qwen2, qwen3, smollm3"},
        {"{\"hidden_act\":\"gelu\"}", "hidden_act is 'gelu', expected 'silu'"},
        {"{\"num_local_experts\":8}",
         "num_local_experts is 8, which means a mixture of experts: not supported"},
        {"{\"kv_lora_rank\":64}",
         "kv_lora_rank is 64, which means multi-head latent attention: not supported"},
        {"{\"final_logit_softcapping\":30.0}",
         "final_logit_softcapping is 30.0, which means softcapped logits: not supported"},
        {"{\"quantization_config\":{\"quant_method\":\"gptq\"}}",
         "quantization_config is {\"quant_method\": \"gptq\"}, which means weights in a format of their own: "
         "not "
         "supported"},
        {"{\"rope_scaling\":{\"rope_type\":\"longrope\",\"factor\":4}}",
         "rope_type is 'longrope', expected 'default', 'linear', 'llama3' or 'yarn'"},
        {"{\"rope_scaling\":{\"type\":\"dynamic\",\"factor\":4}}",
         "rope_type is 'dynamic', expected 'default', 'linear', 'llama3' or 'yarn'"},
        {"{\"rope_scaling\":{\"type\":\"linear\"}}",
         "factor of the rope parameters is missing, expected a number from 0.001 to 1e+06"},
        {"{\"rope_scaling\":{\"type\":\"llama3\",\"factor\":8,\"low_freq_factor\":4,\"high_freq_factor\":1}}",
         "low_freq_factor is 4 and high_freq_factor 1, expected the first below the second"},
        {"{\"rope_parameters\":{\"full_attention\":{\"rope_theta\":1e4}}}",
         "rope parameters of their own for 'full_attention': not supported"},
        {"{\"partial_rotary_factor\":0.5}",
         "partial_rotary_factor is 0.5, expected 1: no llama model rotates a part of a head"},
        {"{\"rope_theta\":0}", "rope_theta is 0, expected a number from 1 to 1e+15"},
        {"{\"num_hidden_layers\":1025}", "num_hidden_layers is 1025, expected an integer from 1 to 1024"},
        {"{\"hidden_size\":-1}", "hidden_size is -1, expected an integer from 1 to 262144"},
        {"{\"vocab_size\":9223372036854775807}",
         "vocab_size is 9223372036854775807, expected an integer from 1 to 4194304"},
        {"{\"num_key_value_heads\":4}", "6 attention heads are not a multiple of 4 key-value heads"},
        {"{\"head_dim\":7}", "the head dimension is 7, expected an even number from 2 to 1024"},
        {"{\"head_dim\":1024,\"num_attention_heads\":1024,\"num_key_value_heads\":1}",
         "heads * head dimension is 1048576, expected at most 262144"},
        {"{\"hidden_size\":50}",
         "hidden_size 50 is not a multiple of num_attention_heads 6, and there is no head_dim"},
        {"{\"rms_norm_eps\":\"small\"}", "rms_norm_eps is \"small\", expected a number from 1e-30 to 1"},
        {"{\"model_type\":\"qwen2\",\"layer_types\":[\"full_attention\"]}",
         "layer_types is not an array of num_hidden_layers = 2 strings"},
        {"{\"model_type\":\"qwen2\",\"layer_types\":[\"full_attention\",\"linear_attention\"]}",
         "layer_types of layer 1 is 'linear_attention', expected 'full_attention' or 'sliding_attention'"},
        {"{\"model_type\":\"qwen2\",\"layer_types\":[\"full_attention\",\"sliding_attention\"]}",
         "layer_types of layer 1 is 'sliding_attention', but no sliding window is in use"},
    };
    for (size_t i = 0; i < sizeof cases / sizeof cases[0]; i++) {
        llama_config c;
        eval_error e = {""};
        char expected[512];
        snprintf(expected, sizeof expected, "config.json: %s", cases[i][1]);
        cr_expect_not(parse_with(&c, cases[i][0], &e), "%s was accepted", cases[i][0]);
        cr_expect_str_eq(e.text, expected, "%s gave '%s'", cases[i][0], e.text);
    }
}

/* Layer by layer, by the rules of each of Hugging Face's classes. */
Test(llama, windows_are_those_of_the_model_class)
{
    static const struct {
        const char *fields;
        size_t window;
        bool slides[2];
    } cases[] = {
        {"{\"sliding_window\":8}", 0, {false, false}}, /* llama does not look at it */
        {"{\"model_type\":\"mistral\",\"sliding_window\":8}", 8, {true, true}},
        {"{\"model_type\":\"mistral\",\"sliding_window\":null}", 0, {false, false}},
        {"{\"model_type\":\"mistral\"}", 0, {false, false}}, /* 4,096 by default, more than the context */
        {"{\"model_type\":\"mistral\",\"max_position_embeddings\":8192}", 4096, {true, true}},
        {"{\"model_type\":\"qwen2\",\"sliding_window\":8,\"max_window_layers\":1}", 0, {false, false}},
        {"{\"model_type\":\"qwen2\",\"use_sliding_window\":true,\"sliding_window\":8,\"max_window_layers\":"
         "1}",
         8,
         {false, true}},
        {"{\"model_type\":\"qwen2\",\"use_sliding_window\":true,\"sliding_window\":8}", 0, {false, false}},
    };
    for (size_t i = 0; i < sizeof cases / sizeof cases[0]; i++) {
        llama_config c;
        eval_error e = {""};
        cr_assert(parse_with(&c, cases[i].fields, &e), "%s: %s", cases[i].fields, e.text);
        cr_expect_eq(c.window, cases[i].window, "%s: window %zu", cases[i].fields, c.window);
        cr_expect(c.slides[0] == cases[i].slides[0] && c.slides[1] == cases[i].slides[1], "%s",
                  cases[i].fields);
    }
}

/* ---- random models ---- */

Test(llama, random_models_depend_on_shape_and_seed_only)
{
    uint64_t sums[3];
    for (int i = 0; i < 3; i++) {
        model m = {.kind = NULL};
        eval_error e = {""};
        bool known = false;
        omp_set_num_threads(1 + i % 2);
        cr_assert(llama_random(&m, "2,6,3,16,64,1000", i == 2 ? 8 : 7, &known, &e), "%s", e.text);
        cr_assert(known);
        cr_assert(m.random && m.shape.n_embd == 96 && m.shape.n_kv_head == 3);
        cr_assert_str_eq(m.weights, "BF16, F32");
        sums[i] = m.kind->checksum(&m);
        m.kind->free(&m);
    }
    cr_assert_eq(sums[0], sums[1]);
    cr_assert_neq(sums[0], sums[2]);
}

/* Results are found again by it, so a config that computes something else must not have the same. */
Test(llama, the_checksum_is_of_the_constants_too)
{
    model m = {.kind = NULL};
    eval_error e = {""};
    bool known = false;
    cr_assert(llama_random(&m, "2,6,3,16,64,1000", 7, &known, &e), "%s", e.text);
    llama_model *own = m.own;
    llama_config *c = &own->config;
    const uint64_t sum = m.kind->checksum(&m);
    c->norm_epsilon *= 2.0f;
    cr_expect_neq(m.kind->checksum(&m), sum);
    c->norm_epsilon /= 2.0f;
    own->frequencies[3] *= 2.0f;
    cr_expect_neq(m.kind->checksum(&m), sum);
    own->frequencies[3] /= 2.0f;
    c->rope.attention_factor = 2.0;
    cr_expect_neq(m.kind->checksum(&m), sum);
    c->rope.attention_factor = 1.0;
    c->window = 8;
    cr_expect_eq(m.kind->checksum(&m), sum, "no layer slides");
    c->slides[1] = true;
    cr_expect_neq(m.kind->checksum(&m), sum);
    c->slides[1] = false;
    c->rotates[0] = false;
    cr_expect_neq(m.kind->checksum(&m), sum);
    c->rotates[0] = true;
    cr_expect_eq(m.kind->checksum(&m), sum);
    m.kind->free(&m);
}

Test(llama, random_shapes_are_checked)
{
    model m;
    eval_error e = {""};
    bool known = true;
    cr_assert(llama_random(&m, "no-such-model", 1, &known, &e));
    cr_assert_not(known);
    cr_assert(llama_random(&m, "2,2,16,64,100", 1, &known, &e)); /* five numbers are a GPT-2's */
    cr_assert_not(known);
    cr_assert_not(llama_random(&m, "2,6,4,16,64,1000", 1, &known, &e));
    cr_assert_str_eq(
        e.text, "model 'random:2,6,4,16,64,1000': 6 attention heads are not a multiple of 4 key-value heads");
    cr_assert_not(llama_random(&m, "99999,6,3,16,64,1000", 1, &known, &e));
    cr_assert_str_eq(e.text, "model 'random:99999,6,3,16,64,1000': L is not an integer from 1 to 1024");
}

/* The same bits with one thread and with two, for weights that are converted and for those that are not. */
Test(llama, products_do_not_depend_on_threads)
{
    enum { N_OUT = 700, N_IN = 1300, N = 9 };
    float *x = floats(N * N_IN), *w = floats(N_OUT * N_IN), *y1 = floats(N * N_OUT), *y2 = floats(N * N_OUT);
    float *scratch = floats(matrix_scratch_floats(2));
    for (size_t i = 0; i < N_OUT * N_IN; i++)
        w[i] = (float)(i * 7919 % 1009) / 1009.0f - 0.5f;
    for (size_t i = 0; i < N * N_IN; i++)
        x[i] = (float)(i * 104729 % 997) / 997.0f - 0.5f;
    const tensor_type types[] = {TENSOR_F32, TENSOR_BF16};
    for (size_t i = 0; i < 4; i++) {
        const matrix m = {.n_out = N_OUT, .n_in = N_IN, .type = types[i % 2], .data = w};
        const size_t n = i < 2 ? N : 1;
        omp_set_num_threads(1);
        matrix_multiply(&m, x, n, 2, scratch, y1);
        omp_set_num_threads(2);
        matrix_multiply(&m, x, n, 2, scratch, y2);
        if (types[i % 2] == TENSOR_F32)
            for (size_t j = 0; j < N_OUT; j++) {
                double sum = 0;
                for (size_t c = 0; c < N_IN; c++)
                    sum += (double)w[j * N_IN + c] * (double)x[c];
                cr_assert_float_eq(y1[j], sum, 1e-3);
            }
        cr_assert_eq(memcmp(y1, y2, n * N_OUT * sizeof *y1), 0, "case %zu", i);
    }
    float *all[] = {x, w, y1, y2, scratch};
    for (size_t i = 0; i < 5; i++)
        free(all[i]);
}
