/* What a GGUF file's metadata and tensors make of a Llama-type model and its tokenizer: defaults, YaRN,
 * heads, norms, and the windows of a text. */
#define _XOPEN_SOURCE 700

#include "eval/model/inputs.h"
#include "eval/model/llama_config.h"
#include "eval/model/llama_model.h"
#include "tests/checkpoint_files.h"
#include "tests/tiny_llama.h"

#include <math.h>

/* Writes the file and opens it; *image is its memory. */
static gguf *open_image(tiny_gguf *t, gguf_image *image)
{
    gguf *g = NULL;
    eval_error e = {""};
    tiny_finish(t, image);
    cr_assert(gguf_open_memory(&g, "test", image->bytes, image->n, &e), "%s", e.text);
    return g;
}

static bool read_config(tiny_gguf *t, llama_config *c, eval_error *e)
{
    gguf_image image = {.n = 0};
    gguf *g = open_image(t, &image);
    const bool ok = llama_config_gguf(c, g, e);
    gguf_close(g);
    gguf_image_free(&image);
    return ok;
}

static model load(tiny_gguf *t)
{
    gguf_image image = {.n = 0};
    gguf *g = open_image(t, &image);
    model m = {.kind = NULL};
    eval_error e = {""};
    cr_assert(llama_load_gguf(&m, g, &e), "%s", e.text);
    gguf_close(g);
    gguf_image_free(&image);
    return m;
}

/* ---- metadata ---- */

Test(llama_gguf, sizes_that_are_missing)
{
    static const char *const cases[][2] = {
        {"block_count", "1 to 1024"},          {"context_length", "1 to 16777216"},
        {"embedding_length", "1 to 262144"},   {"feed_forward_length", "1 to 1048576"},
        {"attention.head_count", "1 to 1024"},
    };
    for (size_t i = 0; i < sizeof cases / sizeof cases[0]; i++) {
        char key[64], expected[128];
        llama_config c;
        eval_error e = {""};
        snprintf(key, sizeof key, "llama.%s", cases[i][0]);
        snprintf(expected, sizeof expected, "test: key '%s' is missing, expected a whole number from %s", key,
                 cases[i][1]);
        tiny_gguf t = {.without = key};
        tiny_llama(&t);
        cr_expect_not(read_config(&t, &c, &e), "%s", key);
        cr_expect_str_eq(e.text, expected, "got '%s'", e.text);
    }
}

Test(llama_gguf, defaults)
{
    tiny_gguf t = {.without = "llama.attention.head_count_kv"};
    llama_config c;
    eval_error e = {""};
    tiny_llama(&t);
    cr_assert(read_config(&t, &c, &e), "%s", e.text);
    cr_expect_eq(c.n_kv_head, 2, "as many as there are heads");
    cr_expect_eq(c.head_dim, 4);
    cr_expect_eq(c.norm_epsilon, 1e-6f);
    cr_expect_eq(c.rope.theta, 10000.0);
    cr_expect_eq(c.rope.type, ROPE_DEFAULT);
    cr_expect_eq(c.rope.attention_factor, 1.0);
    cr_expect_eq(c.window, 0);
}

/* A file of n_layers layers with n numbers of key-value heads in an array. */
static bool read_kv_array(llama_config *c, int n_layers, int n, int first, int second, eval_error *e)
{
    tiny_gguf t = {.without = "llama.attention.head_count_kv", .without_too = "llama.block_count"};
    tiny_llama(&t);
    t.without_too = NULL;
    tiny_u32(&t, "llama.block_count", n_layers);
    gguf_put(&t.keys,
             n == 2   ? "sddqdd"
             : n == 1 ? "sddqd"
                      : "sddq",
             "llama.attention.head_count_kv", 9, 4, n, first, second);
    t.n_keys++;
    return read_config(&t, c, e);
}

Test(llama_gguf, key_value_heads_of_each_layer)
{
    static const struct {
        int n_layers, n, first, second;
        const char *message;
    } cases[] = {
        {1, 0, 0, 0, " has 0 elements, expected one for each of 1 layer"},
        {1, 2, 1, 1, " has 2 elements, expected one for each of 1 layer"},
        {2, 1, 1, 0, " has 1 element, expected one for each of 2 layers"},
        {2, 2, 2, 1, " of layer 1 is 1, expected the same from 1 to 1024 in all layers"},
        {1, 1, 0, 0, " of layer 0 is 0, expected the same from 1 to 1024 in all layers"},
    };
    llama_config c;
    eval_error e = {""};
    cr_assert(read_kv_array(&c, 1, 1, 2, 0, &e), "%s", e.text);
    cr_expect_eq(c.n_kv_head, 2);
    cr_assert(read_kv_array(&c, 2, 2, 1, 1, &e), "%s", e.text);
    cr_expect_eq(c.n_kv_head, 1);
    for (size_t i = 0; i < sizeof cases / sizeof cases[0]; i++) {
        char expected[160];
        snprintf(expected, sizeof expected, "test: llama.attention.head_count_kv%s", cases[i].message);
        cr_expect_not(read_kv_array(&c, cases[i].n_layers, cases[i].n, cases[i].first, cases[i].second, &e));
        cr_expect_str_eq(e.text, expected, "got '%s'", e.text);
    }
}

Test(llama_gguf, yarn)
{
    tiny_gguf t = {.n_keys = 0};
    llama_config c;
    eval_error e = {""};
    tiny_llama(&t);
    tiny_string(&t, "llama.rope.scaling.type", "yarn");
    tiny_f32(&t, "llama.rope.scaling.factor", 4.0f);
    tiny_u32(&t, "llama.rope.scaling.original_context_length", 4);
    cr_assert(read_config(&t, &c, &e), "%s", e.text);
    cr_expect_eq(c.rope.type, ROPE_YARN);
    cr_expect_eq(c.rope.factor, 4.0);
    cr_expect_eq(c.rope.original_ctx, 4.0);
    cr_expect_eq(c.rope.beta_fast, 32.0);
    cr_expect_eq(c.rope.beta_slow, 1.0);
    cr_expect_float_eq(c.rope.attention_factor, 1.0 + 0.1 * log(4.0), 1e-12);
    tiny_llama(&t);
    tiny_string(&t, "llama.rope.scaling.type", "yarn");
    tiny_f32(&t, "llama.rope.scaling.factor", 4.0f);
    tiny_f32(&t, "llama.rope.scaling.yarn_attn_factor", 0.5f);
    tiny_f32(&t, "llama.rope.scaling.attn_factor", 3.0f);
    tiny_f32(&t, "llama.rope.scaling.yarn_beta_fast", 24.0f);
    tiny_f32(&t, "llama.rope.scaling.yarn_beta_slow", 2.0f);
    cr_assert(read_config(&t, &c, &e), "%s", e.text);
    cr_expect_eq(c.rope.original_ctx, 16.0, "the context itself");
    cr_expect_eq(c.rope.beta_fast, 24.0);
    cr_expect_eq(c.rope.beta_slow, 2.0);
    cr_expect_float_eq(c.rope.attention_factor, (1.0 + 0.1 * log(4.0)) * 1.5, 1e-12);
}

/* ---- tensors ---- */

Test(llama_gguf, an_output_of_its_own_is_the_head)
{
    float logits[3][4], *scratch = NULL;
    for (int i = 0; i < 3; i++) { /* without output.weight; with the embedding's numbers; with one changed */
        tiny_gguf t = {.n_keys = 0};
        tiny_llama(&t);
        if (i > 0)
            tiny_tensor_with(&t, "output.weight", 4, 8, i == 2 ? 17 : -1, 5.0f); /* row 2, column 1 */
        model m = load(&t);
        const int32_t id = 1;
        float x[8];
        scratch = realloc(scratch, m.kind->scratch_floats(&m, 1) * sizeof *scratch);
        cr_assert_not_null(scratch);
        m.kind->embed(&m, &id, 0, 1, x);
        m.kind->logits(&m, x, 1, scratch, logits[i]);
        cr_expect_str_eq(m.note, "");
        m.kind->free(&m);
    }
    for (int j = 0; j < 4; j++) {
        cr_expect_eq(logits[1][j], logits[0][j]);
        cr_expect_eq(logits[2][j] != logits[0][j], j == 2, "logit %d", j);
    }
    free(scratch);
}

static double mean_square(const double *x, size_t n)
{
    double sum = 0;
    for (size_t i = 0; i < n; i++)
        sum += x[i] * x[i];
    return sum / (double)n;
}

/* Element i of every tensor, as tiny_tensor makes it. */
static double element(size_t i)
{
    return (double)((int)(i % 7) - 3) / 8.0;
}

/* At position 0, which RoPE leaves alone: rows of W times the normalized x, each head normalized again, with
 * the same epsilon, which is large here. */
static void check_heads(const float *got, size_t n_heads, const double *normalized, double epsilon)
{
    for (size_t h = 0; h < n_heads; h++) {
        double head[4] = {0};
        for (size_t i = 0; i < 32; i++)
            head[i / 8] += element(h * 32 + i) * normalized[i % 8];
        const double inverse = 1.0 / sqrt(mean_square(head, 4) + epsilon);
        for (size_t d = 0; d < 4; d++)
            cr_expect_float_eq(got[h * 4 + d], head[d] * inverse * element(d), 1e-6, "head %zu, %zu: %g", h,
                               d, (double)got[h * 4 + d]);
    }
}

Test(llama_gguf, norms_of_queries_and_keys)
{
    tiny_gguf t = {.without = "qwen3.attention.layer_norm_rms_epsilon"};
    tiny_model(&t, "qwen3");
    t.without = NULL;
    tiny_f32(&t, "qwen3.attention.layer_norm_rms_epsilon", 0.25f);
    tiny_tensor(&t, "blk.0.attn_q_norm.weight", 0, 4);
    tiny_tensor(&t, "blk.0.attn_k_norm.weight", 0, 4);
    model m = load(&t);
    float *scratch = malloc(m.kind->scratch_floats(&m, 1) * sizeof *scratch);
    float x[8], q[8], k[4], v[4];
    double normalized[8];
    const int32_t id = 3;
    cr_assert_not_null(scratch);
    m.kind->embed(&m, &id, 0, 1, x);
    m.kind->layer_qkv(&m, 0, x, 0, 1, scratch, q, k, v);
    for (size_t i = 0; i < 8; i++)
        normalized[i] = element(24 + i);
    const double inverse = 1.0 / sqrt(mean_square(normalized, 8) + 0.25);
    for (size_t i = 0; i < 8; i++)
        normalized[i] *= inverse * element(i);
    check_heads(q, 2, normalized, 0.25);
    check_heads(k, 1, normalized, 0.25);
    free(scratch);
    m.kind->free(&m);
}

/* ---- the tokenizer, and windows of a text ---- */

static void write_model(char dir[64])
{
    gguf_image image = {.n = 0};
    tiny_llama_with_tokenizer(&image);
    make_dir(dir);
    write_file(dir, "m.gguf", image.bytes, image.n);
    gguf_image_free(&image);
}

/* `text` in windows of four tokens, against the ids of all windows. */
static void check_windows(const char *text, bool no_bos, const int32_t *expected, size_t n_windows)
{
    char dir[64], path[96], text_path[96];
    progress quiet = {.shown = false};
    eval_error e = {""};
    inputs in;
    write_model(dir);
    write_text(dir, "text", text);
    snprintf(path, sizeof path, "%s/m.gguf", dir);
    snprintf(text_path, sizeof text_path, "%s/text", dir);
    const inputs_request r = {.model = path, .text = text_path, .tokens = 4, .no_bos = no_bos};
    cr_assert(inputs_load(&in, &r, &quiet, &e), "%s", e.text);
    cr_assert_eq(in.n_windows, n_windows, "%zu windows", in.n_windows);
    cr_assert_eq(in.n_ids, 4 * n_windows);
    for (size_t i = 0; i < in.n_ids; i++)
        cr_expect_eq(in.ids[i], expected[i], "id %zu is %d", i, (int)in.ids[i]);
    inputs_free(&in);
    remove_file(dir, "m.gguf");
    remove_file(dir, "text");
    remove_dir(dir);
}

/* Tokens that are left over make no window; those of the next window follow without a gap. */
Test(llama_gguf, every_window_begins_with_bos)
{
    check_windows("aaabbbaaaaa", false, (int32_t[]){1, 2, 2, 5, 1, 3, 4, 2, 1, 2, 2, 2}, 3);
    check_windows("aaabbbaaaa", false, (int32_t[]){1, 2, 2, 5, 1, 3, 4, 2}, 2);
    check_windows("aaabbbaaaaa", true, (int32_t[]){2, 2, 5, 3, 4, 2, 2, 2}, 2);
}

Test(llama_gguf, of_merges_with_equal_scores_the_leftmost_is_done)
{
    check_windows("abaaba", true, (int32_t[]){5, 2, 5, 2}, 1);
    check_windows("babbab", true, (int32_t[]){4, 3, 4, 3}, 1);
}
