/* What the loaders of Llama-type models refuse, with which words; and weights of every type in products. */
#define _XOPEN_SOURCE 700

#include "eval/model/llama_model.h"
#include "eval/model/matrix.h"
#include "tests/checkpoint_files.h"
#include "tests/tiny_llama.h"

#include <criterion/criterion.h>
#include <math.h>

/* ---- GGUF ---- */

static bool load(tiny_gguf *t, model *m, eval_error *e)
{
    gguf_image image = {.n = 0};
    gguf *g = NULL;
    *m = (model){.kind = NULL};
    tiny_finish(t, &image);
    cr_assert(gguf_open_memory(&g, "test", image.bytes, image.n, e), "%s", e->text);
    const bool ok = llama_load_gguf(m, g, e);
    gguf_close(g);
    gguf_image_free(&image);
    return ok;
}

static void refuse(tiny_gguf *t, const char *expected)
{
    eval_error e = {""};
    model m;
    cr_expect_not(load(t, &m, &e), "accepted, expected: %s", expected);
    cr_expect_str_eq(e.text, expected, "got '%s', expected '%s'", e.text, expected);
}

/* REFUSED(left_out, put, message): a file without that key or tensor, to which `put` (statements about t)
 * adds something, is refused with exactly this message. */
#define REFUSED(left_out, put, message)                                                                      \
    do {                                                                                                     \
        tiny_gguf file_ = {.without = (left_out)}, *t = &file_;                                              \
        tiny_llama(t);                                                                                       \
        put;                                                                                                 \
        refuse(t, "test: " message);                                                                         \
    } while (0)

Test(llama_refused, the_file_without_faults_loads)
{
    tiny_gguf t = {.n_keys = 0};
    eval_error e = {""};
    model m;
    tiny_llama(&t);
    cr_assert(load(&t, &m, &e), "%s", e.text);
    cr_expect_eq(m.shape.n_kv_head, 1);
    cr_expect_eq(m.shape.head_dim, 4);
    cr_expect_str_eq(m.note, "");
    m.kind->free(&m);
}

Test(llama_refused, metadata_that_means_another_computation)
{
    REFUSED(NULL, tiny_u32(t, "llama.expert_count", 8),
            "llama.expert_count is 8, which means a mixture of experts: not supported");
    REFUSED(
        NULL, tiny_u32(t, "llama.attention.kv_lora_rank", 4),
        "key llama.attention.kv_lora_rank is there, which means multi-head latent attention: not supported");
    REFUSED(
        NULL, tiny_u32(t, "llama.attention.q_lora_rank", 4),
        "key llama.attention.q_lora_rank is there, which means multi-head latent attention: not supported");
    REFUSED(NULL, tiny_f32(t, "llama.final_logit_softcapping", 30.0f),
            "key llama.final_logit_softcapping is there, which means softcapped logits: not supported");
    REFUSED(NULL, tiny_f32(t, "llama.attn_logit_softcapping", 50.0f),
            "key llama.attn_logit_softcapping is there, which means softcapped attention: not supported");
    REFUSED(NULL, tiny_bool(t, "llama.attention.causal", 0),
            "llama.attention.causal is false, expected a decoder-only model");
    REFUSED(NULL,
            (tiny_string(t, "llama.rope.scaling.type", "longrope"),
             tiny_f32(t, "llama.rope.scaling.factor", 4.0f)),
            "llama.rope.scaling.type is 'longrope', expected 'none', 'linear' or 'yarn'");
    REFUSED("general.architecture", tiny_string(t, "general.name", "x"),
            "general.architecture is '', expected one of llama, mistral, qwen2, qwen3, smollm3");
    REFUSED("llama.attention.layer_norm_rms_epsilon", ,
            "key 'llama.attention.layer_norm_rms_epsilon' is missing");
    REFUSED(NULL, tiny_u32(t, "llama.vocab_size", 500),
            "llama.vocab_size is 500, expected the rows of tensor 'token_embd.weight', 4");
    REFUSED(NULL, tiny_u32(t, "llama.rope.dimension_count", 2),
            "llama.rope.dimension_count is 2, expected 4, a whole head");
    REFUSED(NULL, tiny_u32(t, "llama.attention.value_length", 8),
            "llama.attention.value_length is 8, expected the key's, 4");
    REFUSED("llama.attention.head_count",
            (t->without = NULL, tiny_u32(t, "llama.attention.head_count", 3),
             tiny_u32(t, "llama.attention.key_length", 4), tiny_u32(t, "llama.attention.head_count_k", 1)),
            "tensor 'blk.0.attn_q.weight': shape is [8,8], but its metadata expects [12,8]");
}

Test(llama_refused, tensors_of_a_gguf_file)
{
    REFUSED("token_embd.weight", , "tensor 'token_embd.weight' is missing");
    REFUSED("blk.0.attn_k.weight", , "tensor 'blk.0.attn_k.weight' is missing, which its metadata asks for");
    REFUSED("output_norm.weight", , "tensor 'output_norm.weight' is missing, which its metadata asks for");
    REFUSED("blk.0.ffn_up.weight", (t->without = NULL, tiny_tensor(t, "blk.0.ffn_up.weight", 9, 8)),
            "tensor 'blk.0.ffn_up.weight': shape is [9,8], but its metadata expects [8,8]");
    REFUSED("blk.0.ffn_norm.weight", (t->without = NULL, tiny_tensor(t, "blk.0.ffn_norm.weight", 1, 8)),
            "tensor 'blk.0.ffn_norm.weight': shape is [1,8], but its metadata expects [8]");
    REFUSED(NULL, tiny_tensor(t, "blk.0.attn_k.bias", 0, 4),
            "tensor 'blk.0.attn_k.bias' is none that a llama model of this configuration has: not supported");
    REFUSED(NULL, tiny_tensor(t, "rope_freqs.weight", 0, 3),
            "tensor 'rope_freqs.weight': shape is [3], but its metadata expects [2]");
}

/* The first number of the last tensor, which is padded to 32 bytes. */
Test(llama_refused, rope_factors_of_a_gguf_file)
{
    tiny_gguf t = {.n_keys = 0};
    gguf_image image = {.n = 0};
    gguf *g = NULL;
    eval_error e = {""};
    model m = {.kind = NULL};
    char wanted[128];
    tiny_llama(&t);
    tiny_tensor_with(&t, "rope_freqs.weight", 0, 2, 0, 0.0f);
    tiny_finish(&t, &image);
    cr_assert(gguf_open_memory(&g, "test", image.bytes, image.n, &e), "%s", e.text);
    cr_expect_not(llama_load_gguf(&m, g, &e));
    snprintf(
        wanted, sizeof wanted,
        "test: tensor 'rope_freqs.weight': element 0 (byte %zu) is 0, expected a number from 1e-06 to 1e+06",
        image.n - 32);
    cr_expect_str_eq(e.text, wanted, "%s", e.text);
    gguf_close(g);
    gguf_image_free(&image);
}

static void refuse_number(float x, const char *expected)
{
    tiny_gguf t = {.without = "blk.0.ffn_down.weight"};
    eval_error e = {""};
    model m;
    tiny_llama(&t);
    t.without = NULL;
    tiny_tensor_with(&t, "blk.0.ffn_down.weight", 8, 8, 37, x);
    cr_expect_not(load(&t, &m, &e));
    assert_mentions(e, "test: tensor 'blk.0.ffn_down.weight': element 37 (byte ");
    assert_mentions(e, expected);
}

Test(llama_refused, numbers_that_are_not_finite)
{
    refuse_number(NAN, "is NaN, expected a finite number");
    refuse_number(INFINITY, "is infinite, expected a finite number");
    refuse_number(-INFINITY, "is infinite, expected a finite number");
}

/* ---- products ---- */

/* With one token and with several, a product is that of the matrix made float32 beforehand: the same numbers,
 * added in an order of BLAS's choice. 512 additions of float32 err by at most 512 * 6e-8 of the sum of sizes
 * (3e-5), and in practice by much less. */
Test(llama_refused, types_in_blocks_multiply_as_their_numbers)
{
    enum { N_OUT = 5, N_IN = 512, N = 3 };
    static uint8_t bytes[N_OUT * N_IN * 4];
    static float whole[N_OUT * N_IN], x[N * N_IN], y[N * N_OUT];
    float *scratch = malloc(matrix_scratch_floats(2) * sizeof *scratch);
    cr_assert_not_null(scratch);
    for (size_t i = 0; i < N * N_IN; i++)
        x[i] = (float)(i * 7919 % 1009) / 1009.0f - 0.5f;
    for (int type = TENSOR_F16; type < TENSOR_UNREADABLE; type++) {
        for (size_t i = 0; i < sizeof bytes; i++)
            bytes[i] = (uint8_t)(i * 2654435761u >> 13) & 0x3b; /* no half or bfloat16 of these is large */
        const matrix m = {.n_out = N_OUT, .n_in = N_IN, .type = (tensor_type)type, .data = bytes};
        tensor_to_f32(m.type, bytes, N_OUT * N_IN, whole);
        for (size_t n = 1; n <= N; n += N - 1) {
            matrix_multiply(&m, x, n, 2, scratch, y);
            for (size_t i = 0; i < n * N_OUT; i++) {
                double sum = 0, size = 0;
                for (size_t c = 0; c < N_IN; c++) {
                    const double p = (double)whole[i % N_OUT * N_IN + c] * (double)x[i / N_OUT * N_IN + c];
                    sum += p;
                    size += fabs(p);
                }
                cr_expect_float_eq(y[i], sum, 3e-5 * size, "%s, %zu tokens, %zu: %g, expected %g",
                                   tensor_type_of(m.type)->name, n, i, (double)y[i], sum);
            }
        }
    }
    free(scratch);
}

/* ---- directories ---- */

static const char tied_config[] =
    "{\"model_type\":\"llama\",\"hidden_size\":8,\"intermediate_size\":8,\"num_hidden_layers\":1,"
    "\"num_attention_heads\":2,\"num_key_value_heads\":1,\"max_position_embeddings\":16,\"vocab_size\":4,"
    "\"tie_word_embeddings\":true}";

/* What one directory differs in from a good one. */
typedef struct directory {
    const char *prefix;  /* of the names, instead of `model.` */
    const char *without; /* a tensor */
    const char *wrong;   /* a tensor with a column too many */
    const char *nan;     /* a tensor whose element 5 is NaN */
    const char *extra;   /* one more tensor, of 4 rows of 8 */
    const char *outer;   /* the same, by its whole name */
    const char *changed; /* a tensor whose element 5 is 1 */
} directory;

static void add(st_writer *w, const directory *d, const char *name, size_t rows, size_t columns)
{
    char whole[96];
    float x[128];
    if (d->without && strcmp(d->without, name) == 0)
        return;
    if (d->wrong && strcmp(d->wrong, name) == 0)
        columns++;
    const size_t shape[2] = {rows ? rows : columns, columns}, n = (rows ? rows : 1) * columns;
    for (size_t i = 0; i < n; i++)
        x[i] = (float)(i % 7) / 8.0f - 0.375f;
    if (d->nan && strcmp(d->nan, name) == 0)
        x[5] = NAN;
    if (d->changed && strcmp(d->changed, name) == 0)
        x[5] = 1.0f;
    const bool is_whole = strcmp(name, "lm_head.weight") == 0 || name == d->outer;
    snprintf(whole, sizeof whole, "%s%s", is_whole ? "" : d->prefix, name);
    st_writer_add(w, whole, "F32", rows ? 2 : 1, shape, x, n * sizeof x[0]);
}

static bool load_directory(const directory *d, model *m, eval_error *e)
{
    char dir[64];
    st_writer w = {.n_header = 0};
    add(&w, d, "embed_tokens.weight", 4, 8);
    add(&w, d, "norm.weight", 0, 8);
    add(&w, d, "layers.0.input_layernorm.weight", 0, 8);
    add(&w, d, "layers.0.post_attention_layernorm.weight", 0, 8);
    add(&w, d, "layers.0.self_attn.q_proj.weight", 8, 8);
    add(&w, d, "layers.0.self_attn.k_proj.weight", 4, 8);
    add(&w, d, "layers.0.self_attn.v_proj.weight", 4, 8);
    add(&w, d, "layers.0.self_attn.o_proj.weight", 8, 8);
    add(&w, d, "layers.0.mlp.gate_proj.weight", 8, 8);
    add(&w, d, "layers.0.mlp.up_proj.weight", 8, 8);
    add(&w, d, "layers.0.mlp.down_proj.weight", 8, 8);
    if (d->extra)
        add(&w, d, d->extra, 4, 8);
    if (d->outer)
        add(&w, d, d->outer, 4, 8);
    make_dir(dir);
    st_writer_save(&w, dir, "model.safetensors");
    json_t *config = json_loads(tied_config, 0, NULL);
    *m = (model){.kind = NULL};
    const bool ok = llama_load_directory(m, dir, config, "config.json", e);
    json_decref(config);
    remove_dir(dir);
    return ok;
}

Test(llama_refused, tensors_of_a_directory)
{
    static const struct {
        directory d;
        const char *message;
    } cases[] = {
        {{.without = "layers.0.mlp.up_proj.weight"},
         "tensor 'model.layers.0.mlp.up_proj.weight' is missing, which config.json asks for"},
        {{.wrong = "layers.0.self_attn.k_proj.weight"},
         "tensor 'model.layers.0.self_attn.k_proj.weight': shape is [4,9], but config.json expects [4,8]"},
        {{.nan = "norm.weight"}, "tensor 'model.norm.weight': element 5 (byte "},
        {{.nan = "norm.weight"}, "is NaN, expected a finite number"},
        {{.extra = "layers.1.mlp.up_proj.weight"},
         "tensor 'model.layers.1.mlp.up_proj.weight' belongs to a layer beyond the 1 of config.json"},
        {{.extra = "layers.0.mlp.experts.0.weight"},
         "tensor 'model.layers.0.mlp.experts.0.weight' is none that a llama model of this configuration has"},
        {{.extra = "vision_tower.weight"},
         "tensor 'model.vision_tower.weight' is none that a llama model of this configuration has"},
        {{.outer = "lm_head.bias"},
         "tensor 'lm_head.bias' is none that a llama model of this configuration has"},
        {{.outer = "score.weight"},
         "tensor 'score.weight' is none that a llama model of this configuration has"},
        {{.outer = "model.lm_head.weight"},
         "tensor 'model.lm_head.weight' is none that a llama model of this configuration has"},
    };
    for (size_t i = 0; i < sizeof cases / sizeof cases[0]; i++) {
        directory d = cases[i].d;
        eval_error e = {""};
        model m;
        d.prefix = "model.";
        cr_assert_not(load_directory(&d, &m, &e), "accepted, expected: %s", cases[i].message);
        assert_mentions(e, cases[i].message);
    }
}

Test(llama_refused, names_without_model_and_heads_of_their_own)
{
    const directory good = {.prefix = "model."}, bare = {.prefix = ""},
                    same = {.prefix = "model.", .extra = "lm_head.weight"},
                    other = {.prefix = "model.", .extra = "lm_head.weight", .changed = "lm_head.weight"};
    model m, n;
    eval_error e = {""};
    cr_assert(load_directory(&good, &m, &e), "%s", e.text);
    cr_assert(load_directory(&bare, &n, &e), "%s", e.text);
    cr_expect_eq(m.kind->checksum(&m), n.kind->checksum(&n));
    n.kind->free(&n);
    cr_assert(load_directory(&same, &n, &e), "%s", e.text);
    cr_expect_str_eq(n.note, "");
    cr_expect_eq(n.n_params, m.n_params);
    n.kind->free(&n);
    cr_assert(load_directory(&other, &n, &e), "%s", e.text);
    cr_expect_str_eq(n.note, "config.json says tie_word_embeddings, but lm_head.weight is not "
                             "embed_tokens.weight: lm_head.weight is used");
    cr_expect_eq(n.n_params, m.n_params + 32);
    n.kind->free(&n);
    m.kind->free(&m);
}

/* Buffers that transformers or the first Llama's files have, and nothing reads. */
Test(llama_refused, harmless_buffers_of_a_directory_are_accepted)
{
    static const directory cases[] = {
        {.prefix = "model.", .extra = "rotary_emb.inv_freq"},
        {.prefix = "model.", .outer = "rotary_emb.inv_freq"},
        {.prefix = "model.", .extra = "layers.0.self_attn.rotary_emb.inv_freq"}};
    for (size_t i = 0; i < sizeof cases / sizeof cases[0]; i++) {
        eval_error e = {""};
        model m;
        cr_assert(load_directory(&cases[i], &m, &e), "case %zu: %s", i, e.text);
        m.kind->free(&m);
    }
}

Test(llama_refused, hostile_values_of_config)
{
    static const char *const cases[][2] = {
        {"{\"hidden_size\":0}", "hidden_size is 0, expected an integer from 1 to 262144"},
        {"{\"hidden_size\":8.5}", "hidden_size is 8.5, expected an integer from 1 to 262144"},
        {"{\"num_attention_heads\":\"2\"}",
         "num_attention_heads is \"2\", expected an integer from 1 to 1024"},
        {"{\"num_attention_heads\":3,\"head_dim\":4,\"num_key_value_heads\":2}",
         "3 attention heads are not a multiple of 2 key-value heads"},
        {"{\"num_key_value_heads\":-1}", "num_key_value_heads is -1, expected an integer from 1 to 1024"},
        {"{\"head_dim\":5}", "the head dimension is 5, expected an even number from 2 to 1024"},
        {"{\"vocab_size\":4294967297}", "vocab_size is 4294967297, expected an integer from 1 to 4194304"},
        {"{\"rope_scaling\":5}", "rope_scaling is 5, expected an object"},
        {"{\"rope_parameters\":5}", "rope_parameters is 5, expected an object"},
        {"{\"bos_token_id\":\"4\"}", "bos_token_id is \"4\", expected an integer from 0 to 4194303"},
        {"{\"bos_token_id\":-1}", "bos_token_id is -1, expected an integer"},
        {"{\"bos_token_id\":1.5}", "bos_token_id is 1.5, expected an integer"},
        {"{\"bos_token_id\":[]}", "bos_token_id is [], expected an integer"},
        {"{\"rope_theta\":\"NaN\"}", "rope_theta is \"NaN\", expected a number from 1 to 1e+15"},
        {"{\"rope_scaling\":{\"type\":\"linear\",\"factor\":0}}",
         "factor is 0, expected a number from 0.001 to 1e+06"},
    };
    for (size_t i = 0; i < sizeof cases / sizeof cases[0]; i++) {
        model m = {.kind = NULL};
        eval_error e = {""};
        json_t *config = json_loads(tied_config, 0, NULL), *more = json_loads(cases[i][0], 0, NULL);
        cr_assert(config && more);
        json_object_update(config, more);
        cr_expect_not(llama_load_directory(&m, "nowhere", config, "config.json", &e), "%s", cases[i][0]);
        cr_expect(strstr(e.text, cases[i][1]) != NULL, "%s gave '%s'", cases[i][0], e.text);
        json_decref(config);
        json_decref(more);
    }
}
