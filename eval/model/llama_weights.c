/* Lists, allocates and frees the weights of a Llama-type model. */
#define _POSIX_C_SOURCE 200809L

#include "eval/model/llama_weights.h"

#include "eval/model/llama_forward.h"

#include <omp.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define ALIGN_BYTES 64

/* The parts of a layer, in the order of the list. */
enum {
    ATTN_NORM,
    Q,
    Q_BIAS,
    K,
    K_BIAS,
    V,
    V_BIAS,
    OUT,
    OUT_BIAS,
    Q_NORM,
    K_NORM,
    MLP_NORM,
    GATE,
    GATE_BIAS,
    UP,
    UP_BIAS,
    DOWN,
    DOWN_BIAS,
    N_PARTS,
};

static const struct {
    const char *name, *gguf_name;
} part_names[N_PARTS] = {
    [ATTN_NORM] = {"input_layernorm.weight", "attn_norm.weight"},
    [Q] = {"self_attn.q_proj.weight", "attn_q.weight"},
    [Q_BIAS] = {"self_attn.q_proj.bias", "attn_q.bias"},
    [K] = {"self_attn.k_proj.weight", "attn_k.weight"},
    [K_BIAS] = {"self_attn.k_proj.bias", "attn_k.bias"},
    [V] = {"self_attn.v_proj.weight", "attn_v.weight"},
    [V_BIAS] = {"self_attn.v_proj.bias", "attn_v.bias"},
    [OUT] = {"self_attn.o_proj.weight", "attn_output.weight"},
    [OUT_BIAS] = {"self_attn.o_proj.bias", "attn_output.bias"},
    [Q_NORM] = {"self_attn.q_norm.weight", "attn_q_norm.weight"},
    [K_NORM] = {"self_attn.k_norm.weight", "attn_k_norm.weight"},
    [MLP_NORM] = {"post_attention_layernorm.weight", "ffn_norm.weight"},
    [GATE] = {"mlp.gate_proj.weight", "ffn_gate.weight"},
    [GATE_BIAS] = {"mlp.gate_proj.bias", "ffn_gate.bias"},
    [UP] = {"mlp.up_proj.weight", "ffn_up.weight"},
    [UP_BIAS] = {"mlp.up_proj.bias", "ffn_up.bias"},
    [DOWN] = {"mlp.down_proj.weight", "ffn_down.weight"},
    [DOWN_BIAS] = {"mlp.down_proj.bias", "ffn_down.bias"},
};

/* Rows and columns of a part; no columns: a vector. False: this model has no such part. */
static bool part_shape(const llama_config *c, int part, size_t *rows, size_t *columns)
{
    const size_t E = c->n_embd, F = c->n_inner, A = c->n_head * c->head_dim, C = c->n_kv_head * c->head_dim;
    const struct {
        size_t rows, columns;
        bool is_there;
    } shapes[N_PARTS] = {
        [ATTN_NORM] = {E, 0, true},
        [Q] = {A, E, true},
        [Q_BIAS] = {A, 0, c->qkv_bias},
        [K] = {C, E, true},
        [K_BIAS] = {C, 0, c->qkv_bias},
        [V] = {C, E, true},
        [V_BIAS] = {C, 0, c->qkv_bias},
        [OUT] = {E, A, true},
        [OUT_BIAS] = {E, 0, c->out_bias},
        [Q_NORM] = {c->head_dim, 0, c->qk_norm},
        [K_NORM] = {c->head_dim, 0, c->qk_norm},
        [MLP_NORM] = {E, 0, true},
        [GATE] = {F, E, true},
        [GATE_BIAS] = {F, 0, c->mlp_bias},
        [UP] = {F, E, true},
        [UP_BIAS] = {F, 0, c->mlp_bias},
        [DOWN] = {E, F, true},
        [DOWN_BIAS] = {E, 0, c->mlp_bias},
    };
    *rows = shapes[part].rows;
    *columns = shapes[part].columns;
    return shapes[part].is_there;
}

bool llama_weights_has_part(const llama_config *c, const char *suffix, bool in_gguf)
{
    size_t rows, columns;
    for (int part = 0; part < N_PARTS; part++)
        if (strcmp(suffix, in_gguf ? part_names[part].gguf_name : part_names[part].name) == 0)
            return part_shape(c, part, &rows, &columns);
    return false;
}

static llama_weight *add_weight(llama_model *m, size_t rows, size_t columns)
{
    llama_weight *w = &m->weights[m->n_weights++];
    w->n_dims = columns ? 2 : 1;
    w->shape[0] = rows;
    w->shape[1] = columns ? columns : 1;
    w->n_elems = rows * w->shape[1];
    m->n_params += w->n_elems;
    return w;
}

static void add_named(llama_model *m, const char *name, const char *gguf_name, size_t rows, size_t columns)
{
    llama_weight *w = add_weight(m, rows, columns);
    snprintf(w->name, sizeof w->name, "%s", name);
    snprintf(w->gguf_name, sizeof w->gguf_name, "%s", gguf_name);
}

static void add_layer(llama_model *m, size_t layer)
{
    const llama_config *c = &m->config;
    size_t rows, columns;
    for (int part = 0; part < N_PARTS; part++) {
        if (!part_shape(c, part, &rows, &columns))
            continue;
        llama_weight *w = add_weight(m, rows, columns);
        snprintf(w->name, sizeof w->name, "model.layers.%zu.%s", layer, part_names[part].name);
        snprintf(w->gguf_name, sizeof w->gguf_name, "blk.%zu.%s", layer, part_names[part].gguf_name);
        if (part == Q || part == Q_BIAS)
            w->rotated_heads = c->n_head;
        else if (part == K || part == K_BIAS)
            w->rotated_heads = c->n_kv_head;
    }
}

llama_model *llama_weights_list(const llama_config *c)
{
    llama_model *m = calloc(1, sizeof *m);
    if (!m)
        return NULL;
    m->config = *c;
    m->n_threads = omp_get_max_threads() > 2 ? omp_get_max_threads() : 2;
    m->weights = calloc(N_PARTS * c->n_layer + 3, sizeof *m->weights);
    m->layers = calloc(c->n_layer, sizeof *m->layers);
    m->frequencies = calloc(c->head_dim / 2, sizeof *m->frequencies);
    if (!m->weights || !m->layers || !m->frequencies) {
        llama_weights_free(m);
        return NULL;
    }
    rope_frequencies(&c->rope, c->head_dim, m->frequencies);
    add_named(m, "model.embed_tokens.weight", "token_embd.weight", c->vocab_size, c->n_embd);
    for (size_t l = 0; l < c->n_layer; l++)
        add_layer(m, l);
    add_named(m, "model.norm.weight", "output_norm.weight", c->n_embd, 0);
    if (!c->tied_head)
        add_named(m, "lm_head.weight", "output.weight", c->vocab_size, c->n_embd);
    return m;
}

/* ---- memory ---- */

/* The next weight in the list as a matrix, with its bias if there is one. */
static matrix take_matrix(const llama_weight **next, bool has_bias)
{
    const llama_weight *w = (*next)++;
    return (matrix){.n_out = w->shape[0],
                    .n_in = w->shape[1],
                    .type = w->type,
                    .data = w->data,
                    .bias = has_bias ? (const float *)(const void *)(*next)++->data : NULL};
}

static const float *take_vector(const llama_weight **next)
{
    return (const float *)(const void *)(*next)++->data;
}

/* In the order of the list. */
static void set_pointers(llama_model *m)
{
    const llama_config *c = &m->config;
    const llama_weight *next = m->weights;
    m->embedding = take_matrix(&next, false);
    for (size_t l = 0; l < c->n_layer; l++) {
        llama_layer *layer = &m->layers[l];
        layer->attn_norm = take_vector(&next);
        layer->q = take_matrix(&next, c->qkv_bias);
        layer->k = take_matrix(&next, c->qkv_bias);
        layer->v = take_matrix(&next, c->qkv_bias);
        layer->out = take_matrix(&next, c->out_bias);
        if (c->qk_norm) {
            layer->q_norm = take_vector(&next);
            layer->k_norm = take_vector(&next);
        }
        layer->mlp_norm = take_vector(&next);
        layer->gate = take_matrix(&next, c->mlp_bias);
        layer->up = take_matrix(&next, c->mlp_bias);
        layer->down = take_matrix(&next, c->mlp_bias);
    }
    m->final_norm = take_vector(&next);
    m->head = c->tied_head ? m->embedding : take_matrix(&next, false);
}

bool llama_weights_allocate(llama_model *m)
{
    m->n_bytes = 0;
    for (size_t i = 0; i < m->n_weights; i++) {
        llama_weight *w = &m->weights[i];
        w->n_bytes = matrix_row_bytes(w->type, w->n_elems);
        m->n_bytes += (w->n_bytes + ALIGN_BYTES - 1) / ALIGN_BYTES * ALIGN_BYTES;
    }
    m->arena = aligned_alloc(ALIGN_BYTES, m->n_bytes);
    if (!m->arena)
        return false;
    uint8_t *next = m->arena;
    for (size_t i = 0; i < m->n_weights; i++) {
        m->weights[i].data = next;
        next += (m->weights[i].n_bytes + ALIGN_BYTES - 1) / ALIGN_BYTES * ALIGN_BYTES;
    }
    set_pointers(m);
    return true;
}

/* "Q4_1, Q8_0, F32": the types in memory, those with the most bytes first. */
static void describe_types(const llama_model *l, char *text, size_t size)
{
    size_t bytes[TENSOR_UNREADABLE] = {0}, used = 0;
    for (size_t i = 0; i < l->n_weights; i++)
        bytes[l->weights[i].type] += l->weights[i].n_bytes;
    for (;;) {
        size_t most = 0;
        for (size_t t = 0; t < TENSOR_UNREADABLE; t++)
            most = bytes[t] > bytes[most] ? t : most;
        const char *name = tensor_type_of((tensor_type)most)->name;
        if (bytes[most] == 0 || used + strlen(name) + 3 > size)
            return;
        used += (size_t)snprintf(text + used, size - used, used ? ", %s" : "%s", name);
        bytes[most] = 0;
    }
}

void llama_weights_describe(llama_model *l, model *m)
{
    const llama_config *c = &l->config;
    m->kind = &llama_kind;
    m->own = l;
    m->shape = (model_shape){.n_layer = c->n_layer,
                             .n_head = c->n_head,
                             .n_kv_head = c->n_kv_head,
                             .head_dim = c->head_dim,
                             .n_embd = c->n_embd,
                             .n_ctx = c->n_ctx,
                             .vocab_size = c->vocab_size};
    snprintf(m->shape.architecture, sizeof m->shape.architecture, "%s", c->architecture);
    m->n_params = l->n_params;
    m->weight_bytes = l->n_bytes;
    describe_types(l, m->weights, sizeof m->weights);
}

void llama_weights_free(llama_model *m)
{
    if (!m)
        return;
    free(m->arena);
    free(m->weights);
    free(m->layers);
    free(m->frequencies);
    free(m);
}
