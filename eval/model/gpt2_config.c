/* Reads and checks GPT-2 configurations. */
#define _POSIX_C_SOURCE 200809L

#include "eval/model/gpt2_config.h"

#include "eval/common/input_file.h"
#include "eval/common/json_util.h"
#include "eval/model/shapes.h"

#include <stdint.h>
#include <stdlib.h>
#include <string.h>

/* Far above every published model, and low enough that no product of sizes can overflow. */
#define MAX_LAYERS   1024
#define MAX_HEADS    1024
#define MAX_HEAD_DIM 1024
#define MAX_WIDTH    (1u << 18) /* n_embd and n_inner */
#define MAX_CONTEXT  (1u << 20)
#define MAX_VOCAB    (1u << 22)

static const char random_prefix[] = "random:";

static bool derive_sizes(gpt2_config *c, const char *file, eval_error *e)
{
    if (c->n_embd % c->n_head != 0)
        return eval_fail(e, "%s: n_embd %zu is not a multiple of n_head %zu", file, c->n_embd, c->n_head);
    c->head_dim = c->n_embd / c->n_head;
    if (c->head_dim > MAX_HEAD_DIM)
        return eval_fail(e, "%s: n_embd / n_head is %zu, expected at most %d", file, c->head_dim,
                         MAX_HEAD_DIM);
    c->n_inner = 4 * c->n_embd;
    return true;
}

static bool parse_sizes(gpt2_config *c, const char *file, const json_t *root, eval_error *e)
{
    const char *positions = json_object_get(root, "n_positions") ? "n_positions" : "n_ctx";
    if (!json_required_size(root, file, "n_layer", 1, MAX_LAYERS, &c->n_layer, e) ||
        !json_required_size(root, file, "n_head", 1, MAX_HEADS, &c->n_head, e) ||
        !json_required_size(root, file, "n_embd", 1, MAX_WIDTH, &c->n_embd, e) ||
        !json_required_size(root, file, positions, 1, MAX_CONTEXT, &c->n_ctx, e) ||
        !json_required_size(root, file, "vocab_size", 1, MAX_VOCAB, &c->vocab_size, e))
        return false;
    return derive_sizes(c, file, e) &&
           json_optional_size(root, file, "n_inner", 1, 4 * MAX_WIDTH, &c->n_inner, e);
}

/* Settings under which the computation would be another than ours. */
static bool check_architecture(const char *file, const json_t *root, eval_error *e)
{
    const char *type = "gpt2", *activation = "gelu_new";
    bool cross_attention = false;
    if (!json_optional_string(root, file, "model_type", &type, e) ||
        !json_optional_string(root, file, "activation_function", &activation, e) ||
        !json_optional_bool(root, file, "add_cross_attention", &cross_attention, e))
        return false;
    if (strcmp(type, "gpt2") != 0)
        return eval_fail(e, "%s: model_type is '%.100s', expected 'gpt2'", file, type);
    if (strcmp(activation, "gelu_new") != 0 && strcmp(activation, "gelu_pytorch_tanh") != 0)
        return eval_fail(e, "%s: activation_function is '%.100s', expected 'gelu_new' or 'gelu_pytorch_tanh'",
                         file, activation);
    if (cross_attention)
        return eval_fail(e, "%s: add_cross_attention is true, expected a decoder-only model", file);
    return true;
}

static bool parse_epsilon(gpt2_config *c, const char *file, const json_t *root, eval_error *e)
{
    const json_t *epsilon = json_object_get(root, "layer_norm_epsilon");
    c->layer_norm_epsilon = 1e-5f;
    if (!epsilon || json_is_null(epsilon))
        return true;
    double value = json_number_value(epsilon); /* 0 if it is no number */
    if (!(value >= 1e-30 && value <= 1.0))
        return json_wrong_value(epsilon, file, "layer_norm_epsilon", "expected a number from 1e-30 to 1", e);
    c->layer_norm_epsilon = (float)value;
    return true;
}

static bool parse_token_id(const gpt2_config *c, const char *file, const json_t *root, const char *key,
                           long *id, eval_error *e)
{
    size_t value = SIZE_MAX;
    if (!json_optional_size(root, file, key, 0, c->vocab_size - 1, &value, e))
        return false;
    *id = value == SIZE_MAX ? -1 : (long)value;
    return true;
}

static bool parse_root(gpt2_config *c, const char *file, const json_t *root, eval_error *e)
{
    *c = (gpt2_config){.tied_head = true, .scale_attn = true};
    return check_architecture(file, root, e) && parse_sizes(c, file, root, e) &&
           parse_epsilon(c, file, root, e) &&
           json_optional_bool(root, file, "tie_word_embeddings", &c->tied_head, e) &&
           json_optional_bool(root, file, "scale_attn_weights", &c->scale_attn, e) &&
           json_optional_bool(root, file, "scale_attn_by_inverse_layer_idx", &c->scale_attn_by_layer, e) &&
           parse_token_id(c, file, root, "bos_token_id", &c->bos_token_id, e) &&
           parse_token_id(c, file, root, "eos_token_id", &c->eos_token_id, e);
}

bool gpt2_config_parse(gpt2_config *c, const char *file, const void *json, size_t size, eval_error *e)
{
    json_t *root = json_parse_object(file, json, size, 0, e);
    if (!root)
        return false;
    bool ok = parse_root(c, file, root, e);
    json_decref(root);
    return ok;
}

bool gpt2_config_load(gpt2_config *c, const char *dir, eval_error *e)
{
    input_file file;
    if (!input_file_read(&file, dir, "config.json", e))
        return false;
    bool ok = gpt2_config_parse(c, file.path, file.data, file.size, e);
    input_file_free(&file);
    return ok;
}

bool gpt2_config_gguf(gpt2_config *c, const gguf *g, eval_error *e)
{
    *c = (gpt2_config){.tied_head = true, .scale_attn = true, .bos_token_id = -1, .eos_token_id = -1};
    double epsilon = 0.0;
    if (!gguf_required_size(g, "gpt2.block_count", 1, MAX_LAYERS, &c->n_layer, e) ||
        !gguf_required_size(g, "gpt2.attention.head_count", 1, MAX_HEADS, &c->n_head, e) ||
        !gguf_required_size(g, "gpt2.embedding_length", 1, MAX_WIDTH, &c->n_embd, e) ||
        !gguf_required_size(g, "gpt2.context_length", 1, MAX_CONTEXT, &c->n_ctx, e) ||
        !gguf_optional_float(g, "gpt2.attention.layer_norm_epsilon", 1e-30, 1.0, &epsilon, e))
        return false;
    if (epsilon == 0.0)
        return eval_fail(e, "%s: key 'gpt2.attention.layer_norm_epsilon' is missing", gguf_path(g));
    c->layer_norm_epsilon = (float)epsilon;
    const tensor *embedding = tensor_find(gguf_tensors(g), "token_embd.weight");
    if (!embedding || embedding->n_dims != 2 || embedding->shape[0] > MAX_VOCAB)
        return eval_fail(e, "%s: tensor 'token_embd.weight' is missing or no matrix of at most %u rows",
                         gguf_path(g), MAX_VOCAB);
    c->vocab_size = embedding->shape[0];
    return derive_sizes(c, gguf_path(g), e) &&
           gguf_optional_size(g, "gpt2.feed_forward_length", 1, 4 * MAX_WIDTH, &c->n_inner, e);
}

/* Reads a decimal number from 1 to max and the character after it, which must be `end`. */
static bool parse_number(const char **text, char end, size_t max, size_t *value)
{
    const char *p = *text;
    size_t number = 0;
    while (*p >= '0' && *p <= '9' && number <= max)
        number = number * 10 + (size_t)(*p++ - '0');
    if (p == *text || *p != end || number == 0 || number > max)
        return false;
    *text = p + 1;
    *value = number;
    return true;
}

bool gpt2_config_is_random(const char *spec)
{
    return strncmp(spec, random_prefix, sizeof random_prefix - 1) == 0;
}

bool gpt2_config_random(gpt2_config *c, const char *spec, eval_error *e)
{
    *c = (gpt2_config){.layer_norm_epsilon = 1e-5f,
                       .tied_head = true,
                       .scale_attn = true,
                       .bos_token_id = -1,
                       .eos_token_id = -1};
    const char *shape = gpt2_config_is_random(spec) ? spec + sizeof random_prefix - 1 : "";
    const published_shape *p = shapes_find(shape);
    if (p && strcmp(p->architecture, "gpt2") == 0) {
        c->n_layer = p->n_layer;
        c->n_head = p->n_head;
        c->head_dim = p->head_dim;
        c->n_ctx = p->n_ctx;
        c->vocab_size = p->vocab_size;
    }
    if (c->n_layer == 0 && !(parse_number(&shape, ',', MAX_LAYERS, &c->n_layer) &&
                             parse_number(&shape, ',', MAX_HEADS, &c->n_head) &&
                             parse_number(&shape, ',', MAX_HEAD_DIM, &c->head_dim) &&
                             parse_number(&shape, ',', MAX_CONTEXT, &c->n_ctx) &&
                             parse_number(&shape, '\0', MAX_VOCAB, &c->vocab_size)))
        return eval_fail(
            e,
            "model '%.200s': expected random:gpt2, random:gpt2-medium, random:gpt2-large, random:gpt2-xl "
            "or random:L,H,D,ctx,vocab with L <= %d, H <= %d, D <= %d, ctx <= %u, vocab <= %u",
            spec, MAX_LAYERS, MAX_HEADS, MAX_HEAD_DIM, MAX_CONTEXT, MAX_VOCAB);
    c->n_embd = c->n_head * c->head_dim;
    if (c->n_embd > MAX_WIDTH)
        return eval_fail(e, "model '%.200s': H * D is %zu, expected at most %u", spec, c->n_embd, MAX_WIDTH);
    c->n_inner = 4 * c->n_embd;
    return true;
}
