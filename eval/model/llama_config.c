/* Reads and checks config.json of Llama-type models.
 *
 * Source of what each model_type means: the configuration and model classes of Hugging Face transformers 5.
 */
#include "eval/model/llama_config.h"

#include "eval/common/json_util.h"
#include "eval/model/llama_model.h"

#include <math.h>
#include <stdint.h>
#include <stdio.h>
#include <string.h>

static const char handled[] = "llama, mistral, qwen2, qwen3, smollm3";

const char *llama_handled(void)
{
    return handled;
}

bool llama_handles(const char *model_type)
{
    static const char *const types[] = {"llama", "mistral", "qwen2", "qwen3", "smollm3"};
    for (size_t i = 0; i < sizeof types / sizeof types[0]; i++)
        if (strcmp(model_type, types[i]) == 0)
            return true;
    return false;
}

static bool is_a(const llama_config *c, const char *architecture)
{
    return strcmp(c->architecture, architecture) == 0;
}

/* Null is as good as absent. */
static const json_t *field(const json_t *object, const char *key)
{
    const json_t *value = json_object_get(object, key);
    return json_is_null(value) ? NULL : value;
}

static bool optional_number(const json_t *object, const char *file, const char *key, double min, double max,
                            double *value, eval_error *e)
{
    const json_t *number = field(object, key);
    if (!number)
        return true;
    const double found = json_is_number(number) ? json_number_value(number) : NAN;
    if (!(found >= min && found <= max)) {
        char wanted[80];
        snprintf(wanted, sizeof wanted, "expected a number from %g to %g", min, max);
        return json_wrong_value(number, file, key, wanted, e);
    }
    *value = found;
    return true;
}

/* ---- what is refused ---- */

/* Fields that say a model computes something else. */
static bool check_refused(const char *file, const json_t *root, eval_error *e)
{
    static const struct {
        const char *key, *what;
        bool one_is_harmless;
    } refused[] = {
        {"quantization_config", "weights in a format of their own", false},
        {"compression_config", "weights in a format of their own", false},
        {"num_local_experts", "a mixture of experts", false},
        {"num_experts", "a mixture of experts", false},
        {"n_routed_experts", "a mixture of experts", false},
        {"moe_intermediate_size", "a mixture of experts", false},
        {"kv_lora_rank", "multi-head latent attention", false},
        {"q_lora_rank", "multi-head latent attention", false},
        {"attn_logit_softcapping", "softcapped attention", false},
        {"final_logit_softcapping", "softcapped logits", false},
        {"use_qk_norm", "norms that this model_type does not have", false},
        {"qk_layernorm", "norms that this model_type does not have", false},
        {"use_attention_sinks", "attention sinks", false},
        {"attention_sinks", "attention sinks", false},
        {"attention_chunk_size", "chunked attention", false},
        {"cross_attention_layers", "cross-attention", false},
        {"add_cross_attention", "cross-attention", false},
        {"is_encoder_decoder", "an encoder", false},
        {"vision_config", "images", false},
        {"text_config", "a text model inside another", false},
        {"embedding_multiplier", "scaled embeddings", true},
        {"residual_multiplier", "scaled residuals", true},
        {"attention_multiplier", "scaled attention", false},
        {"logits_scaling", "scaled logits", true},
        {"logit_scale", "scaled logits", true},
    };
    for (size_t i = 0; i < sizeof refused / sizeof refused[0]; i++) {
        const json_t *value = field(root, refused[i].key);
        const bool is_number = json_is_number(value);
        if (!value || json_is_false(value) || (is_number && json_number_value(value) == 0.0) ||
            (is_number && refused[i].one_is_harmless && json_number_value(value) == 1.0))
            continue;
        char wanted[128];
        snprintf(wanted, sizeof wanted, "which means %s: not supported", refused[i].what);
        return json_wrong_value(value, file, refused[i].key, wanted, e);
    }
    return true;
}

static bool parse_type(llama_config *c, const char *file, const json_t *root, eval_error *e)
{
    const char *type = "", *activation = "silu";
    if (!json_optional_string(root, file, "model_type", &type, e) ||
        !json_optional_string(root, file, "hidden_act", &activation, e))
        return false;
    if (!llama_handles(type))
        return eval_fail(e, "%s: model_type is '%.100s', expected one of %s", file, type, handled);
    if (strcmp(activation, "silu") != 0 && strcmp(activation, "swish") != 0)
        return eval_fail(e, "%s: hidden_act is '%.100s', expected 'silu'", file, activation);
    snprintf(c->architecture, sizeof c->architecture, "%s", type);
    return true;
}

/* ---- sizes and flags ---- */

static bool parse_sizes(llama_config *c, const char *file, const json_t *root, eval_error *e)
{
    size_t bos_id; /* the tokenizer knows better; but what is no id at all is a broken file */
    if (!json_required_size(root, file, "hidden_size", 1, LLAMA_MAX_WIDTH, &c->n_embd, e) ||
        !json_required_size(root, file, "intermediate_size", 1, LLAMA_MAX_INNER, &c->n_inner, e) ||
        !json_required_size(root, file, "num_hidden_layers", 1, LLAMA_MAX_LAYERS, &c->n_layer, e) ||
        !json_required_size(root, file, "num_attention_heads", 1, LLAMA_MAX_HEADS, &c->n_head, e) ||
        !json_required_size(root, file, "max_position_embeddings", 1, LLAMA_MAX_CONTEXT, &c->n_ctx, e) ||
        !json_required_size(root, file, "vocab_size", 1, LLAMA_MAX_VOCAB, &c->vocab_size, e) ||
        !json_optional_size(root, file, "bos_token_id", 0, LLAMA_MAX_VOCAB - 1, &bos_id, e))
        return false;
    c->n_kv_head = c->n_head;
    if (!json_optional_size(root, file, "num_key_value_heads", 1, LLAMA_MAX_HEADS, &c->n_kv_head, e) ||
        !json_optional_size(root, file, "head_dim", 2, LLAMA_MAX_HEAD_DIM, &c->head_dim, e))
        return false;
    if (c->head_dim == 0 && is_a(c, "qwen3"))
        c->head_dim = 128; /* this class's default */
    if (c->head_dim == 0) {
        if (c->n_embd % c->n_head != 0)
            return eval_fail(
                e,
                "%s: hidden_size %zu is not a multiple of num_attention_heads %zu, and there is no "
                "head_dim",
                file, c->n_embd, c->n_head);
        c->head_dim = c->n_embd / c->n_head;
    }
    return true;
}

static bool parse_flags(llama_config *c, const char *file, const json_t *root, eval_error *e)
{
    bool attention_bias = false, mlp_bias = false;
    double epsilon = 1e-6;
    c->tied_head = is_a(c, "smollm3");
    if (!json_optional_bool(root, file, "tie_word_embeddings", &c->tied_head, e) ||
        !json_optional_bool(root, file, "attention_bias", &attention_bias, e) ||
        !json_optional_bool(root, file, "mlp_bias", &mlp_bias, e) ||
        !optional_number(root, file, "rms_norm_eps", 1e-30, 1.0, &epsilon, e))
        return false;
    c->norm_epsilon = (float)epsilon;
    c->qk_norm = is_a(c, "qwen3");
    const bool chooses = is_a(c, "llama") || is_a(c, "qwen3") || is_a(c, "smollm3");
    c->qkv_bias = is_a(c, "qwen2") || (chooses && attention_bias);
    c->out_bias = chooses && attention_bias;
    c->mlp_bias = (is_a(c, "llama") || is_a(c, "smollm3")) && mlp_bias;
    return true;
}

/* ---- RoPE ---- */

static bool parse_yarn(llama_config *c, const char *file, const json_t *rope, eval_error *e)
{
    double mscale = 0.0, mscale_all = 0.0, attention = 0.0;
    rope_config *r = &c->rope;
    r->truncate = true;
    if (json_object_get(rope, "factor") && !field(rope, "factor"))
        r->factor = (double)c->n_ctx / r->original_ctx;
    if (!optional_number(rope, file, "beta_fast", 0.0, 1e6, &r->beta_fast, e) ||
        !optional_number(rope, file, "beta_slow", 0.0, 1e6, &r->beta_slow, e) ||
        !optional_number(rope, file, "mscale", 0.0, 1e3, &mscale, e) ||
        !optional_number(rope, file, "mscale_all_dim", 0.0, 1e3, &mscale_all, e) ||
        !optional_number(rope, file, "attention_factor", 1e-3, 1e3, &attention, e) ||
        !json_optional_bool(rope, file, "truncate", &r->truncate, e))
        return false;
    r->beta_fast = r->beta_fast > 0.0 ? r->beta_fast : 32.0; /* zero means the default too */
    r->beta_slow = r->beta_slow > 0.0 ? r->beta_slow : 1.0;
    if (attention > 0.0)
        r->attention_factor = attention;
    else if (mscale > 0.0 && mscale_all > 0.0)
        r->attention_factor = rope_yarn_mscale(r->factor, mscale) / rope_yarn_mscale(r->factor, mscale_all);
    else
        r->attention_factor = rope_yarn_mscale(r->factor, 1.0);
    return true;
}

/* `type` has been read; the rest of the parameters from the same object. */
static bool parse_scaling(llama_config *c, const char *file, const json_t *root, const json_t *rope,
                          const char *type, eval_error *e)
{
    rope_config *r = &c->rope;
    if (strcmp(type, "default") == 0)
        return true;
    r->type = strcmp(type, "linear") == 0   ? ROPE_LINEAR
              : strcmp(type, "llama3") == 0 ? ROPE_LLAMA3
                                            : ROPE_YARN;
    if (r->type == ROPE_YARN && strcmp(type, "yarn") != 0)
        return eval_fail(e, "%s: rope_type is '%.100s', expected 'default', 'linear', 'llama3' or 'yarn'",
                         file, type);
    /* One beside the parameters takes precedence; the default is the context itself. */
    r->original_ctx = (double)c->n_ctx;
    if (!optional_number(rope, file, "original_max_position_embeddings", 1, LLAMA_MAX_CONTEXT,
                         &r->original_ctx, e) ||
        !optional_number(root, file, "original_max_position_embeddings", 1, LLAMA_MAX_CONTEXT,
                         &r->original_ctx, e) ||
        !optional_number(rope, file, "factor", 1e-3, 1e6, &r->factor, e) ||
        !optional_number(rope, file, "low_freq_factor", 1e-6, 1e6, &r->low_freq_factor, e) ||
        !optional_number(rope, file, "high_freq_factor", 1e-6, 1e6, &r->high_freq_factor, e))
        return false;
    if (r->type == ROPE_YARN && !parse_yarn(c, file, rope, e))
        return false;
    if (r->factor == 0.0)
        return eval_fail(
            e, "%s: factor of the rope parameters is missing, expected a number from 0.001 to 1e+06", file);
    if (r->type == ROPE_LLAMA3 && !(r->low_freq_factor > 0.0 && r->high_freq_factor > r->low_freq_factor))
        return eval_fail(
            e, "%s: low_freq_factor is %g and high_freq_factor %g, expected the first below the second", file,
            r->low_freq_factor, r->high_freq_factor);
    return true;
}

static bool parse_rope(llama_config *c, const char *file, const json_t *root, eval_error *e)
{
    const char *type = "default";
    double partial = 1.0;
    const char *name = "rope_scaling";
    const json_t *rope = field(root, name);
    if (!rope || (json_is_object(rope) && json_object_size(rope) == 0))
        rope = field(root, name = "rope_parameters");
    c->rope = (rope_config){.theta = is_a(c, "smollm3") ? 2000000.0 : 10000.0, .attention_factor = 1.0};
    if (rope && !json_is_object(rope))
        return json_wrong_value(rope, file, name, "expected an object", e);
    const char *key;
    json_t *value;
    json_object_foreach((json_t *)rope, key, value) if (json_is_object(value)) return eval_fail(
        e, "%s: rope parameters of their own for '%.100s': not supported", file, key);
    /* The object's theta takes precedence over the one beside it. */
    if (!json_optional_string(rope, file, "type", &type, e) ||
        !json_optional_string(rope, file, "rope_type", &type, e) ||
        !optional_number(root, file, "rope_theta", 1.0 + 1e-6, 1e15, &c->rope.theta, e) ||
        !optional_number(rope, file, "rope_theta", 1.0 + 1e-6, 1e15, &c->rope.theta, e) ||
        !optional_number(root, file, "partial_rotary_factor", 0.0, 1.0, &partial, e) ||
        !optional_number(rope, file, "partial_rotary_factor", 0.0, 1.0, &partial, e))
        return false;
    if (partial != 1.0)
        return eval_fail(e,
                         "%s: partial_rotary_factor is %g, expected 1: no %s model rotates a part of a head",
                         file, partial, c->architecture);
    return parse_scaling(c, file, root, rope, type, e);
}

/* ---- layers ---- */

/* layer_types, where this class looks at it: which layers slide. *given says whether it is there. */
static bool parse_layer_types(llama_config *c, const char *file, const json_t *root, bool *given,
                              eval_error *e)
{
    const json_t *types = field(root, "layer_types");
    *given = types != NULL;
    if (!types)
        return true;
    if (!json_is_array(types) || json_array_size(types) != c->n_layer)
        return eval_fail(e, "%s: layer_types is not an array of num_hidden_layers = %zu strings", file,
                         c->n_layer);
    for (size_t l = 0; l < c->n_layer; l++) {
        const char *type = json_string_value(json_array_get(types, l));
        c->slides[l] = type && strcmp(type, "sliding_attention") == 0;
        if (!c->slides[l] && !(type && strcmp(type, "full_attention") == 0))
            return eval_fail(e,
                             "%s: layer_types of layer %zu is '%.100s', expected 'full_attention' or "
                             "'sliding_attention'",
                             file, l, type ? type : "?");
    }
    return true;
}

/* smollm3: which layers have RoPE. */
static bool parse_rotating_layers(llama_config *c, const char *file, const json_t *root, eval_error *e)
{
    size_t interval = 4;
    for (size_t l = 0; l < c->n_layer; l++)
        c->rotates[l] = true;
    if (!is_a(c, "smollm3"))
        return true;
    const json_t *list = field(root, "no_rope_layers");
    if (!json_optional_size(root, file, "no_rope_layer_interval", 1, LLAMA_MAX_LAYERS, &interval, e))
        return false;
    if (list && (!json_is_array(list) || json_array_size(list) < c->n_layer))
        return eval_fail(e, "%s: no_rope_layers is not an array of num_hidden_layers = %zu numbers", file,
                         c->n_layer);
    for (size_t l = 0; l < c->n_layer; l++) {
        size_t rotates = (l + 1) % interval != 0;
        if (list && !json_to_size(json_array_get(list, l), 1, &rotates))
            return json_wrong_value(json_array_get(list, l), file, "an element of no_rope_layers",
                                    "expected 0 or 1", e);
        c->rotates[l] = rotates != 0;
    }
    return true;
}

/* Which layers slide, by the rules of each class: llama's has no window; mistral's has one in all layers,
 * 4,096 unless given or null; the others' is switched on by use_sliding_window. */
static bool parse_windows(llama_config *c, const char *file, const json_t *root, eval_error *e)
{
    const bool mistral = is_a(c, "mistral"), smollm3 = is_a(c, "smollm3");
    bool listed, uses = mistral;
    size_t from_layer = 28, window = 4096;
    if (!parse_layer_types(c, file, root, &listed, e) ||
        (!mistral && !json_optional_bool(root, file, "use_sliding_window", &uses, e)) ||
        !json_optional_size(root, file, "max_window_layers", 0, LLAMA_MAX_CONTEXT, &from_layer, e) ||
        !json_optional_size(root, file, "sliding_window", 1, LLAMA_MAX_CONTEXT, &window, e))
        return false;
    const json_t *given = json_object_get(root, "sliding_window");
    if (is_a(c, "llama") || json_is_null(given) || (smollm3 && !given) || (!uses && !(smollm3 && listed)))
        window = 0;
    for (size_t l = 0; l < c->n_layer; l++) {
        const bool by_rule = window > 0 && (mistral || (smollm3 ? !c->rotates[l] : l >= from_layer));
        if (!listed)
            c->slides[l] = by_rule;
        else if (c->slides[l] && window == 0)
            return eval_fail(
                e, "%s: layer_types of layer %zu is 'sliding_attention', but no sliding window is in use",
                file, l);
        else if (mistral && c->slides[l] != by_rule)
            return eval_fail(e,
                             "%s: layer_types of layer %zu is 'full_attention', but sliding_window %zu is "
                             "for all layers of a mistral",
                             file, l, window);
    }
    c->window = window;
    return true;
}

static void forget_windows(llama_config *c)
{
    bool any = false;
    for (size_t l = 0; l < c->n_layer; l++)
        any = any || c->slides[l];
    if (!any || c->window >= c->n_ctx) {
        c->window = 0;
        memset(c->slides, 0, sizeof c->slides);
    }
}

bool llama_config_check(llama_config *c, const char *file, eval_error *e)
{
    if (c->n_head % c->n_kv_head != 0)
        return eval_fail(e, "%s: %zu attention heads are not a multiple of %zu key-value heads", file,
                         c->n_head, c->n_kv_head);
    if (c->head_dim < 2 || c->head_dim > LLAMA_MAX_HEAD_DIM || c->head_dim % 2 != 0)
        return eval_fail(e, "%s: the head dimension is %zu, expected an even number from 2 to %d", file,
                         c->head_dim, LLAMA_MAX_HEAD_DIM);
    if (c->n_head * c->head_dim > LLAMA_MAX_WIDTH)
        return eval_fail(e, "%s: heads * head dimension is %zu, expected at most %u", file,
                         c->n_head * c->head_dim, LLAMA_MAX_WIDTH);
    forget_windows(c);
    return true;
}

bool llama_config_parse(llama_config *c, const char *file, const json_t *root, eval_error *e)
{
    *c = (llama_config){.n_layer = 0};
    return parse_type(c, file, root, e) && check_refused(file, root, e) && parse_sizes(c, file, root, e) &&
           parse_flags(c, file, root, e) && parse_rope(c, file, root, e) &&
           parse_rotating_layers(c, file, root, e) && parse_windows(c, file, root, e) &&
           llama_config_check(c, file, e);
}
