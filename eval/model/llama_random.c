/* Llama-type models with random weights: published shapes and shapes in numbers. */
#define _POSIX_C_SOURCE 200809L

#include "eval/model/llama_model.h"
#include "eval/model/llama_weights.h"
#include "eval/model/random_normal.h"
#include "eval/model/shapes.h"

#include <math.h>
#include <stdio.h>
#include <string.h>
#include <unistd.h>

/* ---- shapes ---- */

static void set_published(llama_config *c, const published_shape *p)
{
    *c = (llama_config){.n_layer = p->n_layer,
                        .n_head = p->n_head,
                        .n_kv_head = p->n_kv_head,
                        .head_dim = p->head_dim,
                        .n_embd = p->n_embd,
                        .n_inner = p->n_inner,
                        .n_ctx = p->n_ctx,
                        .vocab_size = p->vocab_size,
                        .norm_epsilon = (float)p->epsilon,
                        .tied_head = p->tied_head,
                        .qkv_bias = strcmp(p->architecture, "qwen2") == 0,
                        .qk_norm = strcmp(p->architecture, "qwen3") == 0,
                        .rope = {.theta = p->theta, .attention_factor = 1.0}};
    snprintf(c->architecture, sizeof c->architecture, "%s", p->architecture);
    if (p->scaling > 0.0) {
        c->rope.type = ROPE_LLAMA3;
        c->rope.factor = p->scaling;
        c->rope.low_freq_factor = 1.0;
        c->rope.high_freq_factor = 4.0;
        c->rope.original_ctx = 8192.0;
    }
    for (size_t l = 0; l < c->n_layer; l++)
        c->rotates[l] = strcmp(p->architecture, "smollm3") != 0 || (l + 1) % 4 != 0;
}

/* Reads decimal numbers with commas between, up to `most` of them; how many there are, or 0 if it is
 * something else. Numbers beyond `limit` become limit + 1. */
static size_t parse_numbers(const char *text, size_t limit, size_t *numbers, size_t most)
{
    for (size_t n = 0; n < most; text++) {
        size_t number = 0;
        if (*text < '0' || *text > '9')
            return 0;
        for (; *text >= '0' && *text <= '9'; text++)
            number = number > limit ? number : number * 10 + (size_t)(*text - '0');
        numbers[n++] = number > limit ? limit + 1 : number;
        if (*text == '\0')
            return n;
        if (*text != ',')
            return 0;
    }
    return 0;
}

static bool set_numbers(llama_config *c, const char *shape, const size_t numbers[6], eval_error *e)
{
    static const struct {
        const char *name;
        size_t max;
    } limits[6] = {{"L", LLAMA_MAX_LAYERS},   {"H", LLAMA_MAX_HEADS},     {"Hkv", LLAMA_MAX_HEADS},
                   {"D", LLAMA_MAX_HEAD_DIM}, {"ctx", LLAMA_MAX_CONTEXT}, {"vocab", LLAMA_MAX_VOCAB}};
    for (size_t i = 0; i < 6; i++)
        if (numbers[i] < 1 || numbers[i] > limits[i].max)
            return eval_fail(e, "model 'random:%.200s': %s is not an integer from 1 to %zu", shape,
                             limits[i].name, limits[i].max);
    *c = (llama_config){.architecture = "llama",
                        .n_layer = numbers[0],
                        .n_head = numbers[1],
                        .n_kv_head = numbers[2],
                        .head_dim = numbers[3],
                        .n_embd = numbers[1] * numbers[3],
                        .n_ctx = numbers[4],
                        .vocab_size = numbers[5],
                        .norm_epsilon = 1e-5f,
                        .tied_head = true,
                        .rope = {.theta = 10000.0, .attention_factor = 1.0}};
    c->n_inner = (c->n_embd * 8 / 3 + 31) / 32 * 32;
    for (size_t l = 0; l < c->n_layer; l++)
        c->rotates[l] = true;
    char file[256];
    snprintf(file, sizeof file, "model 'random:%.200s'", shape);
    return llama_config_check(c, file, e);
}

bool llama_config_random(llama_config *c, const char *shape, bool *known, eval_error *e)
{
    size_t numbers[6];
    *known = false;
    const published_shape *p = shapes_find(shape);
    if (p && shapes_is_llama(p)) {
        set_published(c, p);
        *known = true;
        return true;
    }
    if (parse_numbers(shape, LLAMA_MAX_CONTEXT, numbers, 6) != 6)
        return true;
    *known = true;
    return set_numbers(c, shape, numbers, e);
}

/* ---- weights ---- */

static uint16_t to_bf16(float x)
{
    uint32_t bits;
    memcpy(&bits, &x, sizeof bits);
    return (uint16_t)((bits + 0x7fff + (bits >> 16 & 1)) >> 16); /* to nearest, ties to even */
}

/* Norms are 1, biases 0; matrices normal with standard deviation 0.02, those that write into the residual
 * stream less by sqrt(2 L), as GPT-2 was initialized. */
static void fill_weight(const llama_model *l, const llama_weight *w, uint64_t stream)
{
    const bool into_residual = strstr(w->name, "o_proj") || strstr(w->name, "down_proj");
    const float std = into_residual ? 0.02f / sqrtf(2.0f * (float)l->config.n_layer) : 0.02f;
    if (w->n_dims == 1) {
        float *vector = (float *)(void *)w->data;
        for (size_t i = 0; i < w->n_elems; i++)
            vector[i] = strstr(w->name, "norm") ? 1.0f : 0.0f;
        return;
    }
    uint16_t *matrix_data = (uint16_t *)(void *)w->data;
#pragma omp parallel for schedule(static) if (w->n_elems > 65536)
    for (size_t i = 0; i < w->n_elems; i++)
        matrix_data[i] = to_bf16(std / RANDOM_NORMAL_STD * random_normal(stream, i));
}

/* Linux grants memory that is not there, and ends the process that uses it. */
static bool check_memory(const llama_model *l, const char *shape, eval_error *e)
{
    const long page = sysconf(_SC_PAGESIZE);
    const double there = (double)sysconf(_SC_PHYS_PAGES) * (double)page;
    double needed = 0.0;
    for (size_t i = 0; i < l->n_weights; i++)
        needed += (double)matrix_row_bytes(l->weights[i].type, l->weights[i].n_elems);
    if (there > 0.0 && needed > there)
        return eval_fail(
            e, "model 'random:%.200s': its weights take %.1f GB, but this machine has %.1f GB of memory",
            shape, needed / 1e9, there / 1e9);
    return true;
}

bool llama_random(model *m, const char *shape, uint64_t seed, bool *known, eval_error *e)
{
    llama_config c;
    if (!llama_config_random(&c, shape, known, e))
        return false;
    if (!*known)
        return true;
    llama_model *l = llama_weights_list(&c);
    if (!l)
        return eval_fail(e, "model 'random:%.200s': out of memory", shape);
    for (size_t i = 0; i < l->n_weights; i++)
        if (l->weights[i].n_dims == 2)
            l->weights[i].type = TENSOR_BF16;
    if (!check_memory(l, shape, e)) {
        llama_weights_free(l);
        return false;
    }
    if (!llama_weights_allocate(l)) {
        (void)eval_fail(e, "model 'random:%.200s': out of memory for %llu weights", shape,
                        (unsigned long long)l->n_params);
        llama_weights_free(l);
        return false;
    }
    for (size_t i = 0; i < l->n_weights; i++)
        fill_weight(l, &l->weights[i], splitmix64(splitmix64(seed, 0) + i, 0));
    llama_weights_describe(l, m);
    m->random = true;
    return true;
}
