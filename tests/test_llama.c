/* The Llama family against Hugging Face's implementation (vectors/llama): logits of every kind of model and RoPE
 * scaling, from directories and GGUF files; and random models. */
#define _XOPEN_SOURCE 700

#include "eval/common/input_file.h"
#include "eval/common/json_util.h"
#include "eval/model/llama_model.h"
#include "eval/model/llama_weights.h"
#include "tests/npy.h"

#include <criterion/criterion.h>
#include <criterion/parameterized.h>
#include <math.h>
#include <omp.h>

#define VECTORS KVQ_SOURCE_DIR "/tests/vectors/llama/"

/* Of the largest logit. Measured: up to 1.2e-6 (llama3-f32) with gcc on x86-64, which is the rounding of float32 sums of
 * these lengths twice over (theirs and ours); a rotation that is off by one position in 10,000 or a window off by
 * one token gives 1e-3 and more. */
#define TOLERANCE 5e-6

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

/* One query over n keys in double; rows of k and v are `stride` floats apart. */
static void attend_plainly(const float *q, const float *k, const float *v, size_t n, size_t stride, size_t D,
                           double scale, float *out)
{
    double *p = allocate(n, sizeof *p), max = -INFINITY, sum = 0;
    for (size_t t = 0; t < n; t++) {
        for (size_t d = 0; d < D; d++)
            p[t] += (double)q[d] * (double)k[t * stride + d] * scale;
        max = p[t] > max ? p[t] : max;
    }
    for (size_t t = 0; t < n; t++)
        sum += p[t] = exp(p[t] - max);
    for (size_t d = 0; d < D; d++) {
        double o = 0;
        for (size_t t = 0; t < n; t++)
            o += p[t] / sum * (double)v[t * stride + d];
        out[d] = (float)o;
    }
    free(p);
}

/* All n tokens, `at_once` in a pass, with a plain cache and an attention of the test's own: logits[n][vocab]. */
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
