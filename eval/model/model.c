/* Which kind of model a path or description names, and the calls of model.h. */
#define _POSIX_C_SOURCE 200809L

#include "eval/model/model.h"

#include "eval/common/input_file.h"
#include "eval/common/json_util.h"
#include "eval/model/attention.h"
#include "eval/model/gguf.h"
#include "eval/model/gpt2.h"
#include "eval/model/llama_model.h"
#include "eval/model/shapes.h"

#include <assert.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>

static const char random_prefix[] = "random:";

/* ---- loading ---- */

bool model_is_gguf(const char *path)
{
    struct stat info;
    if (model_is_random(path))
        return false;
    if (stat(path, &info) != 0)
        return input_file_has_suffix(path, ".gguf");
    return !S_ISDIR(info.st_mode);
}

bool model_is_random(const char *spec)
{
    return strncmp(spec, random_prefix, sizeof random_prefix - 1) == 0;
}

static bool load_kind(model *m, const char *dir, const json_t *config, const char *config_path, eval_error *e)
{
    const char *type = "gpt2"; /* the oldest files do not say */
    if (!json_optional_string(config, config_path, "model_type", &type, e))
        return false;
    if (!json_object_get(config, "model_type") && !json_object_get(config, "n_embd"))
        return eval_fail(e, "%s: model_type is missing, expected gpt2, %s", config_path, llama_handled());
    if (strcmp(type, "gpt2") == 0)
        return gpt2_load_directory(m, dir, e);
    if (llama_handles(type))
        return llama_load_directory(m, dir, config, config_path, e);
    return eval_fail(e, "%s: model_type is '%.100s', which is not supported; expected gpt2, %s", config_path,
                     type, llama_handled());
}

static bool load_directory(model *m, const char *dir, eval_error *e)
{
    input_file file;
    if (!input_file_read(&file, dir, "config.json", e))
        return false;
    json_t *config = json_parse_object(file.path, file.data, file.size, 0, e);
    const bool good = config && load_kind(m, dir, config, file.path, e);
    json_decref(config);
    input_file_free(&file);
    return good;
}

static bool load_gguf(model *m, const char *path, eval_error *e)
{
    gguf *g = NULL;
    const char *type = NULL;
    if (!gguf_open(&g, path, e))
        return false;
    bool good = gguf_optional_string(g, "general.architecture", &type, e);
    if (good && !type)
        good = eval_fail(e, "%s: general.architecture is missing", path);
    else if (good && strcmp(type, "gpt2") == 0)
        good = gpt2_load_gguf(m, g, e);
    else if (good && llama_handles(type))
        good = llama_load_gguf(m, g, e);
    else if (good)
        good = eval_fail(e, "%s: general.architecture is '%.100s', which is not supported; expected gpt2, %s",
                         path, type, llama_handled());
    gguf_close(g);
    return good;
}

static bool load_into(model *m, const char *path, eval_error *e)
{
    return model_is_gguf(path) ? load_gguf(m, path, e) : load_directory(m, path, e);
}

static bool hand_over(model **out, model *m, bool good)
{
    if (good)
        *out = m;
    else
        model_free(m);
    return good;
}

bool model_load(model **out, const char *path, eval_error *e)
{
    model *m = calloc(1, sizeof *m);
    if (!m)
        return eval_fail(e, "%s: out of memory", path);
    return hand_over(out, m, load_into(m, path, e));
}

static bool random_into(model *m, const char *spec, uint64_t seed, eval_error *e)
{
    const char *shape = spec + strlen(random_prefix);
    bool known = false;
    if (!model_is_random(spec))
        return eval_fail(e, "model '%.200s': expected random: and a shape", spec);
    if (!llama_random(m, shape, seed, &known, e))
        return false;
    const bool is_gpt2 = strncmp(shape, "gpt2", 4) == 0 || (shape[0] >= '0' && shape[0] <= '9');
    if (!known && !is_gpt2) {
        char names[640];
        shapes_names(names, sizeof names, true);
        return eval_fail(
            e,
            "model '%.200s': expected random: and one of gpt2, gpt2-medium, gpt2-large, gpt2-xl, %s; or "
            "L,H,D,ctx,vocab for a GPT-2, or L,H,Hkv,D,ctx,vocab for a Llama",
            spec, names);
    }
    return known || gpt2_make_random(m, spec, seed, e);
}

bool model_random(model **out, const char *spec, uint64_t seed, eval_error *e)
{
    model *m = calloc(1, sizeof *m);
    if (!m)
        return eval_fail(e, "model '%.200s': out of memory", spec);
    return hand_over(out, m, random_into(m, spec, seed, e));
}

void model_free(model *m)
{
    if (m && m->kind)
        m->kind->free(m);
    free(m);
}

/* ---- calls ---- */

uint64_t model_checksum(const model *m)
{
    return m->kind->checksum(m);
}

size_t model_scratch_floats(const model *m, size_t n)
{
    return m->kind->scratch_floats(m, n);
}

void model_embed(const model *m, const int32_t *ids, size_t pos0, size_t n, float *x)
{
    assert(pos0 <= m->shape.n_ctx && n <= m->shape.n_ctx - pos0);
    for (size_t t = 0; t < n; t++)
        assert(ids[t] >= 0 && (size_t)ids[t] < m->shape.vocab_size);
    m->kind->embed(m, ids, pos0, n, x);
}

void model_layer_qkv(const model *m, size_t layer, const float *x, size_t pos0, size_t n, float *scratch,
                     float *q, float *k, float *v)
{
    m->kind->layer_qkv(m, layer, x, pos0, n, scratch, q, k, v);
}

void model_layer_finish(const model *m, size_t layer, float *x, const float *attn, size_t n, float *scratch)
{
    m->kind->layer_finish(m, layer, x, attn, n, scratch);
}

void model_logits(const model *m, const float *x, size_t n, float *scratch, float *logits)
{
    m->kind->logits(m, x, n, scratch, logits);
}

float model_attn_scale(const model *m, size_t layer)
{
    return m->kind->attn_scale(m, layer);
}

size_t model_attn_window(const model *m, size_t layer)
{
    return m->kind->attn_window ? m->kind->attn_window(m, layer) : 0;
}

void model_attention_causal(const model *m, size_t layer, const float *q, const float *k, const float *v,
                            size_t n, float *attn)
{
    const attention_shape shape = {.H = m->shape.n_head,
                                   .Hkv = m->shape.n_kv_head,
                                   .D = m->shape.head_dim,
                                   .scale = model_attn_scale(m, layer),
                                   .window = model_attn_window(m, layer)};
    attention_causal(&shape, q, k, v, n, attn);
}
