/* Fuzzes the loaders of models. An input that begins with `{` is a config.json; any other is a GGUF file,
 * whose model and tokenizer are loaded. What is refused has a message; what loads must compute. */
#include "eval/common/json_util.h"
#include "eval/model/gpt2.h"
#include "eval/model/gpt2_config.h"
#include "eval/model/llama_config.h"
#include "eval/model/llama_model.h"
#include "eval/model/tokenizer.h"

#include <stdlib.h>
#include <string.h>

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

static void check_refusal(bool ok, const eval_error *e)
{
    if (!ok && e->text[0] == '\0')
        abort();
}

static void check_config(const uint8_t *data, size_t size)
{
    eval_error e = {""}, of_gpt2 = {""};
    gpt2_config g;
    llama_config c;
    check_refusal(gpt2_config_parse(&g, "config.json", data, size, &of_gpt2), &of_gpt2);
    json_t *root = json_parse_object("config.json", data, size, 0, &e);
    if (!root) {
        check_refusal(false, &e);
        return;
    }
    const bool ok = llama_config_parse(&c, "config.json", root, &e);
    check_refusal(ok, &e);
    json_decref(root);
    if (!ok)
        return;
    float *frequencies = malloc(c.head_dim / 2 * sizeof *frequencies);
    if (c.n_head % c.n_kv_head != 0 || c.head_dim % 2 != 0 || c.n_layer > LLAMA_MAX_LAYERS)
        abort();
    if (frequencies)
        rope_frequencies(&c.rope, c.head_dim, frequencies);
    free(frequencies);
}

/* Two tokens through the first and the last layer and the head. */
static void compute(const model *m)
{
    const model_shape *s = &m->shape;
    const size_t A = s->n_head * s->head_dim, C = s->n_kv_head * s->head_dim, E = s->n_embd,
                 V = s->vocab_size;
    const size_t n = s->n_ctx < 2 ? 1 : 2, n_floats = n * (E + 2 * A + 2 * C + V);
    const int32_t ids[2] = {0, (int32_t)V - 1};
    float *x = malloc(n_floats * sizeof *x), *scratch = malloc(model_scratch_floats(m, n) * sizeof *scratch);
    if (x && scratch) {
        float *q = x + n * E, *attn = q + n * A, *k = attn + n * A, *v = k + n * C, *logits = v + n * C;
        model_embed(m, ids, s->n_ctx - n, n, x);
        for (size_t layer = 0; layer<s->n_layer; layer += s->n_layer> 1 ? s->n_layer - 1 : 1) {
            model_layer_qkv(m, layer, x, s->n_ctx - n, n, scratch, q, k, v);
            model_attention_causal(m, layer, q, k, v, n, attn);
            model_layer_finish(m, layer, x, attn, n, scratch);
        }
        model_logits(m, x, n, scratch, logits);
    }
    free(x);
    free(scratch);
}

static void check_model(const gguf *g, bool (*load)(model *, const gguf *, eval_error *))
{
    eval_error e = {""};
    model *m = calloc(1, sizeof *m);
    if (!m)
        return;
    const bool ok = load(m, g, &e);
    check_refusal(ok, &e);
    if (ok) {
        compute(m);
        m->kind->free(m);
    }
    free(m);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    gguf *g;
    tokenizer *t;
    eval_error e = {""}, of_tokenizer = {""};
    if (size > 0 && data[0] == '{') {
        check_config(data, size);
        return 0;
    }
    if (!gguf_open_memory(&g, "input", data, size, &e)) {
        check_refusal(false, &e);
        return 0;
    }
    check_model(g, llama_load_gguf);
    check_model(g, gpt2_load_gguf);
    if (tokenizer_load_gguf(&t, g, &of_tokenizer)) {
        int32_t *ids;
        size_t n;
        if (tokenizer_encode(t, "a b\n", 4, &ids, &n, &e))
            free(ids);
        tokenizer_free(t);
    } else {
        check_refusal(false, &of_tokenizer);
    }
    gguf_close(g);
    return 0;
}
