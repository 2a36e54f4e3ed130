/* Reads and checks the metadata of Llama-type models in GGUF files.
 *
 * Source: ggml, docs/gguf.md (the keys), and what llama.cpp makes of them where that says little: a factor
 * without a type of scaling is linear; YaRN's attention factors multiply.
 */
#include "eval/model/llama_config.h"

#include "eval/model/llama_model.h"

#include <stdio.h>
#include <string.h>

/* `<architecture>.<name>`. */
typedef struct arch_key {
    char text[96];
} arch_key;

static arch_key key_of(const llama_config *c, const char *name)
{
    arch_key key;
    snprintf(key.text, sizeof key.text, "%s.%s", c->architecture, name);
    return key;
}

static bool optional_size(const llama_config *c, const gguf *g, const char *name, size_t min, size_t max,
                          size_t *value, eval_error *e)
{
    return gguf_optional_size(g, key_of(c, name).text, min, max, value, e);
}

static bool required_size(const llama_config *c, const gguf *g, const char *name, size_t max, size_t *value,
                          eval_error *e)
{
    return gguf_required_size(g, key_of(c, name).text, 1, max, value, e);
}

static bool optional_float(const llama_config *c, const gguf *g, const char *name, double min, double max,
                           double *value, eval_error *e)
{
    return gguf_optional_float(g, key_of(c, name).text, min, max, value, e);
}

bool llama_gguf_interleaves(const char *architecture)
{
    return strcmp(architecture, "llama") == 0 || strcmp(architecture, "smollm3") == 0;
}

/* ---- what is refused ---- */

static bool check_refused(const llama_config *c, const gguf *g, eval_error *e)
{
    static const struct {
        const char *name, *what;
    } refused[] = {
        {"attention.kv_lora_rank", "multi-head latent attention"},
        {"attention.q_lora_rank", "multi-head latent attention"},
        {"attn_logit_softcapping", "softcapped attention"},
        {"final_logit_softcapping", "softcapped logits"},
        {"attention.clamp_kqv", "clamped queries, keys and values"},
        {"attention.max_alibi_bias", "ALiBi"},
        {"attention.scale", "scaled attention"},
        {"attention.temperature_scale", "scaled attention"},
        {"attention.sliding_window_pattern", "layers with windows of their own"},
        {"attention.chunk_size", "chunked attention"},
        {"logit_scale", "scaled logits"},
        {"embedding_scale", "scaled embeddings"},
        {"residual_scale", "scaled residuals"},
        {"use_parallel_residual", "parallel residuals"},
        {"rope.dimension_sections", "RoPE in sections"},
        {"rope.scaling.alpha", "RoPE scaling by alpha"},
        {"rope.freq_base_swa", "RoPE of their own for sliding layers"},
    };
    size_t n_experts = 0;
    bool causal = true;
    if (!optional_size(c, g, "expert_count", 0, SIZE_MAX, &n_experts, e) ||
        !gguf_optional_bool(g, key_of(c, "attention.causal").text, &causal, e))
        return false;
    if (n_experts > 0)
        return eval_fail(e, "%s: %s.expert_count is %zu, which means a mixture of experts: not supported",
                         gguf_path(g), c->architecture, n_experts);
    if (!causal)
        return eval_fail(e, "%s: %s.attention.causal is false, expected a decoder-only model", gguf_path(g),
                         c->architecture);
    for (size_t i = 0; i < sizeof refused / sizeof refused[0]; i++)
        if (gguf_has(g, key_of(c, refused[i].name).text))
            return eval_fail(e, "%s: key %s is there, which means %s: not supported", gguf_path(g),
                             key_of(c, refused[i].name).text, refused[i].what);
    return true;
}

/* ---- sizes ---- */

/* A number, or an array of the same number for every layer. */
static bool parse_kv_heads(llama_config *c, const gguf *g, eval_error *e)
{
    const arch_key key = key_of(c, "attention.head_count_kv");
    gguf_kind kind = GGUF_U32, element = GGUF_U32;
    const char *name = "";
    size_t n;
    c->n_kv_head = c->n_head;
    for (size_t i = 0; name && strcmp(name, key.text) != 0; i++)
        name = gguf_key(g, i, &kind, &element);
    if (!name || kind != GGUF_ARRAY || element == GGUF_STRING || element == GGUF_F32 || element == GGUF_F64)
        return gguf_optional_size(g, key.text, 1, LLAMA_MAX_HEADS, &c->n_kv_head, e);
    if (!gguf_optional_array(g, key.text, element, &n, e))
        return false;
    if (n != c->n_layer)
        return eval_fail(e, "%s: %s has %zu element%s, expected one for each of %zu layer%s", gguf_path(g),
                         key.text, n, eval_s(n), c->n_layer, eval_s(c->n_layer));
    for (size_t i = 0; i < n; i++) {
        const int64_t heads = gguf_array_integer(g, key.text, i), first = gguf_array_integer(g, key.text, 0);
        if (heads != first || heads < 1 || heads > LLAMA_MAX_HEADS)
            return eval_fail(e, "%s: %s of layer %zu is %lld, expected the same from 1 to %d in all layers",
                             gguf_path(g), key.text, i, (long long)heads, LLAMA_MAX_HEADS);
        c->n_kv_head = (size_t)heads;
    }
    return true;
}

static bool parse_sizes(llama_config *c, const gguf *g, eval_error *e)
{
    const char *file = gguf_path(g);
    double epsilon = 0.0;
    if (!required_size(c, g, "block_count", LLAMA_MAX_LAYERS, &c->n_layer, e) ||
        !required_size(c, g, "context_length", LLAMA_MAX_CONTEXT, &c->n_ctx, e) ||
        !required_size(c, g, "embedding_length", LLAMA_MAX_WIDTH, &c->n_embd, e) ||
        !required_size(c, g, "feed_forward_length", LLAMA_MAX_INNER, &c->n_inner, e) ||
        !required_size(c, g, "attention.head_count", LLAMA_MAX_HEADS, &c->n_head, e) ||
        !parse_kv_heads(c, g, e) ||
        !optional_float(c, g, "attention.layer_norm_rms_epsilon", 1e-30, 1.0, &epsilon, e) ||
        !optional_size(c, g, "attention.key_length", 2, LLAMA_MAX_HEAD_DIM, &c->head_dim, e))
        return false;
    if (epsilon == 0.0)
        return eval_fail(e, "%s: key '%s.attention.layer_norm_rms_epsilon' is missing", file,
                         c->architecture);
    c->norm_epsilon = (float)epsilon;
    if (c->head_dim == 0) {
        if (c->n_embd % c->n_head != 0)
            return eval_fail(
                e,
                "%s: %s.embedding_length %zu is not a multiple of head_count %zu, and there is no "
                "attention.key_length",
                file, c->architecture, c->n_embd, c->n_head);
        c->head_dim = c->n_embd / c->n_head;
    }
    size_t value_length = c->head_dim, rotated = c->head_dim;
    if (!optional_size(c, g, "attention.value_length", 1, SIZE_MAX, &value_length, e) ||
        !optional_size(c, g, "rope.dimension_count", 0, SIZE_MAX, &rotated, e))
        return false;
    if (value_length != c->head_dim)
        return eval_fail(e, "%s: %s.attention.value_length is %zu, expected the key's, %zu", file,
                         c->architecture, value_length, c->head_dim);
    if (rotated != c->head_dim)
        return eval_fail(e, "%s: %s.rope.dimension_count is %zu, expected %zu, a whole head", file,
                         c->architecture, rotated, c->head_dim);
    return true;
}

/* What only the tensors tell. */
static bool parse_tensors(llama_config *c, const gguf *g, eval_error *e)
{
    const tensor_list *tensors = gguf_tensors(g);
    const tensor *embedding = tensor_find(tensors, "token_embd.weight");
    if (!embedding)
        return eval_fail(e, "%s: tensor 'token_embd.weight' is missing", gguf_path(g));
    if (embedding->n_dims != 2 || embedding->shape[0] < 1 || embedding->shape[0] > LLAMA_MAX_VOCAB)
        return eval_fail(
            e, "%s: tensor 'token_embd.weight' has %zu dimensions and %zu rows, expected 2 and 1 to %u",
            gguf_path(g), embedding->n_dims, embedding->shape[0], LLAMA_MAX_VOCAB);
    c->vocab_size = embedding->shape[0];
    size_t claimed = c->vocab_size;
    if (!optional_size(c, g, "vocab_size", 1, LLAMA_MAX_VOCAB, &claimed, e))
        return false;
    if (claimed != c->vocab_size)
        return eval_fail(e, "%s: %s.vocab_size is %zu, expected the rows of tensor 'token_embd.weight', %zu",
                         gguf_path(g), c->architecture, claimed, c->vocab_size);
    c->tied_head = true; /* an output.weight with other numbers is found by the loader */
    c->qkv_bias = tensor_find(tensors, "blk.0.attn_q.bias") != NULL;
    c->out_bias = tensor_find(tensors, "blk.0.attn_output.bias") != NULL;
    c->mlp_bias = tensor_find(tensors, "blk.0.ffn_gate.bias") != NULL;
    c->qk_norm = strcmp(c->architecture, "qwen3") == 0;
    return true;
}

/* ---- RoPE and layers ---- */

static bool parse_yarn(llama_config *c, const gguf *g, eval_error *e)
{
    rope_config *r = &c->rope;
    double extrapolation = 1.0, log_multiplier = 0.0, attention = 1.0, more_attention = 1.0;
    r->truncate = true;
    r->beta_fast = 32.0;
    r->beta_slow = 1.0;
    if (!optional_float(c, g, "rope.scaling.yarn_ext_factor", -1e6, 1e6, &extrapolation, e) ||
        !optional_float(c, g, "rope.scaling.yarn_log_multiplier", -1e6, 1e6, &log_multiplier, e) ||
        !optional_float(c, g, "rope.scaling.yarn_attn_factor", 1e-3, 1e3, &attention, e) ||
        !optional_float(c, g, "rope.scaling.attn_factor", 1e-3, 1e3, &more_attention, e) ||
        !optional_float(c, g, "rope.scaling.yarn_beta_fast", 1e-3, 1e6, &r->beta_fast, e) ||
        !optional_float(c, g, "rope.scaling.yarn_beta_slow", 1e-3, 1e6, &r->beta_slow, e))
        return false;
    if (extrapolation != 1.0 || log_multiplier != 0.0)
        return eval_fail(
            e, "%s: %s.rope.scaling.yarn_ext_factor is %g and yarn_log_multiplier %g, expected 1 and 0",
            gguf_path(g), c->architecture, extrapolation, log_multiplier);
    r->attention_factor = rope_yarn_mscale(r->factor, 1.0) * attention * more_attention;
    return true;
}

static bool parse_rope(llama_config *c, const gguf *g, eval_error *e)
{
    rope_config *r = &c->rope;
    const char *type = "linear";
    double factor = 0.0;
    *r = (rope_config){.theta = 10000.0, .attention_factor = 1.0, .original_ctx = (double)c->n_ctx};
    if (!gguf_optional_string(g, key_of(c, "rope.scaling.type").text, &type, e) ||
        !optional_float(c, g, "rope.scale_linear", 0.0, 1e6, &factor, e) ||
        !optional_float(c, g, "rope.scaling.factor", 0.0, 1e6, &factor, e) ||
        !optional_float(c, g, "rope.freq_base", 1.0 + 1e-6, 1e15, &r->theta, e))
        return false;
    const arch_key original = key_of(c, "rope.scaling.original_context_length");
    size_t original_ctx = c->n_ctx;
    if (!gguf_optional_size(g, original.text, 1, LLAMA_MAX_CONTEXT, &original_ctx, e))
        return false;
    r->original_ctx = (double)original_ctx;
    r->factor = factor >= 1e-3 ? factor : 1.0;
    if (strcmp(type, "none") == 0 || (strcmp(type, "linear") == 0 && r->factor == 1.0))
        return true;
    r->type = strcmp(type, "yarn") == 0 ? ROPE_YARN : ROPE_LINEAR;
    if (r->type == ROPE_LINEAR && strcmp(type, "linear") != 0)
        return eval_fail(e, "%s: %s.rope.scaling.type is '%.100s', expected 'none', 'linear' or 'yarn'",
                         gguf_path(g), c->architecture, type);
    return r->type == ROPE_LINEAR || parse_yarn(c, g, e);
}

static bool parse_layers(llama_config *c, const gguf *g, eval_error *e)
{
    const bool smollm3 = strcmp(c->architecture, "smollm3") == 0,
               llama = strcmp(c->architecture, "llama") == 0;
    if (!optional_size(c, g, "attention.sliding_window", 0, LLAMA_MAX_CONTEXT, &c->window, e))
        return false;
    if (!llama && c->window > 0 && c->window < c->n_ctx)
        return eval_fail(e, "%s: %s.attention.sliding_window is %zu, but not of which layers: not supported",
                         gguf_path(g), c->architecture, c->window);
    for (size_t l = 0; l < c->n_layer; l++) {
        c->rotates[l] = !smollm3 || (l + 1) % 4 != 0;
        c->slides[l] = llama && c->window > 0; /* as in a mistral, which is a llama here; llama_config.h */
    }
    return true;
}

bool llama_config_gguf(llama_config *c, const gguf *g, eval_error *e)
{
    const char *architecture = "";
    *c = (llama_config){.n_layer = 0};
    if (!gguf_optional_string(g, "general.architecture", &architecture, e))
        return false;
    if (!llama_handles(architecture))
        return eval_fail(e, "%s: general.architecture is '%.100s', expected one of %s", gguf_path(g),
                         architecture, llama_handled());
    snprintf(c->architecture, sizeof c->architecture, "%s", architecture);
    return check_refused(c, g, e) && parse_sizes(c, g, e) && parse_tensors(c, g, e) && parse_rope(c, g, e) &&
           parse_layers(c, g, e) && llama_config_check(c, gguf_path(g), e);
}
