/* GPT-2 as a kind of model (gpt2.h): what model.h asks for, by gpt2_model and gpt2_forward. */
#include "eval/model/gpt2.h"

#include "eval/model/gpt2_forward.h"
#include "eval/model/gpt2_model.h"

#include <stdio.h>

static const gpt2_model *own(const model *m)
{
    return m->own;
}

static size_t scratch_floats(const model *m, size_t n)
{
    return gpt2_scratch_floats(&own(m)->config, n);
}

static void embed(const model *m, const int32_t *ids, size_t pos0, size_t n, float *x)
{
    gpt2_embed(own(m), ids, pos0, n, x);
}

static void layer_qkv(const model *m, size_t layer, const float *x, size_t pos0, size_t n, float *scratch,
                      float *q, float *k, float *v)
{
    (void)pos0; /* positions are learned and part of the embedding */
    gpt2_layer_qkv(own(m), layer, x, n, scratch, q, k, v);
}

static void layer_finish(const model *m, size_t layer, float *x, const float *attn, size_t n, float *scratch)
{
    gpt2_layer_finish(own(m), layer, x, attn, n, scratch);
}

static void logits(const model *m, const float *x, size_t n, float *scratch, float *out)
{
    gpt2_logits(own(m), x, n, scratch, out);
}

static float attn_scale(const model *m, size_t layer)
{
    return gpt2_attn_scale(own(m), layer);
}

static uint64_t checksum(const model *m)
{
    return gpt2_model_checksum(own(m));
}

static void free_own(model *m)
{
    gpt2_model_free(m->own);
}

static const model_kind gpt2_kind = {.scratch_floats = scratch_floats,
                                     .embed = embed,
                                     .layer_qkv = layer_qkv,
                                     .layer_finish = layer_finish,
                                     .logits = logits,
                                     .attn_scale = attn_scale,
                                     .checksum = checksum,
                                     .free = free_own};

static void describe(model *m, gpt2_model *g)
{
    const gpt2_config *c = &g->config;
    m->kind = &gpt2_kind;
    m->own = g;
    m->shape = (model_shape){.architecture = "gpt2",
                             .n_layer = c->n_layer,
                             .n_head = c->n_head,
                             .n_kv_head = c->n_head,
                             .head_dim = c->head_dim,
                             .n_embd = c->n_embd,
                             .n_ctx = c->n_ctx,
                             .vocab_size = c->vocab_size};
    m->random = g->random;
    m->n_params = g->n_params;
    m->weight_bytes = (size_t)g->n_params * sizeof(float);
    snprintf(m->weights, sizeof m->weights, "F32");
    snprintf(m->head, sizeof m->head, "%s", c->tied_head ? "wte.weight" : "lm_head.weight");
    if (g->head_against_config)
        snprintf(m->note, sizeof m->note,
                 "config.json says tie_word_embeddings, but lm_head.weight is not wte.weight: lm_head.weight "
                 "is used");
}

bool gpt2_load_directory(model *m, const char *dir, eval_error *e)
{
    gpt2_model *g = NULL;
    if (!gpt2_model_load(&g, dir, e))
        return false;
    describe(m, g);
    return true;
}

bool gpt2_load_gguf(model *m, const gguf *g, eval_error *e)
{
    gpt2_model *loaded = NULL;
    if (!gpt2_model_load_gguf(&loaded, g, e))
        return false;
    describe(m, loaded);
    return true;
}

bool gpt2_make_random(model *m, const char *spec, uint64_t seed, eval_error *e)
{
    gpt2_model *g = NULL;
    if (!gpt2_model_random(&g, spec, seed, e))
        return false;
    describe(m, g);
    return true;
}
