/* Finds tensors by name and reads their numbers. */
#include "eval/model/tensor.h"

#include "eval/common/input_file.h"

#include <assert.h>
#include <stdlib.h>
#include <string.h>

static int compare_with_name(const void *name, const void *t)
{
    return strcmp(name, ((const tensor *)t)->name);
}

const tensor *tensor_find(const tensor_list *list, const char *name)
{
    if (list->n == 0)
        return NULL;
    return bsearch(name, list->tensors, list->n, sizeof *list->tensors, compare_with_name);
}

bool tensor_source_read(const tensor_source *s, size_t at, size_t n_bytes, void *dst, eval_error *e)
{
    assert(at <= s->size && n_bytes <= s->size - at);
    if (n_bytes == 0)
        return true;
    if (!s->memory)
        return input_file_read_at(s->fd, s->path, dst, n_bytes, at, e);
    memcpy(dst, s->memory + at, n_bytes);
    return true;
}

bool tensor_read_bytes(const tensor *t, size_t first, size_t n_bytes, void *dst, eval_error *e)
{
    assert(first <= t->n_bytes && n_bytes <= t->n_bytes - first);
    return tensor_source_read(t->source, t->file_offset + first, n_bytes, dst, e);
}

bool tensor_read_f32(const tensor *t, size_t first, size_t n, float *dst, eval_error *e)
{
    enum { CHUNK_BYTES = 1 << 16 };
    uint8_t bytes[CHUNK_BYTES];
    const tensor_type_info *info = tensor_type_of(t->type);
    assert(t->type != TENSOR_UNREADABLE && first <= t->n_elems && n <= t->n_elems - first &&
           first % info->block_elems == 0 && n % info->block_elems == 0);
    size_t at = first / info->block_elems * info->block_bytes;
    if (t->type == TENSOR_F32)
        return tensor_read_bytes(t, at, n * sizeof *dst, dst, e);
    if (t->source->memory) {
        tensor_to_f32(t->type, t->source->memory + t->file_offset + at, n, dst);
        return true;
    }
    const size_t chunk = CHUNK_BYTES / info->block_bytes * info->block_elems;
    for (size_t done = 0; done < n;) {
        const size_t part = n - done < chunk ? n - done : chunk;
        const size_t part_bytes = part / info->block_elems * info->block_bytes;
        if (!tensor_read_bytes(t, at, part_bytes, bytes, e))
            return false;
        tensor_to_f32(t->type, bytes, part, dst + done);
        at += part_bytes;
        done += part;
    }
    return true;
}
