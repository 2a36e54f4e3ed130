/* Checks of tensors against what a model's configuration promises (checkpoint.h). */
#include "eval/model/checkpoint.h"

#include <math.h>
#include <stdint.h>
#include <stdio.h>
#include <string.h>

/* Elements that are converted at a time: a multiple of every type's block. */
enum { CHUNK = 1 << 12 };

static void format_shape(char *text, size_t size, const size_t *shape, size_t n_dims)
{
    size_t used = (size_t)snprintf(text, size, "[");
    for (size_t i = 0; i < n_dims && used < size; i++)
        used += (size_t)snprintf(text + used, size - used, i ? ",%zu" : "%zu", shape[i]);
    if (used < size)
        snprintf(text + used, size - used, "]");
}

bool checkpoint_check_tensor(const tensor *t, const size_t *shape, size_t n_dims, const char *config,
                             eval_error *e)
{
    if (t->type == TENSOR_UNREADABLE)
        return eval_fail(
            e,
            "%s: tensor '%s': dtype is %s, expected F32, F16, BF16 or a type of ggml's from Q4_0 "
            "to Q6_K",
            t->source->path, t->name, t->type_name);
    if (t->n_dims != n_dims || memcmp(t->shape, shape, n_dims * sizeof *shape) != 0) {
        char found[192], wanted[64];
        format_shape(found, sizeof found, t->shape, t->n_dims);
        format_shape(wanted, sizeof wanted, shape, n_dims);
        return eval_fail(e, "%s: tensor '%s': shape is %s, but %s expects %s", t->source->path, t->name,
                         found, config, wanted);
    }
    return true;
}

/* x - x is 0 for every finite x and NaN for the others: one vectorisable pass. */
static bool all_finite(const float *x, size_t n)
{
    int all = 1;
    for (size_t i = 0; i < n; i++)
        all &= x[i] - x[i] == 0.0f;
    return all;
}

bool checkpoint_check_finite(const tensor *t, tensor_type type, const void *data, size_t n, eval_error *e)
{
    const tensor_type_info *memory = tensor_type_of(type), *file = tensor_type_of(t->type);
    const uint8_t *bytes = data;
    size_t bad = n; /* where the first chunk begins that is not all finite */
#pragma omp parallel for schedule(static) reduction(min : bad) if (n > 65536)
    for (size_t done = 0; done < n; done += CHUNK) {
        float x[CHUNK];
        const size_t part = n - done < CHUNK ? n - done : CHUNK;
        tensor_to_f32(type, bytes + done / memory->block_elems * memory->block_bytes, part, x);
        if (!all_finite(x, part) && done < bad)
            bad = done;
    }
    if (bad == n)
        return true;
    float x[CHUNK];
    size_t i = 0;
    tensor_to_f32(type, bytes + bad / memory->block_elems * memory->block_bytes,
                  n - bad < CHUNK ? n - bad : CHUNK, x);
    while (isfinite(x[i]))
        i++;
    const size_t byte = t->file_offset + (bad + i) / file->block_elems * file->block_bytes;
    return eval_fail(e, "%s: tensor '%s': element %zu (byte %zu) is %s, expected a finite number",
                     t->source->path, t->name, bad + i, byte, isnan(x[i]) ? "NaN" : "infinite");
}

bool checkpoint_compare(const tensor *a, const tensor *b, bool *same, eval_error *e)
{
    float of_a[CHUNK], of_b[CHUNK];
    *same = a->type != TENSOR_UNREADABLE && b->type != TENSOR_UNREADABLE && a->n_elems == b->n_elems;
    for (size_t done = 0; *same && done < a->n_elems; done += CHUNK) {
        const size_t n = a->n_elems - done < CHUNK ? a->n_elems - done : CHUNK;
        if (!tensor_read_f32(a, done, n, of_a, e) || !tensor_read_f32(b, done, n, of_b, e))
            return false;
        *same = memcmp(of_a, of_b, n * sizeof of_a[0]) == 0;
    }
    return true;
}
