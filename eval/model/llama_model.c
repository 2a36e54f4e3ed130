/* Loads Llama-type models from Hugging Face directories and GGUF files. */
#define _POSIX_C_SOURCE 200809L

#include "eval/model/llama_model.h"

#include "eval/model/checkpoint.h"
#include "eval/model/llama_forward.h"
#include "eval/model/llama_weights.h"
#include "eval/model/safetensors.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

/* Where weights come from. */
typedef struct origin {
    const tensor_list *tensors;
    const char *path;   /* directory or file, for messages */
    const char *config; /* what tells the sizes, likewise */
    bool gguf;
    bool interleaved; /* channels that RoPE rotates together, i and i + D / 2, are stored side by side */
} origin;

static const char model_prefix[] = "model.";

/* ---- tensors of the files ---- */

/* Hugging Face's names come with `model.` or, from a model without its head, without. */
static const tensor *find_tensor(const origin *from, const llama_weight *w)
{
    if (from->gguf)
        return tensor_find(from->tensors, w->gguf_name);
    const tensor *t = tensor_find(from->tensors, w->name);
    const size_t n = sizeof model_prefix - 1;
    return !t && strncmp(w->name, model_prefix, n) == 0 ? tensor_find(from->tensors, w->name + n) : t;
}

static bool check_tensor(const llama_weight *want, const origin *from, eval_error *e)
{
    const tensor *found = find_tensor(from, want);
    if (!found)
        return eval_fail(e, "%s: tensor '%s' is missing, which %s asks for", from->path,
                         from->gguf ? want->gguf_name : want->name, from->config);
    return checkpoint_check_tensor(found, want->shape, want->n_dims, from->config, e);
}

/* The number between two points, `12` of `12.rest`, and where the rest begins; false if there is none. */
static bool parse_layer(const char *name, size_t *layer, const char **rest)
{
    size_t number = 0;
    const char *p = name;
    while (*p >= '0' && *p <= '9' && number < LLAMA_MAX_LAYERS)
        number = number * 10 + (size_t)(*p++ - '0');
    *layer = number;
    *rest = p + 1;
    return p > name && *p == '.';
}

/* A tensor that this model does not have would go unused, and another model be computed. */
static bool check_expected(const llama_config *c, const tensor *t, const origin *from, eval_error *e)
{
    const bool in_gguf = from->gguf;
    static const char *const harmless[] = {"self_attn.rotary_emb.inv_freq", "self_attn.masked_bias",
                                           "self_attn.bias"};
    static const char *const gguf_names[] = {"token_embd.weight", "output_norm.weight", "output.weight",
                                             "rope_freqs.weight"},
                             *const outer_names[] = {"embed_tokens.weight", "norm.weight",
                                                     "rotary_emb.inv_freq"};
    const char *name = t->name, *prefix = in_gguf ? "blk." : "layers.", *part;
    size_t layer;
    bool expected = !in_gguf && strcmp(name, "lm_head.weight") == 0;
    if (!in_gguf && strncmp(name, model_prefix, sizeof model_prefix - 1) == 0)
        name += sizeof model_prefix - 1;
    for (size_t i = 0; !in_gguf && i < sizeof outer_names / sizeof outer_names[0]; i++)
        expected = expected || strcmp(name, outer_names[i]) == 0;
    if (strncmp(name, prefix, strlen(prefix)) == 0 && parse_layer(name + strlen(prefix), &layer, &part)) {
        if (layer >= c->n_layer)
            return eval_fail(e, "%s: tensor '%s' belongs to a layer beyond the %zu of %s", t->source->path,
                             t->name, c->n_layer, from->config);
        expected = llama_weights_has_part(c, part, in_gguf);
        for (size_t i = 0; !in_gguf && i < sizeof harmless / sizeof harmless[0]; i++)
            expected = expected || strcmp(part, harmless[i]) == 0;
    }
    for (size_t i = 0; in_gguf && i < sizeof gguf_names / sizeof gguf_names[0]; i++)
        expected = expected || strcmp(name, gguf_names[i]) == 0;
    if (!expected)
        return eval_fail(e,
                         "%s: tensor '%s' is none that a %s model of this configuration has: not supported",
                         t->source->path, t->name, c->architecture);
    return true;
}

/* Before anything is allocated by sizes that a configuration claims, the files must bear them out. */
static bool check_tensors(const llama_model *l, const origin *from, eval_error *e)
{
    for (size_t i = 0; i < from->tensors->n; i++)
        if (!check_expected(&l->config, &from->tensors->tensors[i], from, e))
            return false;
    for (size_t i = 0; i < l->n_weights; i++)
        if (!check_tensor(&l->weights[i], from, e))
            return false;
    return true;
}

/* ---- numbers ---- */

/* GGUF files of some architectures keep the two halves of each rotated head interleaved: row 2i + s of a
 * head is channel s * D / 2 + i. Keys are wanted in the other order. */
static bool undo_interleaving(llama_weight *w)
{
    const size_t D = w->shape[0] / w->rotated_heads, row_bytes = w->n_bytes / w->shape[0];
    uint8_t *head = malloc(D * row_bytes);
    if (!head)
        return false;
    for (size_t h = 0; h < w->rotated_heads; h++) {
        uint8_t *rows = w->data + h * D * row_bytes;
        memcpy(head, rows, D * row_bytes);
        for (size_t i = 0; i < D; i++)
            memcpy(rows + (i % 2 * (D / 2) + i / 2) * row_bytes, head + i * row_bytes, row_bytes);
    }
    free(head);
    return true;
}

static bool read_weight(llama_weight *w, const origin *from, eval_error *e)
{
    const tensor *t = find_tensor(from, w);
    const bool ok = w->type == t->type ? tensor_read_bytes(t, 0, t->n_bytes, w->data, e)
                                       : tensor_read_f32(t, 0, t->n_elems, (float *)(void *)w->data, e);
    if (!ok || !checkpoint_check_finite(t, w->type, w->data, t->n_elems, e))
        return false;
    if (from->interleaved && w->rotated_heads > 0 && !undo_interleaving(w))
        return eval_fail(e, "%s: out of memory", from->path);
    return true;
}

/* A head in the files that is another than the embedding is the model's, whatever the configuration says of
 * ties: somebody trained it. */
static bool choose_head(llama_config *c, const origin *from, bool *against_config, eval_error *e)
{
    const llama_weight embedding = {.name = "model.embed_tokens.weight", .gguf_name = "token_embd.weight"},
                       head = {.name = "lm_head.weight", .gguf_name = "output.weight"};
    const tensor *a = find_tensor(from, &embedding), *b = find_tensor(from, &head);
    bool same = true;
    *against_config = false;
    if (!c->tied_head || !a || !b)
        return true;
    if (!checkpoint_compare(a, b, &same, e)) /* check_tensors says what else is wrong */
        return false;
    c->tied_head = same;
    *against_config = !same;
    return true;
}

/* GGUF's form of llama3 scaling: one divisor for each frequency. */
static bool apply_frequency_factors(llama_model *l, const origin *from, eval_error *e)
{
    const tensor *t = from->gguf ? tensor_find(from->tensors, "rope_freqs.weight") : NULL;
    const size_t n = l->config.head_dim / 2;
    float factors[ROPE_MAX_DIM / 2];
    if (!t)
        return true;
    if (!checkpoint_check_tensor(t, &n, 1, from->config, e))
        return false;
    if (!tensor_read_f32(t, 0, n, factors, e))
        return false;
    for (size_t i = 0; i < n; i++) {
        if (!(factors[i] >= 1e-6f && factors[i] <= 1e6f))
            return eval_fail(
                e, "%s: tensor '%s': element %zu (byte %zu) is %g, expected a number from 1e-06 to 1e+06",
                t->source->path, t->name, i, t->file_offset + matrix_row_bytes(t->type, i),
                (double)factors[i]);
        l->frequencies[i] /= factors[i];
    }
    return true;
}

static bool load_weights(llama_model *l, const origin *from, eval_error *e)
{
    if (!check_tensors(l, from, e) || !apply_frequency_factors(l, from, e))
        return false;
    for (size_t i = 0; i < l->n_weights; i++)
        if (l->weights[i].n_dims == 2)
            l->weights[i].type = find_tensor(from, &l->weights[i])->type;
    if (!llama_weights_allocate(l))
        return eval_fail(e, "%s: out of memory for %llu weights (%zu bytes)", from->path,
                         (unsigned long long)l->n_params, l->n_bytes);
    for (size_t i = 0; i < l->n_weights; i++)
        if (!read_weight(&l->weights[i], from, e))
            return false;
    return true;
}

static bool load(model *m, llama_config *c, const origin *from, eval_error *e)
{
    bool against_config;
    if (!choose_head(c, from, &against_config, e))
        return false;
    llama_model *l = llama_weights_list(c);
    if (!l)
        return eval_fail(e, "%s: out of memory", from->path);
    if (!load_weights(l, from, e)) {
        llama_weights_free(l);
        return false;
    }
    llama_weights_describe(l, m);
    if (against_config && !from->gguf)
        snprintf(m->note, sizeof m->note,
                 "config.json says tie_word_embeddings, but lm_head.weight is not embed_tokens.weight: "
                 "lm_head.weight is used");
    return true;
}

bool llama_load_directory(model *m, const char *dir, const json_t *config, const char *config_path,
                          eval_error *e)
{
    llama_config c;
    safetensors *st = NULL;
    if (!llama_config_parse(&c, config_path, config, e) || !safetensors_open_dir(&st, dir, e))
        return false;
    const origin from = {.tensors = safetensors_tensors(st), .path = dir, .config = "config.json"};
    const bool ok = load(m, &c, &from, e);
    safetensors_close(st);
    return ok;
}

bool llama_load_gguf(model *m, const gguf *g, eval_error *e)
{
    llama_config c;
    if (!llama_config_gguf(&c, g, e))
        return false;
    const origin from = {.tensors = gguf_tensors(g),
                         .path = gguf_path(g),
                         .config = "its metadata",
                         .gguf = true,
                         .interleaved = llama_gguf_interleaves(c.architecture)};
    return load(m, &c, &from, e);
}
