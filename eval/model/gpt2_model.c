/* Loads GPT-2 weights from safetensors, or makes random ones. */
#define _POSIX_C_SOURCE 200809L

#include "eval/model/gpt2_model.h"

#include "eval/common/splitmix.h"
#include "eval/model/checkpoint.h"
#include "eval/model/random_normal.h"
#include "eval/model/safetensors.h"

#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define XXH_INLINE_ALL
#include <xxhash.h>

#define ALIGN_BYTES       64
#define ALIGN_FLOATS      (ALIGN_BYTES / sizeof(float))
#define TENSORS_PER_LAYER 12

/* ---- the list of tensors ---- */

static gpt2_tensor *add_tensor(gpt2_model *m, size_t rows, size_t columns, float init_mean, float init_std)
{
    gpt2_tensor *t = &m->tensors[m->n_tensors++];
    t->n_dims = rows ? 2 : 1;
    t->shape[0] = rows ? rows : columns;
    t->shape[1] = rows ? columns : 1;
    t->n_elems = t->shape[0] * t->shape[1];
    t->init_mean = init_mean;
    t->init_std = init_std;
    return t;
}

static void add_vector(gpt2_model *m, const char *name, size_t n, float init)
{
    gpt2_tensor *t = add_tensor(m, 0, n, init, 0.0f);
    snprintf(t->name, sizeof t->name, "%s", name);
}

static void add_matrix(gpt2_model *m, const char *name, size_t rows, size_t columns)
{
    gpt2_tensor *t = add_tensor(m, rows, columns, 0.0f, 0.02f);
    snprintf(t->name, sizeof t->name, "%s", name);
}

/* Adds h.<layer>.<name>.weight and .bias, where LayerNorm has no rows. */
static void add_layer_pair(gpt2_model *m, size_t layer, const char *name, size_t rows, size_t columns,
                           float init_mean, float init_std)
{
    gpt2_tensor *weight = add_tensor(m, rows, columns, init_mean, init_std);
    gpt2_tensor *bias = add_tensor(m, 0, columns, 0.0f, 0.0f);
    snprintf(weight->name, sizeof weight->name, "h.%zu.%s.weight", layer, name);
    snprintf(bias->name, sizeof bias->name, "h.%zu.%s.bias", layer, name);
}

/* The order fixes the layout of the arena, the random weights and the checksum. */
static bool list_tensors(gpt2_model *m)
{
    const gpt2_config *c = &m->config;
    const size_t E = c->n_embd, F = c->n_inner;
    const float residual_std = 0.02f / sqrtf(2.0f * (float)c->n_layer);
    m->tensors = calloc(TENSORS_PER_LAYER * c->n_layer + 5, sizeof *m->tensors);
    if (!m->tensors)
        return false;
    add_matrix(m, "wte.weight", c->vocab_size, E);
    add_matrix(m, "wpe.weight", c->n_ctx, E);
    for (size_t l = 0; l < c->n_layer; l++) {
        add_layer_pair(m, l, "ln_1", 0, E, 1.0f, 0.0f);
        add_layer_pair(m, l, "attn.c_attn", E, 3 * E, 0.0f, 0.02f);
        add_layer_pair(m, l, "attn.c_proj", E, E, 0.0f, residual_std);
        add_layer_pair(m, l, "ln_2", 0, E, 1.0f, 0.0f);
        add_layer_pair(m, l, "mlp.c_fc", E, F, 0.0f, 0.02f);
        add_layer_pair(m, l, "mlp.c_proj", F, E, 0.0f, residual_std);
    }
    add_vector(m, "ln_f.weight", E, 1.0f);
    add_vector(m, "ln_f.bias", E, 0.0f);
    if (!c->tied_head)
        add_matrix(m, "lm_head.weight", c->vocab_size, E);
    for (size_t i = 0; i < m->n_tensors; i++)
        m->n_params += m->tensors[i].n_elems;
    return true;
}

static void set_layer(gpt2_layer *layer, const gpt2_tensor *t)
{
    layer->ln_1_weight = t[0].data;
    layer->ln_1_bias = t[1].data;
    layer->attn_weight = t[2].data;
    layer->attn_bias = t[3].data;
    layer->attn_out_weight = t[4].data;
    layer->attn_out_bias = t[5].data;
    layer->ln_2_weight = t[6].data;
    layer->ln_2_bias = t[7].data;
    layer->mlp_in_weight = t[8].data;
    layer->mlp_in_bias = t[9].data;
    layer->mlp_out_weight = t[10].data;
    layer->mlp_out_bias = t[11].data;
}

/* Allocates every array and sets the pointers of the model. */
static bool allocate_weights(gpt2_model *m)
{
    const size_t L = m->config.n_layer;
    size_t n_floats = 0;
    for (size_t i = 0; i < m->n_tensors; i++)
        n_floats += (m->tensors[i].n_elems + ALIGN_FLOATS - 1) / ALIGN_FLOATS * ALIGN_FLOATS;
    m->arena = aligned_alloc(ALIGN_BYTES, n_floats * sizeof *m->arena);
    m->layers = calloc(L, sizeof *m->layers);
    if (!m->arena || !m->layers)
        return false;

    float *next = m->arena;
    for (size_t i = 0; i < m->n_tensors; i++) {
        m->tensors[i].data = next;
        next += (m->tensors[i].n_elems + ALIGN_FLOATS - 1) / ALIGN_FLOATS * ALIGN_FLOATS;
    }
    m->wte = m->tensors[0].data;
    m->wpe = m->tensors[1].data;
    for (size_t l = 0; l < L; l++)
        set_layer(&m->layers[l], &m->tensors[2 + TENSORS_PER_LAYER * l]);
    const gpt2_tensor *last = &m->tensors[2 + TENSORS_PER_LAYER * L];
    m->ln_f_weight = last[0].data;
    m->ln_f_bias = last[1].data;
    m->head = m->config.tied_head ? m->wte : last[2].data;
    return true;
}

void gpt2_model_free(gpt2_model *m)
{
    if (!m)
        return;
    free(m->arena);
    free(m->layers);
    free(m->tensors);
    free(m);
}

uint64_t gpt2_model_checksum(const gpt2_model *m)
{
    XXH3_state_t state;
    XXH3_64bits_reset(&state);
    for (size_t i = 0; i < m->n_tensors; i++)
        XXH3_64bits_update(&state, m->tensors[i].data, m->tensors[i].n_elems * sizeof(float));
    XXH3_64bits_update(&state, &m->config.layer_norm_epsilon, sizeof m->config.layer_norm_epsilon);
    return XXH3_64bits_digest(&state);
}

/* ---- loading ---- */

/* Where weights come from: the tensors, and who says what they should be. */
typedef struct origin {
    const tensor_list *list;
    const char *place;  /* directory or file, for messages */
    const char *config; /* what tells the sizes, likewise */
    bool gguf;          /* with GGUF's names, and matrices [outputs][inputs] */
} origin;

/* GGUF's names of what Hugging Face calls wte, ln_f and so on; %s is weight or bias. */
static const struct {
    const char *name, *gguf_name;
} outer_names[] = {{"wte", "token_embd"},
                   {"wpe", "position_embd"},
                   {"ln_f", "output_norm"},
                   {"lm_head", "output"}},
  layer_names[] = {{"ln_1", "attn_norm"}, {"attn.c_attn", "attn_qkv"}, {"attn.c_proj", "attn_output"},
                   {"ln_2", "ffn_norm"},  {"mlp.c_fc", "ffn_up"},      {"mlp.c_proj", "ffn_down"}};

/* Turns the name of a weight of ours into GGUF's. */
static void gguf_name_of(const char *name, char *out, size_t size)
{
    size_t layer = 0;
    int n = 0;
    const char *dot = strrchr(name, '.'); /* .weight or .bias */
    out[0] = '\0';
    if (sscanf(name, "h.%zu.%n", &layer, &n) == 1 && n > 0) {
        for (size_t i = 0; i < sizeof layer_names / sizeof layer_names[0]; i++)
            if (strncmp(name + n, layer_names[i].name, (size_t)(dot - name - n)) == 0 &&
                layer_names[i].name[dot - name - n] == '\0')
                snprintf(out, size, "blk.%zu.%s%s", layer, layer_names[i].gguf_name, dot);
        return;
    }
    for (size_t i = 0; i < sizeof outer_names / sizeof outer_names[0]; i++)
        if (strncmp(name, outer_names[i].name, (size_t)(dot - name)) == 0 &&
            outer_names[i].name[dot - name] == '\0')
            snprintf(out, size, "%s%s", outer_names[i].gguf_name, dot);
}

static const tensor *find_weight(const origin *from, const char *name)
{
    char other[80];
    if (from->gguf) {
        gguf_name_of(name, other, sizeof other);
        return tensor_find(from->list, other);
    }
    snprintf(other, sizeof other, "transformer.%s", name);
    const tensor *t = tensor_find(from->list, other);
    return t ? t : tensor_find(from->list, name);
}

/* Is it one of the matrices that GGUF has the other way round? The embeddings and the head are the same. */
static bool is_turned(const origin *from, const gpt2_tensor *t)
{
    return from->gguf && t->n_dims == 2 && strncmp(t->name, "h.", 2) == 0;
}

static bool check_weight(const gpt2_tensor *want, const origin *from, eval_error *e)
{
    const tensor *found = find_weight(from, want->name);
    if (!found)
        return eval_fail(e, "%s: tensor '%s' is missing, which %s asks for", from->place, want->name,
                         from->config);
    const size_t turned[2] = {want->shape[1], want->shape[0]};
    return checkpoint_check_tensor(found, is_turned(from, want) ? turned : want->shape, want->n_dims,
                                   from->config, e);
}

/* Buffers of causal masks, which old versions of transformers wrote. */
static bool is_harmless(const char *name)
{
    size_t layer = 0;
    int n = 0;
    name += strncmp(name, "transformer.", 12) == 0 ? 12 : 0;
    return sscanf(name, "h.%zu.%n", &layer, &n) == 1 && n > 0 &&
           (strcmp(name + n, "attn.bias") == 0 || strcmp(name + n, "attn.masked_bias") == 0);
}

/* A tensor that this model does not have would go unused, and another model be computed. */
static bool check_nothing_else(const gpt2_model *m, const origin *from, eval_error *e)
{
    const tensor *all = from->list->tensors, *head = find_weight(from, "lm_head.weight");
    bool *expected = calloc(from->list->n + 1, sizeof *expected);
    if (!expected)
        return eval_fail(e, "%s: out of memory", from->place);
    for (size_t i = 0; i < m->n_tensors; i++)
        expected[find_weight(from, m->tensors[i].name) - all] = true;
    size_t i = 0;
    while (i < from->list->n && (expected[i] || &all[i] == head || (!from->gguf && is_harmless(all[i].name))))
        i++;
    free(expected);
    return i == from->list->n ||
           eval_fail(e, "%s: tensor '%s' is none that a gpt2 model of this configuration has: not supported",
                     all[i].source->path, all[i].name);
}

/* Before anything is allocated by sizes that the configuration claims, the file must bear them out. */
static bool check_weights(const gpt2_model *m, const origin *from, eval_error *e)
{
    char beyond[48];
    for (size_t i = 0; i < m->n_tensors; i++)
        if (!check_weight(&m->tensors[i], from, e))
            return false;
    snprintf(beyond, sizeof beyond, "h.%zu.ln_1.weight", m->config.n_layer);
    const tensor *extra = find_weight(from, beyond);
    if (extra)
        return eval_fail(e, "%s: tensor '%s' belongs to a layer beyond n_layer %zu of %s",
                         extra->source->path, extra->name, m->config.n_layer, from->config);
    return check_nothing_else(m, from, e);
}

/* A head in the file that is another than wte is the model's, whatever the config says of ties: somebody
 * trained it. GGUF does not speak of ties. */
static bool choose_head(gpt2_model *m, const origin *from, eval_error *e)
{
    const tensor *wte = find_weight(from, "wte.weight"), *head = find_weight(from, "lm_head.weight");
    bool same = true;
    if (!m->config.tied_head || !wte || !head)
        return true;
    if (!checkpoint_compare(wte, head, &same, e)) /* check_weights says what else is wrong */
        return false;
    m->config.tied_head = same;
    m->head_against_config = !same && !from->gguf;
    return true;
}

static void turn(const float *from, size_t rows, size_t columns, float *to)
{
    for (size_t i = 0; i < rows; i++)
        for (size_t j = 0; j < columns; j++)
            to[j * rows + i] = from[i * columns + j];
}

static bool load_weight(const gpt2_tensor *t, const origin *from, float *buffer, eval_error *e)
{
    const tensor *source = find_weight(from, t->name);
    const bool turned = is_turned(from, t);
    float *dst = turned ? buffer : t->data;
    if (!tensor_read_f32(source, 0, source->n_elems, dst, e) ||
        !checkpoint_check_finite(source, TENSOR_F32, dst, source->n_elems, e))
        return false;
    if (turned)
        turn(buffer, t->shape[1], t->shape[0], t->data);
    return true;
}

static bool load_weights(gpt2_model *m, const origin *from, eval_error *e)
{
    if (!choose_head(m, from, e))
        return false;
    if (!list_tensors(m))
        return eval_fail(e, "%s: out of memory", from->place);
    if (!check_weights(m, from, e))
        return false;
    size_t largest = 1;
    for (size_t i = 0; i < m->n_tensors; i++)
        if (is_turned(from, &m->tensors[i]) && m->tensors[i].n_elems > largest)
            largest = m->tensors[i].n_elems;
    float *buffer = malloc(largest * sizeof *buffer);
    bool ok = (buffer && allocate_weights(m)) || eval_fail(e, "%s: out of memory for %llu weights",
                                                           from->place, (unsigned long long)m->n_params);
    for (size_t i = 0; ok && i < m->n_tensors; i++)
        ok = load_weight(&m->tensors[i], from, buffer, e);
    free(buffer);
    return ok;
}

static bool hand_over(gpt2_model **out, gpt2_model *m, bool ok)
{
    if (ok)
        *out = m;
    else
        gpt2_model_free(m);
    return ok;
}

bool gpt2_model_load(gpt2_model **out, const char *dir, eval_error *e)
{
    gpt2_model *m = calloc(1, sizeof *m);
    safetensors *st = NULL;
    if (!m)
        return eval_fail(e, "%s: out of memory", dir);
    bool ok = gpt2_config_load(&m->config, dir, e) && safetensors_open_dir(&st, dir, e);
    if (ok) {
        const origin from = {.list = safetensors_tensors(st), .place = dir, .config = "config.json"};
        ok = load_weights(m, &from, e);
    }
    safetensors_close(st);
    return hand_over(out, m, ok);
}

bool gpt2_model_load_gguf(gpt2_model **out, const gguf *g, eval_error *e)
{
    gpt2_model *m = calloc(1, sizeof *m);
    if (!m)
        return eval_fail(e, "%s: out of memory", gguf_path(g));
    const origin from = {
        .list = gguf_tensors(g), .place = gguf_path(g), .config = "its metadata", .gguf = true};
    return hand_over(out, m, gpt2_config_gguf(&m->config, g, e) && load_weights(m, &from, e));
}

/* ---- random weights ---- */

static void fill_normal(float *x, size_t n, uint64_t stream, float mean, float std)
{
    const float scale = std * sqrtf(3.0f) / 65536.0f;
#pragma omp parallel for schedule(static) if (n > 65536)
    for (size_t i = 0; i < n; i++)
        x[i] = mean + scale * random_normal(stream, i);
}

bool gpt2_model_random(gpt2_model **out, const char *spec, uint64_t seed, eval_error *e)
{
    gpt2_config config;
    if (!gpt2_config_random(&config, spec, e))
        return false;
    gpt2_model *m = calloc(1, sizeof *m);
    if (!m)
        return eval_fail(e, "model '%.200s': out of memory", spec);
    m->config = config;
    m->random = true;
    if (!list_tensors(m) || !allocate_weights(m)) {
        (void)eval_fail(e, "model '%.200s': out of memory for %llu weights", spec,
                        (unsigned long long)m->n_params);
        gpt2_model_free(m);
        return false;
    }
    for (size_t i = 0; i < m->n_tensors; i++) {
        const gpt2_tensor *t = &m->tensors[i];
        fill_normal(t->data, t->n_elems, splitmix64(splitmix64(seed, 0) + i, 0), t->init_mean, t->init_std);
    }
    *out = m;
    return true;
}
