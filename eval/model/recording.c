/* Recorded caches from safetensors and .npy files (recording.h). */
#define _POSIX_C_SOURCE 200809L

#include "eval/model/recording.h"

#include "eval/common/checksum.h"
#include "eval/common/input_file.h"
#include "eval/model/npy.h"
#include "eval/model/safetensors.h"
#include "eval/model/tokenizer.h"

#include <assert.h>
#include <errno.h>
#include <math.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#define XXH_INLINE_ALL
#include <xxhash.h>

enum { MAX_NAME = 256, CHUNK = 4096 };

/* Queries, keys or values inside a tensor: rows [T][D] of each layer, sequence and head. Strides count
 * elements. */
typedef struct part {
    const tensor *t; /* NULL: not recorded */
    size_t first, layer_stride, sequence_stride, head_stride;
    size_t n_heads;
} part;

struct recording {
    char path[4096];
    safetensors *st;
    npy *arrays[3]; /* q, k, v; or one in [1] */
    part q, k, v;
    model_shape shape;
    size_t n_sequences;
    float scale;
    bool scale_given;
    size_t *windows; /* [L]; NULL: all are 0 */
    char model[MAX_NAME], text[MAX_NAME];
};

/* ---- shapes ---- */

static void shape_text(char *s, size_t size, const tensor *t)
{
    size_t used = 0;
    s[0] = '\0';
    for (size_t i = 0; i < t->n_dims && used < size; i++)
        used += (size_t)snprintf(s + used, size - used, "[%zu]", t->shape[i]);
}

static bool fail_shape(const recording *r, const tensor *t, const char *wanted, eval_error *e)
{
    char shape[256];
    shape_text(shape, sizeof shape, t);
    return eval_fail(e, "%s: tensor '%.200s': shape is %s, expected %s", r->path, t->name,
                     shape[0] ? shape : "that of one number", wanted);
}

static bool check_type(const recording *r, const tensor *t, eval_error *e)
{
    return t->type == TENSOR_F32 || t->type == TENSOR_F16 || t->type == TENSOR_BF16 ||
           eval_fail(e, "%s: tensor '%.200s': dtype is %.40s, expected F32, F16 or BF16", r->path, t->name,
                     t->type_name);
}

/* What all of a recording's tensors have in common: taken from the first, checked against it later. The
 * dimensions are the array's L, B, T, D; those that are 0 are not looked at. */
static bool agree(recording *r, const tensor *t, size_t n_layers, size_t n_sequences, size_t n_tokens,
                  size_t dim, eval_error *e)
{
    const bool first = r->n_sequences == 0;
    model_shape *s = &r->shape;
    if (first) {
        s->n_layer = n_layers;
        r->n_sequences = n_sequences;
        s->n_ctx = n_tokens;
        s->head_dim = dim;
    }
    if (s->n_layer == n_layers && r->n_sequences == n_sequences && s->n_ctx == n_tokens && s->head_dim == dim)
        return true;
    char wanted[200];
    snprintf(wanted, sizeof wanted,
             "%zu layer%s, %zu sequence%s of %zu tokens, %zu numbers a head, as '%s' has", s->n_layer,
             eval_s(s->n_layer), r->n_sequences, r->n_sequences == 1 ? "" : "s", s->n_ctx, s->head_dim,
             r->k.t && r->k.t != t ? "k" : "it");
    return fail_shape(r, t, wanted, e);
}

static bool check_not_empty(const recording *r, const tensor *t, eval_error *e)
{
    return t->n_elems > 0 || fail_shape(r, t, "no dimension of 0", e);
}

/* q, k or v: [L][heads][T][D] or [L][B][heads][T][D]. */
static bool set_part(recording *r, part *p, const tensor *t, eval_error *e)
{
    if (!check_type(r, t, e))
        return false;
    if (t->n_dims != 4 && t->n_dims != 5)
        return fail_shape(r, t, "[L][heads][T][D] or [L][B][heads][T][D]", e);
    if (!check_not_empty(r, t, e))
        return false;
    const size_t *s = t->shape + t->n_dims - 3; /* heads, T, D */
    const size_t n_sequences = t->n_dims == 5 ? t->shape[1] : 1;
    *p = (part){.t = t,
                .layer_stride = n_sequences * s[0] * s[1] * s[2],
                .sequence_stride = s[0] * s[1] * s[2],
                .head_stride = s[1] * s[2],
                .n_heads = s[0]};
    return agree(r, t, t->shape[0], n_sequences, s[1], s[2], e);
}

/* past_key_values: [L][2][Hkv][T][D] or [L][2][B][Hkv][T][D]. */
static bool set_past(recording *r, const tensor *t, eval_error *e)
{
    if (!check_type(r, t, e))
        return false;
    if ((t->n_dims != 5 && t->n_dims != 6) || t->shape[1] != 2)
        return fail_shape(r, t, "[L][2][B][Hkv][T][D] or [L][2][Hkv][T][D]", e);
    if (!check_not_empty(r, t, e))
        return false;
    const size_t *s = t->shape + t->n_dims - 3; /* Hkv, T, D */
    const size_t n_sequences = t->n_dims == 6 ? t->shape[2] : 1;
    const size_t sequence = s[0] * s[1] * s[2];
    r->k = (part){.t = t,
                  .layer_stride = 2 * n_sequences * sequence,
                  .sequence_stride = sequence,
                  .head_stride = s[1] * s[2],
                  .n_heads = s[0]};
    r->v = r->k;
    r->v.first = n_sequences * sequence;
    return agree(r, t, t->shape[0], n_sequences, s[1], s[2], e);
}

/* All parts are set: the shape as a model has it. */
static bool finish_shape(recording *r, eval_error *e)
{
    model_shape *s = &r->shape;
    snprintf(s->architecture, sizeof s->architecture, "recorded");
    if (r->v.n_heads != r->k.n_heads)
        return eval_fail(e, "%s: tensor '%.200s': %zu heads, expected %zu as 'k' has", r->path, r->v.t->name,
                         r->v.n_heads, r->k.n_heads);
    s->n_kv_head = r->k.n_heads;
    s->n_head = r->q.t ? r->q.n_heads : s->n_kv_head;
    if (r->q.t && s->n_head % s->n_kv_head != 0)
        return eval_fail(e, "%s: tensor '%.200s': %zu heads, expected a multiple of the keys' %zu", r->path,
                         r->q.t->name, s->n_head, s->n_kv_head);
    if (s->n_ctx < 2)
        return eval_fail(e, "%s: tensor '%.200s': %zu token, expected at least 2", r->path, r->k.t->name,
                         s->n_ctx);
    if (r->scale == 0.0f)
        r->scale = 1.0f / sqrtf((float)s->head_dim);
    return true;
}

/* ---- metadata ---- */

/* A name from a file that anybody may have written, for terminals and JSON. */
static void copy_name(char *name, const char *value)
{
    snprintf(name, MAX_NAME, "%s", value ? value : "");
    name[utf8_valid_prefix(name, strlen(name))] = '\0'; /* it may have been cut inside a character */
    for (char *c = name; *c; c++)
        if ((unsigned char)*c < 0x20 || *c == 0x7f)
            *c = '?';
}

static bool read_scale(recording *r, const char *value, eval_error *e)
{
    if (!value)
        return true;
    char *end = NULL;
    const float x = strtof(value, &end);
    if (value[0] == '\0' || *end != '\0' || !isfinite(x) || x <= 0.0f)
        return eval_fail(e, "%s: metadata: scale is '%.40s', expected a number above 0", r->path, value);
    r->scale = x;
    r->scale_given = true;
    return true;
}

static bool read_windows(recording *r, const char *value, eval_error *e)
{
    const size_t n = r->shape.n_layer;
    if (!value)
        return true;
    r->windows = calloc(n, sizeof r->windows[0]);
    if (!r->windows)
        return eval_fail(e, "%s: out of memory for %zu layers", r->path, n);
    const char *at = value;
    for (size_t layer = 0; layer < n; layer++) {
        char *end = NULL;
        errno = 0;
        const unsigned long long x = strtoull(at, &end, 10);
        if (*at < '0' || *at > '9' || errno != 0 || *end != (layer + 1 < n ? ',' : '\0'))
            return eval_fail(e, "%s: metadata: windows, layer %zu: '%.40s', expected %zu numbers with commas",
                             r->path, layer, at, n);
        r->windows[layer] = x < r->shape.n_ctx ? (size_t)x : 0; /* as long as all there is */
        at = end + 1;
    }
    return true;
}

/* ---- opening ---- */

static bool set_safetensors(recording *r, eval_error *e)
{
    const tensor_list *list = safetensors_tensors(r->st);
    const tensor *q = tensor_find(list, "q"), *k = tensor_find(list, "k"), *v = tensor_find(list, "v");
    const tensor *past = tensor_find(list, "past_key_values");
    if (past && (k || v))
        return eval_fail(e, "%s: has both past_key_values and %s, expected one of them", r->path,
                         k ? "k" : "v");
    if (!past && !(k && v))
        return eval_fail(e, "%s: tensor '%s' is missing; expected k and v, or past_key_values", r->path,
                         k ? "v" : "k");
    const bool good = past ? set_past(r, past, e) : set_part(r, &r->k, k, e) && set_part(r, &r->v, v, e);
    if (!good || (q && !set_part(r, &r->q, q, e)))
        return false;
    copy_name(r->model, safetensors_metadata(r->st, "model"));
    copy_name(r->text, safetensors_metadata(r->st, "text"));
    return read_scale(r, safetensors_metadata(r->st, "scale"), e) && finish_shape(r, e) &&
           read_windows(r, safetensors_metadata(r->st, "windows"), e);
}

static bool set_npy(recording *r, eval_error *e)
{
    return set_past(r, npy_tensor(r->arrays[1]), e) && finish_shape(r, e);
}

static bool file_exists(const char *dir, const char *name)
{
    char path[4096];
    struct stat info;
    const int n = snprintf(path, sizeof path, "%s/%s", dir, name);
    return n > 0 && (size_t)n < sizeof path && stat(path, &info) == 0;
}

static bool open_directory(recording *r, const char *dir, eval_error *e)
{
    const bool has_q = file_exists(dir, "q.npy");
    if (!file_exists(dir, "k.npy") && !file_exists(dir, "v.npy"))
        return eval_fail(e, "%s: is a directory without k.npy and v.npy", dir);
    return npy_open(&r->arrays[1], dir, "k.npy", e) && npy_open(&r->arrays[2], dir, "v.npy", e) &&
           (!has_q || npy_open(&r->arrays[0], dir, "q.npy", e)) &&
           set_part(r, &r->k, npy_tensor(r->arrays[1]), e) &&
           set_part(r, &r->v, npy_tensor(r->arrays[2]), e) &&
           (!has_q || set_part(r, &r->q, npy_tensor(r->arrays[0]), e)) && finish_shape(r, e);
}

static recording *new_recording(const char *name)
{
    recording *r = calloc(1, sizeof *r);
    if (r)
        snprintf(r->path, sizeof r->path, "%s", name);
    return r;
}

static bool hand_over(recording **out, recording *r, bool good)
{
    if (good)
        *out = r;
    else
        recording_close(r);
    return good;
}

bool recording_open(recording **out, const char *path, eval_error *e)
{
    recording *r = new_recording(path);
    struct stat info;
    if (!r)
        return eval_fail(e, "%s: out of memory", path);
    bool good;
    if (stat(path, &info) == 0 && S_ISDIR(info.st_mode))
        good = open_directory(r, path, e);
    else if (input_file_has_suffix(path, ".npy"))
        good = npy_open(&r->arrays[1], NULL, path, e) && set_npy(r, e);
    else if (input_file_has_suffix(path, ".safetensors"))
        good = safetensors_open_file(&r->st, path, e) && set_safetensors(r, e);
    else
        good = eval_fail(e, "%s: expected a name that ends in .safetensors or .npy, or a directory", path);
    return hand_over(out, r, good);
}

bool recording_open_memory(recording **out, const char *name, const void *data, size_t size, eval_error *e)
{
    recording *r = new_recording(name);
    if (!r)
        return eval_fail(e, "%s: out of memory", name);
    const bool is_npy = size > 0 && *(const unsigned char *)data == 0x93;
    return hand_over(out, r,
                     is_npy ? npy_open_memory(&r->arrays[1], name, data, size, e) && set_npy(r, e)
                            : safetensors_open_memory(&r->st, name, data, size, e) && set_safetensors(r, e));
}

void recording_close(recording *r)
{
    if (!r)
        return;
    safetensors_close(r->st);
    for (size_t i = 0; i < 3; i++)
        npy_close(r->arrays[i]);
    free(r->windows);
    free(r);
}

/* ---- what it says ---- */

const model_shape *recording_shape(const recording *r)
{
    return &r->shape;
}

size_t recording_n_sequences(const recording *r)
{
    return r->n_sequences;
}

bool recording_has_queries(const recording *r)
{
    return r->q.t != NULL;
}

float recording_scale(const recording *r)
{
    return r->scale;
}

size_t recording_window(const recording *r, size_t layer)
{
    return r->windows ? r->windows[layer] : 0;
}

const char *recording_model(const recording *r)
{
    return r->model;
}

const char *recording_text(const recording *r)
{
    return r->text;
}

/* Without queries there is no attention that could be another. */
const char *recording_note(const recording *r)
{
    return !recording_has_queries(r) || r->scale_given || r->windows
               ? NULL
               : "states neither scale nor windows: a scale of 1/sqrt(D) and attention to all tokens are "
                 "assumed";
}

const char *recording_type(const recording *r)
{
    return tensor_type_of(r->k.t->type)->name;
}

/* ---- reading ---- */

static bool fail_number(const recording *r, const part *p, size_t layer, size_t sequence, size_t head,
                        size_t i, float x, eval_error *e)
{
    const size_t D = r->shape.head_dim;
    const size_t at =
        p->first + layer * p->layer_stride + sequence * p->sequence_stride + head * p->head_stride + i;
    return eval_fail(e,
                     "%s: tensor '%.200s': byte %zu: layer %zu, sequence %zu, head %zu, token %zu, dimension "
                     "%zu: %s of the %s is %s, expected a finite number",
                     r->path, p->t->name, p->t->file_offset + at * tensor_type_of(p->t->type)->block_bytes,
                     layer, sequence, head, i / D, i % D, "a number",
                     p == &r->q   ? "queries"
                     : p == &r->k ? "keys"
                                  : "values",
                     isnan(x) ? "NaN" : "infinite");
}

/* [T][D] of each head, as the file has them, to [n][heads][D]. */
static bool read_part(const recording *r, const part *p, size_t layer, size_t sequence, size_t n, float *dst,
                      eval_error *e)
{
    const size_t D = r->shape.head_dim, n_numbers = n * D, row = p->n_heads * D;
    float chunk[CHUNK];
    for (size_t head = 0; head < p->n_heads; head++) {
        const size_t first =
            p->first + layer * p->layer_stride + sequence * p->sequence_stride + head * p->head_stride;
        for (size_t at = 0, token = 0, d = 0; at < n_numbers;) {
            const size_t some = n_numbers - at < CHUNK ? n_numbers - at : CHUNK;
            if (!tensor_read_f32(p->t, first + at, some, chunk, e))
                return false;
            for (size_t i = 0; i < some; i++) {
                if (!isfinite(chunk[i]))
                    return fail_number(r, p, layer, sequence, head, at + i, chunk[i], e);
                dst[token * row + head * D + d] = chunk[i];
                d = d + 1 < D ? d + 1 : 0;
                token += d == 0;
            }
            at += some;
        }
    }
    return true;
}

bool recording_read(const recording *r, size_t layer, size_t sequence, size_t n, float *q, float *k, float *v,
                    eval_error *e)
{
    assert(layer < r->shape.n_layer && sequence < r->n_sequences && n <= r->shape.n_ctx);
    return (!q || !r->q.t || read_part(r, &r->q, layer, sequence, n, q, e)) &&
           read_part(r, &r->k, layer, sequence, n, k, e) && read_part(r, &r->v, layer, sequence, n, v, e);
}

bool recording_checksum(const recording *r, uint64_t *checksum, eval_error *e)
{
    const model_shape *s = &r->shape;
    const size_t n_q = recording_has_queries(r) ? s->n_ctx * s->n_head * s->head_dim : 0;
    const size_t n_kv = s->n_ctx * s->n_kv_head * s->head_dim;
    float *x = calloc(n_q + 2 * n_kv, sizeof x[0]);
    if (!x)
        return eval_fail(e, "%s: out of memory for a layer", r->path);
    XXH3_state_t state;
    XXH3_64bits_reset(&state);
    checksum_words(&state, &r->scale, 1); /* attention depends on these, too */
    for (size_t layer = 0; layer < s->n_layer; layer++)
        checksum_words(&state, &(uint32_t){(uint32_t)recording_window(r, layer)}, 1);
    bool good = true;
    for (size_t i = 0; good && i < s->n_layer * r->n_sequences; i++) {
        good = recording_read(r, i / r->n_sequences, i % r->n_sequences, s->n_ctx, n_q > 0 ? x : NULL,
                              x + n_q, x + n_q + n_kv, e);
        if (good)
            checksum_words(&state, x, n_q + 2 * n_kv);
    }
    free(x);
    if (good)
        *checksum = XXH3_64bits_digest(&state);
    return good;
}
