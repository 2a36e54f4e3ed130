/* Recorded caches as safetensors or .npy files (record.h). */
#define _POSIX_C_SOURCE 200809L

#include "eval/model/record.h"

#include "eval/model/npy.h"

#include <errno.h>
#include <jansson.h>
#include <math.h>
#include <stdlib.h>
#include <string.h>

enum { CHUNK = 4096 };

/* What is written of each layer and window. */
typedef enum part { PART_Q, PART_K, PART_V, N_PARTS } part;
static const char *const part_names[N_PARTS] = {"q", "k", "v"};

typedef struct writer {
    FILE *f;
    const char *name;
    const record_config *c;
    size_t L, B, T, D;
    size_t heads[N_PARTS];
    off_t data_start;
    float *x, *scratch, *attn, *parts[N_PARTS];
} writer;

static size_t element_bytes(const record_config *c)
{
    return tensor_type_of(c->type)->block_bytes;
}

/* ---- numbers ---- */

/* To the nearest half, ties to even; false if it is too large. Below 2^-14 halves are multiples of 2^-24,
 * which is the spacing of floats from 0.5 to 1: adding 0.5 rounds to them. */
static bool to_f16(float x, uint16_t *out)
{
    uint32_t bits;
    memcpy(&bits, &x, sizeof bits);
    const uint16_t sign = (uint16_t)(bits >> 16 & 0x8000u);
    bits &= 0x7fffffffu;
    if (bits < 0x38800000u) {
        const float half = 0.5f, sum = fabsf(x) + half;
        uint32_t base;
        memcpy(&bits, &sum, sizeof bits);
        memcpy(&base, &half, sizeof base);
        bits -= base;
    } else {
        bits = (bits + 0xfffu + (bits >> 13 & 1u) - (112u << 23)) >> 13;
    }
    *out = (uint16_t)(bits | sign);
    return bits < 0x7c00u;
}

static bool to_bf16(float x, uint16_t *out)
{
    uint32_t bits;
    memcpy(&bits, &x, sizeof bits);
    *out = (uint16_t)((bits + 0x7fffu + (bits >> 16 & 1u)) >> 16);
    return (*out & 0x7f80u) != 0x7f80u;
}

/* n floats in the file's type, n <= CHUNK. */
static bool write_numbers(const writer *w, const float *x, size_t n)
{
    uint16_t halves[CHUNK];
    if (w->c->type == TENSOR_F32) {
        (void)fwrite(x, sizeof *x, n, w->f);
        return true;
    }
    bool good = true;
    for (size_t i = 0; i < n; i++)
        good = (w->c->type == TENSOR_F16 ? to_f16(x[i], &halves[i]) : to_bf16(x[i], &halves[i])) && good;
    (void)fwrite(halves, sizeof halves[0], n, w->f);
    return good;
}

/* ---- the file ---- */

static size_t part_elements(const writer *w, part p)
{
    return w->L * w->B * w->heads[p] * w->T * w->D;
}

/* Where [heads][T][D] of one layer and window begin, in elements. */
static size_t place(const writer *w, part p, size_t layer, size_t window)
{
    const size_t block = w->heads[p] * w->T * w->D;
    if (w->c->npy)
        return ((layer * 2 + (p == PART_V ? 1 : 0)) * w->B + window) * block;
    size_t at = (layer * w->B + window) * block;
    for (part before = PART_Q; before < p; before++)
        at += part_elements(w, before);
    return at;
}

static bool fail_write(const writer *w, eval_error *e)
{
    return eval_fail(e, "%s: cannot write: %s", w->name, strerror(errno));
}

static void put_windows(json_t *metadata, const model *m)
{
    const size_t n = m->shape.n_layer, size = n * 24 + 1;
    bool any = false;
    char *text = malloc(size);
    size_t used = 0;
    for (size_t layer = 0; text && layer < n; layer++) {
        const size_t window = model_attn_window(m, layer);
        any = any || window != 0;
        used += (size_t)snprintf(text + used, size - used, "%s%zu", layer > 0 ? "," : "", window);
    }
    if (text && any)
        json_object_set_new(metadata, "windows", json_string(text));
    free(text);
}

static json_t *safetensors_header(const writer *w)
{
    const record_config *c = w->c;
    char scale[40];
    snprintf(scale, sizeof scale, "%.9g", (double)model_attn_scale(c->model, 0));
    json_t *root = json_object(), *metadata = json_object();
    json_object_set_new(metadata, "scale", json_string(scale));
    json_object_set_new(metadata, "model", json_string(c->model_name));
    json_object_set_new(metadata, "text", json_string(c->text_name));
    put_windows(metadata, c->model);
    json_object_set_new(root, "__metadata__", metadata);
    size_t at = 0;
    for (part p = PART_Q; p < N_PARTS; p++) {
        const size_t n_bytes = part_elements(w, p) * element_bytes(c);
        const size_t shape[5] = {w->L, w->B, w->heads[p], w->T, w->D};
        json_t *entry = json_object(), *dimensions = json_array(), *offsets = json_array();
        for (size_t i = 0; i < 5; i++)
            json_array_append_new(dimensions, json_integer((json_int_t)shape[i]));
        json_array_append_new(offsets, json_integer((json_int_t)at));
        const size_t end = at + n_bytes;
        json_array_append_new(offsets, json_integer((json_int_t)end));
        json_object_set_new(entry, "dtype", json_string(tensor_type_of(c->type)->name));
        json_object_set_new(entry, "shape", dimensions);
        json_object_set_new(entry, "data_offsets", offsets);
        json_object_set_new(root, part_names[p], entry);
        at = end;
    }
    return root;
}

/* The header's length, and the header with spaces at its end up to a multiple of 8 bytes. */
static bool write_safetensors_header(const writer *w, eval_error *e)
{
    json_t *root = safetensors_header(w);
    char *text = json_dumps(root, JSON_COMPACT);
    json_decref(root);
    if (!text)
        return eval_fail(e, "%s: out of memory", w->name);
    const size_t used = strlen(text), length = (used + 7) / 8 * 8;
    for (unsigned i = 0; i < 8; i++)
        fputc((int)((uint64_t)length >> 8 * i & 0xff), w->f);
    fprintf(w->f, "%-*s", (int)length, text);
    free(text);
    return true;
}

static bool write_header(writer *w, eval_error *e)
{
    const size_t shape[6] = {w->L, 2, w->B, w->heads[PART_K], w->T, w->D};
    if (w->c->npy)
        npy_write_header(w->f, w->c->type, shape, 6);
    else if (!write_safetensors_header(w, e))
        return false;
    w->data_start = ftello(w->f);
    return (w->data_start > 0 && !ferror(w->f)) || fail_write(w, e);
}

/* From [T][heads][D] to the file's [heads][T][D]. */
static bool write_part(const writer *w, part p, size_t layer, size_t window, eval_error *e)
{
    const float *x = w->parts[p];
    const size_t row = w->heads[p] * w->D, per_chunk = w->D > 0 ? CHUNK / w->D : 1;
    float chunk[CHUNK];
    if (fseeko(w->f, w->data_start + (off_t)(place(w, p, layer, window) * element_bytes(w->c)), SEEK_SET) !=
        0)
        return fail_write(w, e);
    for (size_t head = 0; head < w->heads[p]; head++) {
        for (size_t t = 0; t < w->T; t += per_chunk) {
            const size_t n = w->T - t < per_chunk ? w->T - t : per_chunk;
            for (size_t i = 0; i < n; i++)
                memcpy(chunk + i * w->D, x + (t + i) * row + head * w->D, w->D * sizeof *x);
            bool finite = true;
            for (size_t i = 0; i < n * w->D; i++)
                finite = finite && isfinite(chunk[i]);
            if (!finite || !write_numbers(w, chunk, n * w->D))
                return eval_fail(e, "%s: window %zu, layer %zu, head %zu of %s: a number %s", w->name, window,
                                 layer, head, part_names[p],
                                 finite ? "is too large for the type; take --dtype bf16 or f32"
                                        : "is not finite (NaN or Inf)");
        }
    }
    return !ferror(w->f) || fail_write(w, e);
}

/* ---- the run ---- */

static bool allocate(writer *w, eval_error *e)
{
    const model *m = w->c->model;
    const size_t Q = w->heads[PART_Q] * w->D;
    bool good = true;
    for (part p = PART_Q; p < N_PARTS; p++) {
        w->parts[p] = calloc(w->T, w->heads[p] * w->D * sizeof(float));
        good = good && w->parts[p];
    }
    w->x = calloc(w->T, m->shape.n_embd * sizeof(float));
    w->attn = calloc(w->T, Q * sizeof(float));
    w->scratch = calloc(model_scratch_floats(m, w->T), sizeof(float));
    return (good && w->x && w->attn && w->scratch) ||
           eval_fail(e, "out of memory for windows of %zu tokens", w->T);
}

static bool run_layer(const writer *w, size_t layer, size_t window, eval_error *e)
{
    const model *m = w->c->model;
    float *q = w->parts[PART_Q], *k = w->parts[PART_K], *v = w->parts[PART_V];
    model_layer_qkv(m, layer, w->x, 0, w->T, w->scratch, q, k, v);
    for (part p = w->c->npy ? PART_K : PART_Q; p < N_PARTS; p++)
        if (!write_part(w, p, layer, window, e))
            return false;
    if (layer + 1 < w->L) {
        model_attention_causal(m, layer, q, k, v, w->T, w->attn);
        model_layer_finish(m, layer, w->x, w->attn, w->T, w->scratch);
    }
    if (w->c->progress)
        w->c->progress(w->c->progress_ctx,
                       (double)(window * w->L + layer + 1) / (double)(w->c->n_windows * w->L));
    return true;
}

static bool check_scales(const writer *w, eval_error *e)
{
    const float first = model_attn_scale(w->c->model, 0);
    for (size_t layer = 1; layer < w->L; layer++)
        if (model_attn_scale(w->c->model, layer) != first)
            return eval_fail(
                e,
                "%s: attention's factor on q.k is %g in layer %zu and %g in layer 0: a recording has "
                "one for all layers",
                w->c->model_name, (double)model_attn_scale(w->c->model, layer), layer, (double)first);
    return true;
}

static writer make_writer(FILE *f, const char *name, const record_config *c)
{
    const model_shape *s = &c->model->shape;
    return (writer){.f = f,
                    .name = name,
                    .c = c,
                    .L = s->n_layer,
                    .B = c->n_windows,
                    .T = c->n_tokens,
                    .D = s->head_dim,
                    .heads = {s->n_head, s->n_kv_head, s->n_kv_head}};
}

bool record_write(FILE *f, const char *name, const record_config *c, eval_error *e)
{
    writer w = make_writer(f, name, c);
    if (w.D == 0 || w.D > CHUNK)
        return eval_fail(e, "%s: head_dim is %zu, expected 1 to %d to record it", c->model_name, w.D, CHUNK);
    bool good = (c->npy || check_scales(&w, e)) && allocate(&w, e) && write_header(&w, e);
    for (size_t window = 0; good && window < w.B; window++) {
        model_embed(c->model, c->ids + window * w.T, 0, w.T, w.x);
        for (size_t layer = 0; good && layer < w.L; layer++)
            good = run_layer(&w, layer, window, e);
    }
    for (part p = PART_Q; p < N_PARTS; p++)
        free(w.parts[p]);
    free(w.x);
    free(w.attn);
    free(w.scratch);
    return good;
}

uint64_t record_bytes(const record_config *c)
{
    const writer w = make_writer(NULL, NULL, c);
    uint64_t n = 0;
    for (part p = c->npy ? PART_K : PART_Q; p < N_PARTS; p++)
        n += part_elements(&w, p);
    return n * element_bytes(c);
}
