/* The table of published shapes, and dimensions and parameters of models (shapes.h). */
#include "eval/model/shapes.h"

#include "eval/common/input_file.h"
#include "eval/common/json_util.h"
#include "eval/model/gguf.h"
#include "eval/model/gpt2_config.h"
#include "eval/model/llama_config.h"
#include "eval/model/llama_model.h"
#include "eval/model/model.h"

#include <stdio.h>
#include <string.h>
#include <sys/stat.h>

/* From the config.json that each was published with. mistral-7b is v0.3, which has no sliding window; gemma-3
 * is the text model alone, and the config of 4b and larger leaves to its class what is the same for all. */
static const published_shape table[] = {
    {"gpt2", "openai-community/gpt2", "gpt2", 12, 12, 12, 64, 768, 3072, 1024, 50257, 0, 0, 1e-5, true, 0, 0},
    {"gpt2-medium", "openai-community/gpt2-medium", "gpt2", 24, 16, 16, 64, 1024, 4096, 1024, 50257, 0, 0,
     1e-5, true, 0, 0},
    {"gpt2-large", "openai-community/gpt2-large", "gpt2", 36, 20, 20, 64, 1280, 5120, 1024, 50257, 0, 0, 1e-5,
     true, 0, 0},
    {"gpt2-xl", "openai-community/gpt2-xl", "gpt2", 48, 25, 25, 64, 1600, 6400, 1024, 50257, 0, 0, 1e-5, true,
     0, 0},
    {"llama-3.2-1b", "meta-llama/Llama-3.2-1B", "llama", 16, 32, 8, 64, 2048, 8192, 131072, 128256, 5e5, 32,
     1e-5, true, 0, 0},
    {"llama-3.2-3b", "meta-llama/Llama-3.2-3B", "llama", 28, 24, 8, 128, 3072, 8192, 131072, 128256, 5e5, 32,
     1e-5, true, 0, 0},
    {"llama-3.1-8b", "meta-llama/Llama-3.1-8B", "llama", 32, 32, 8, 128, 4096, 14336, 131072, 128256, 5e5, 8,
     1e-5, false, 0, 0},
    {"llama-3.1-70b", "meta-llama/Llama-3.1-70B", "llama", 80, 64, 8, 128, 8192, 28672, 131072, 128256, 5e5,
     8, 1e-5, false, 0, 0},
    {"llama-2-7b", "meta-llama/Llama-2-7b-hf", "llama", 32, 32, 32, 128, 4096, 11008, 4096, 32000, 1e4, 0,
     1e-5, false, 0, 0},
    {"llama-2-13b", "meta-llama/Llama-2-13b-hf", "llama", 40, 40, 40, 128, 5120, 13824, 4096, 32000, 1e4, 0,
     1e-5, false, 0, 0},
    {"llama-2-70b", "meta-llama/Llama-2-70b-hf", "llama", 80, 64, 8, 128, 8192, 28672, 4096, 32000, 1e4, 0,
     1e-5, false, 0, 0},
    {"mistral-7b", "mistralai/Mistral-7B-v0.3", "mistral", 32, 32, 8, 128, 4096, 14336, 32768, 32768, 1e6, 0,
     1e-5, false, 0, 0},
    {"qwen2.5-0.5b", "Qwen/Qwen2.5-0.5B", "qwen2", 24, 14, 2, 64, 896, 4864, 32768, 151936, 1e6, 0, 1e-6,
     true, 0, 0},
    {"qwen2.5-1.5b", "Qwen/Qwen2.5-1.5B", "qwen2", 28, 12, 2, 128, 1536, 8960, 131072, 151936, 1e6, 0, 1e-6,
     true, 0, 0},
    {"qwen2.5-3b", "Qwen/Qwen2.5-3B", "qwen2", 36, 16, 2, 128, 2048, 11008, 32768, 151936, 1e6, 0, 1e-6, true,
     0, 0},
    {"qwen2.5-7b", "Qwen/Qwen2.5-7B", "qwen2", 28, 28, 4, 128, 3584, 18944, 131072, 152064, 1e6, 0, 1e-6,
     false, 0, 0},
    {"qwen2.5-14b", "Qwen/Qwen2.5-14B", "qwen2", 48, 40, 8, 128, 5120, 13824, 131072, 152064, 1e6, 0, 1e-5,
     false, 0, 0},
    {"qwen2.5-32b", "Qwen/Qwen2.5-32B", "qwen2", 64, 40, 8, 128, 5120, 27648, 131072, 152064, 1e6, 0, 1e-5,
     false, 0, 0},
    {"qwen2.5-72b", "Qwen/Qwen2.5-72B", "qwen2", 80, 64, 8, 128, 8192, 29568, 131072, 152064, 1e6, 0, 1e-5,
     false, 0, 0},
    {"qwen3-0.6b", "Qwen/Qwen3-0.6B", "qwen3", 28, 16, 8, 128, 1024, 3072, 40960, 151936, 1e6, 0, 1e-6, true,
     0, 0},
    {"qwen3-1.7b", "Qwen/Qwen3-1.7B", "qwen3", 28, 16, 8, 128, 2048, 6144, 40960, 151936, 1e6, 0, 1e-6, true,
     0, 0},
    {"qwen3-4b", "Qwen/Qwen3-4B", "qwen3", 36, 32, 8, 128, 2560, 9728, 40960, 151936, 1e6, 0, 1e-6, true, 0,
     0},
    {"qwen3-8b", "Qwen/Qwen3-8B", "qwen3", 36, 32, 8, 128, 4096, 12288, 40960, 151936, 1e6, 0, 1e-6, false, 0,
     0},
    {"qwen3-14b", "Qwen/Qwen3-14B", "qwen3", 40, 40, 8, 128, 5120, 17408, 40960, 151936, 1e6, 0, 1e-6, false,
     0, 0},
    {"qwen3-32b", "Qwen/Qwen3-32B", "qwen3", 64, 64, 8, 128, 5120, 25600, 40960, 151936, 1e6, 0, 1e-6, false,
     0, 0},
    {"gemma-3-1b", "google/gemma-3-1b-pt", "gemma3_text", 26, 4, 1, 256, 1152, 6912, 32768, 262144, 1e6, 0,
     1e-6, true, 512, 6},
    {"gemma-3-4b", "google/gemma-3-4b-pt", "gemma3_text", 34, 8, 4, 256, 2560, 10240, 131072, 262208, 1e6, 0,
     1e-6, true, 1024, 6},
    {"gemma-3-12b", "google/gemma-3-12b-pt", "gemma3_text", 48, 16, 8, 256, 3840, 15360, 131072, 262208, 1e6,
     0, 1e-6, true, 1024, 6},
    {"gemma-3-27b", "google/gemma-3-27b-pt", "gemma3_text", 62, 32, 16, 128, 5376, 21504, 131072, 262208, 1e6,
     0, 1e-6, true, 1024, 6},
    {"smollm2-135m", "HuggingFaceTB/SmolLM2-135M", "llama", 30, 9, 3, 64, 576, 1536, 8192, 49152, 1e5, 0,
     1e-5, true, 0, 0},
    {"smollm2-360m", "HuggingFaceTB/SmolLM2-360M", "llama", 32, 15, 5, 64, 960, 2560, 8192, 49152, 1e5, 0,
     1e-5, true, 0, 0},
    {"smollm2-1.7b", "HuggingFaceTB/SmolLM2-1.7B", "llama", 24, 32, 32, 64, 2048, 8192, 8192, 49152, 1.3e5, 0,
     1e-5, true, 0, 0},
    {"smollm3-3b", "HuggingFaceTB/SmolLM3-3B", "smollm3", 36, 16, 4, 128, 2048, 11008, 65536, 128256, 5e6, 0,
     1e-6, true, 0, 0},
    {"tinyllama-1.1b", "TinyLlama/TinyLlama-1.1B-Chat-v1.0", "llama", 22, 32, 4, 64, 2048, 5632, 2048, 32000,
     1e4, 0, 1e-5, false, 0, 0},
};

const published_shape *shapes_at(size_t i)
{
    return i < sizeof table / sizeof table[0] ? &table[i] : NULL;
}

const published_shape *shapes_find(const char *name)
{
    for (size_t i = 0; shapes_at(i); i++)
        if (strcmp(table[i].name, name) == 0)
            return &table[i];
    return NULL;
}

bool shapes_is_llama(const published_shape *s)
{
    return llama_handles(s->architecture);
}

void shapes_names(char *text, size_t size, bool llamas_only)
{
    size_t used = 0;
    text[0] = '\0';
    for (size_t i = 0; shapes_at(i) && used < size; i++)
        if (!llamas_only || shapes_is_llama(&table[i]))
            used += (size_t)snprintf(text + used, size - used, "%s%s", used > 0 ? ", " : "", table[i].name);
}

/* ---- dimensions ---- */

static bool is_a(const model_dims *d, const char *architecture)
{
    return strcmp(d->architecture, architecture) == 0;
}

static void from_published(model_dims *d, const published_shape *s)
{
    *d = (model_dims){.n_layer = s->n_layer,
                      .n_head = s->n_head,
                      .n_kv_head = s->n_kv_head,
                      .head_dim = s->head_dim,
                      .n_embd = s->n_embd,
                      .n_inner = s->n_inner,
                      .n_ctx = s->n_ctx,
                      .vocab_size = s->vocab_size,
                      .tied_head = s->tied_head,
                      .window = s->window};
    snprintf(d->name, sizeof d->name, "%s", s->name);
    snprintf(d->source, sizeof d->source, "config.json of %s", s->source);
    snprintf(d->architecture, sizeof d->architecture, "%s", s->architecture);
    d->n_windowed = s->window > 0 ? s->n_layer - s->n_layer / s->full_every : 0;
    d->qkv_bias = is_a(d, "gpt2") || is_a(d, "qwen2");
    d->out_bias = d->mlp_bias = is_a(d, "gpt2");
    d->qk_norm = is_a(d, "qwen3") || is_a(d, "gemma3_text");
}

static void from_gpt2(model_dims *d, const gpt2_config *c)
{
    d->n_layer = c->n_layer;
    d->n_head = d->n_kv_head = c->n_head;
    d->head_dim = c->head_dim;
    d->n_embd = c->n_embd;
    d->n_inner = c->n_inner;
    d->n_ctx = c->n_ctx;
    d->vocab_size = c->vocab_size;
    d->tied_head = c->tied_head;
    d->qkv_bias = d->out_bias = d->mlp_bias = true;
    snprintf(d->architecture, sizeof d->architecture, "gpt2");
}

static void from_llama(model_dims *d, const llama_config *c)
{
    d->n_layer = c->n_layer;
    d->n_head = c->n_head;
    d->n_kv_head = c->n_kv_head;
    d->head_dim = c->head_dim;
    d->n_embd = c->n_embd;
    d->n_inner = c->n_inner;
    d->n_ctx = c->n_ctx;
    d->vocab_size = c->vocab_size;
    d->tied_head = c->tied_head;
    d->qkv_bias = c->qkv_bias;
    d->out_bias = c->out_bias;
    d->mlp_bias = c->mlp_bias;
    d->qk_norm = c->qk_norm;
    d->window = c->window;
    for (size_t l = 0; l < c->n_layer; l++)
        d->n_windowed += c->window > 0 && c->slides[l];
    memcpy(d->architecture, c->architecture, sizeof d->architecture);
}

static bool from_json(model_dims *d, const char *dir, const json_t *root, const char *file, eval_error *e)
{
    const char *type = "gpt2"; /* the oldest files do not say */
    if (!json_optional_string(root, file, "model_type", &type, e))
        return false;
    if (strcmp(type, "gpt2") == 0) {
        gpt2_config c;
        if (!gpt2_config_load(&c, dir, e))
            return false;
        from_gpt2(d, &c);
        return true;
    }
    if (!llama_handles(type))
        return eval_fail(e, "%s: model_type is '%.100s', which is not supported; expected gpt2, %s", file,
                         type, llama_handled());
    llama_config c;
    if (!llama_config_parse(&c, file, root, e))
        return false;
    from_llama(d, &c);
    return true;
}

static bool from_directory(model_dims *d, const char *dir, eval_error *e)
{
    input_file file;
    if (!input_file_read(&file, dir, "config.json", e))
        return false;
    json_t *root = json_parse_object(file.path, file.data, file.size, 0, e);
    const bool good = root && from_json(d, dir, root, file.path, e);
    json_decref(root);
    input_file_free(&file);
    return good;
}

static bool from_open_gguf(model_dims *d, const gguf *g, eval_error *e)
{
    const char *type = NULL;
    if (!gguf_optional_string(g, "general.architecture", &type, e))
        return false;
    if (type && strcmp(type, "gpt2") == 0) {
        gpt2_config c;
        if (!gpt2_config_gguf(&c, g, e))
            return false;
        from_gpt2(d, &c);
        return true;
    }
    if (!type || !llama_handles(type))
        return eval_fail(e, "%s: general.architecture is %.100s, expected gpt2, %s", gguf_path(g),
                         type ? type : "missing", llama_handled());
    llama_config c;
    if (!llama_config_gguf(&c, g, e))
        return false;
    from_llama(d, &c);
    return true;
}

static bool from_disk(model_dims *d, const char *path, eval_error *e)
{
    memset(d, 0, sizeof *d);
    const char *last = strrchr(path, '/');
    snprintf(d->name, sizeof d->name, "%s", last && last[1] != '\0' ? last + 1 : path);
    if (!model_is_gguf(path)) {
        snprintf(d->source, sizeof d->source, "its config.json");
        return from_directory(d, path, e);
    }
    snprintf(d->source, sizeof d->source, "its metadata");
    gguf *g = NULL;
    if (!gguf_open(&g, path, e))
        return false;
    const bool good = from_open_gguf(d, g, e);
    gguf_close(g);
    return good;
}

static bool from_random(model_dims *d, const char *spec, eval_error *e)
{
    llama_config l;
    gpt2_config g;
    bool known = false;
    memset(d, 0, sizeof *d);
    if (!llama_config_random(&l, strchr(spec, ':') + 1, &known, e))
        return false;
    if (!known && !gpt2_config_random(&g, spec, e))
        return false;
    if (known)
        from_llama(d, &l);
    else
        from_gpt2(d, &g);
    snprintf(d->name, sizeof d->name, "%.255s", spec);
    snprintf(d->source, sizeof d->source, "the numbers given");
    return true;
}

bool model_dims_find(model_dims *d, const char *name, eval_error *e)
{
    const bool random = model_is_random(name);
    const published_shape *s = shapes_find(random ? strchr(name, ':') + 1 : name);
    struct stat info;
    if (s) {
        from_published(d, s);
        return true;
    }
    if (random)
        return from_random(d, name, e);
    if (stat(name, &info) == 0 || strchr(name, '/') || model_is_gguf(name))
        return from_disk(d, name, e);
    char names[800];
    shapes_names(names, sizeof names, false);
    return eval_fail(e, "model '%.100s': no file or directory, and none of %s", name, names);
}

/* ---- parameters ---- */

void model_count_params(const model_dims *d, model_params *p)
{
    const uint64_t L = d->n_layer, E = d->n_embd, F = d->n_inner, A = (uint64_t)d->n_head * d->head_dim,
                   C = (uint64_t)d->n_kv_head * d->head_dim, V = d->vocab_size;
    const bool gpt2 = is_a(d, "gpt2"), gemma = is_a(d, "gemma3_text");
    const uint64_t mlp = gpt2 ? 2 * E * F : 3 * E * F;           /* GPT-2 has no gate */
    const uint64_t norms = gpt2 ? 4 * E : gemma ? 4 * E : 2 * E; /* GPT-2's two have biases; Gemma has four */
    const uint64_t layer_vectors = norms + (d->qkv_bias ? A + 2 * C : 0) + (d->out_bias ? E : 0) +
                                   (d->mlp_bias ? (gpt2 ? F : 2 * F) + E : 0) +
                                   (d->qk_norm ? 2 * (uint64_t)d->head_dim : 0);
    *p = (model_params){.layers = L * (2 * E * A + 2 * E * C + mlp),
                        .embedding = V * E,
                        .positions = gpt2 ? (uint64_t)d->n_ctx * E : 0,
                        .head = V * E,
                        .vectors = L * layer_vectors + (gpt2 ? 2 * E : E)};
    p->total = p->layers + p->embedding + p->positions + (d->tied_head ? 0 : p->head) + p->vectors;
}
