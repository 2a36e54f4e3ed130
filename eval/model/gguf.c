/* Opens GGUF files and checks all that their tensors claim.
 *
 * A file is: "GGUF"; its version, 4 bytes; the numbers of tensors and of keys, 8 bytes each; the keys with
 * their values (gguf_metadata.c); of each tensor its name, the number of its dimensions in 4 bytes, the
 * dimensions, fastest first, in 8 bytes each, its type in 4 and the offset of its data in 8; padding to the
 * alignment; the data, from where offsets count. Data may lie in any order and leave holes.
 */
#define _POSIX_C_SOURCE 200809L

#include "eval/common/input_file.h"
#include "eval/model/gguf_internal.h"

#include <assert.h>
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

enum {
    MAX_DIMS = 4,        /* ggml's */
    MAX_NAME_BYTES = 64, /* the specification's */
    MIN_TENSOR_BYTES = 8 + 1 + 4 + 4 + 8,
    MIN_PAIR_BYTES = 8 + 1 + 4,
    DEFAULT_ALIGNMENT = 32,
};

static const char magic[4] = {'G', 'G', 'U', 'F'};

/* By the file's number. Sizes of the types that cannot be read are here, 0 where ggml no longer has them. */
static const struct {
    const char *name; /* NULL: no such number */
    tensor_type type;
    size_t block_elems, block_bytes;
} types[] = {
    [0] = {"F32", TENSOR_F32, 0, 0},
    [1] = {"F16", TENSOR_F16, 0, 0},
    [2] = {"Q4_0", TENSOR_Q4_0, 0, 0},
    [3] = {"Q4_1", TENSOR_Q4_1, 0, 0},
    [4] = {"Q4_2", TENSOR_UNREADABLE, 1, 0},
    [5] = {"Q4_3", TENSOR_UNREADABLE, 1, 0},
    [6] = {"Q5_0", TENSOR_Q5_0, 0, 0},
    [7] = {"Q5_1", TENSOR_Q5_1, 0, 0},
    [8] = {"Q8_0", TENSOR_Q8_0, 0, 0},
    [9] = {"Q8_1", TENSOR_UNREADABLE, 32, 36},
    [10] = {"Q2_K", TENSOR_Q2_K, 0, 0},
    [11] = {"Q3_K", TENSOR_Q3_K, 0, 0},
    [12] = {"Q4_K", TENSOR_Q4_K, 0, 0},
    [13] = {"Q5_K", TENSOR_Q5_K, 0, 0},
    [14] = {"Q6_K", TENSOR_Q6_K, 0, 0},
    [15] = {"Q8_K", TENSOR_UNREADABLE, 256, 292},
    [16] = {"IQ2_XXS", TENSOR_UNREADABLE, 256, 66},
    [17] = {"IQ2_XS", TENSOR_UNREADABLE, 256, 74},
    [18] = {"IQ3_XXS", TENSOR_UNREADABLE, 256, 98},
    [19] = {"IQ1_S", TENSOR_UNREADABLE, 256, 50},
    [20] = {"IQ4_NL", TENSOR_UNREADABLE, 32, 18},
    [21] = {"IQ3_S", TENSOR_UNREADABLE, 256, 110},
    [22] = {"IQ2_S", TENSOR_UNREADABLE, 256, 82},
    [23] = {"IQ4_XS", TENSOR_UNREADABLE, 256, 136},
    [24] = {"I8", TENSOR_UNREADABLE, 1, 1},
    [25] = {"I16", TENSOR_UNREADABLE, 1, 2},
    [26] = {"I32", TENSOR_UNREADABLE, 1, 4},
    [27] = {"I64", TENSOR_UNREADABLE, 1, 8},
    [28] = {"F64", TENSOR_UNREADABLE, 1, 8},
    [29] = {"IQ1_M", TENSOR_UNREADABLE, 256, 56},
    [30] = {"BF16", TENSOR_BF16, 0, 0},
    [31] = {"Q4_0_4_4", TENSOR_UNREADABLE, 1, 0},
    [32] = {"Q4_0_4_8", TENSOR_UNREADABLE, 1, 0},
    [33] = {"Q4_0_8_8", TENSOR_UNREADABLE, 1, 0},
    [34] = {"TQ1_0", TENSOR_UNREADABLE, 256, 54},
    [35] = {"TQ2_0", TENSOR_UNREADABLE, 256, 66},
    [36] = {"IQ4_NL_4_4", TENSOR_UNREADABLE, 1, 0},
    [37] = {"IQ4_NL_4_8", TENSOR_UNREADABLE, 1, 0},
    [38] = {"IQ4_NL_8_8", TENSOR_UNREADABLE, 1, 0},
    [39] = {"MXFP4", TENSOR_UNREADABLE, 32, 17},
    [40] = {"NVFP4", TENSOR_UNREADABLE, 64, 36},
    [41] = {"Q1_0", TENSOR_UNREADABLE, 128, 18},
};

/* ---- what the header says of one tensor ---- */

static bool take_shape(gguf_header *h, tensor *t, eval_error *e)
{
    const size_t at = h->at;
    uint32_t n_dims = 0;
    if (!gguf_take_u32(h, "the number of its dimensions", &n_dims, e))
        return false;
    if (n_dims > MAX_DIMS)
        return eval_fail(e, "%s: byte %zu: %s%" PRIu32 " dimensions, expected at most %d", h->source->path,
                         at, h->where, n_dims, MAX_DIMS);
    t->n_dims = n_dims;
    t->n_elems = 1;
    for (size_t i = 0; i < n_dims; i++) {
        const size_t dim_at = h->at;
        uint64_t dim = 0;
        if (!gguf_take_u64(h, "a dimension", &dim, e))
            return false;
        if (dim > SIZE_MAX || (dim != 0 && t->n_elems > SIZE_MAX / dim))
            return eval_fail(e, "%s: byte %zu: %sthe product of its dimensions overflows at %" PRIu64,
                             h->source->path, dim_at, h->where, dim);
        t->shape[n_dims - 1 - i] = (size_t)dim;
        t->n_elems *= (size_t)dim;
    }
    return true;
}

/* Checks the type by its number, and what it makes of the shape. */
static bool set_type(const gguf_header *h, tensor *t, uint32_t number, size_t at, eval_error *e)
{
    t->type = TENSOR_UNREADABLE;
    if (number >= sizeof types / sizeof types[0] || !types[number].name)
        return true; /* ggml's next invention: no reason not to read the other tensors */
    t->type = types[number].type;
    t->type_name = types[number].name;
    const bool readable = t->type != TENSOR_UNREADABLE;
    const size_t block_elems = readable ? tensor_type_of(t->type)->block_elems : types[number].block_elems;
    const size_t block_bytes = readable ? tensor_type_of(t->type)->block_bytes : types[number].block_bytes;
    const size_t row = t->n_dims ? t->shape[t->n_dims - 1] : 1;
    if (row % block_elems != 0)
        return eval_fail(e, "%s: byte %zu: %srows have %zu element%s, expected a multiple of %zu for %s",
                         h->source->path, at, h->where, row, eval_s(row), block_elems, t->type_name);
    const size_t n_blocks = t->n_elems / block_elems;
    if (block_bytes != 0 && n_blocks > SIZE_MAX / block_bytes)
        return eval_fail(e, "%s: byte %zu: %sthe size in bytes of %zu elements overflows", h->source->path,
                         at, h->where, t->n_elems);
    t->n_bytes = n_blocks * block_bytes;
    return true;
}

/* What is known of a tensor until the whole header is there. */
typedef struct tensor_info {
    size_t name_at, n_name;
    uint32_t type;
    size_t offset_at; /* where the offset stands */
    uint64_t offset;  /* from the start of the data */
} tensor_info;

static bool take_tensor(gguf_header *h, tensor *t, tensor_info *info, eval_error *e)
{
    size_t type_at;
    if (!gguf_take_name(h, "tensor", MAX_NAME_BYTES, &info->name_at, &info->n_name, e) ||
        !take_shape(h, t, e))
        return false;
    type_at = h->at;
    if (!gguf_take_u32(h, "its type", &info->type, e) || !set_type(h, t, info->type, type_at, e))
        return false;
    info->offset_at = h->at;
    return gguf_take_u64(h, "its offset", &info->offset, e);
}

/* The arrays grow as tensors turn up, because n is only claimed. */
static bool take_tensors(gguf *g, tensor_info **infos, size_t n, eval_error *e)
{
    tensor_list *list = &g->list;
    for (size_t i = 0, capacity = 0; i < n; i++) {
        if (i == capacity) {
            capacity = capacity ? 2 * capacity : 64;
            tensor *tensors = realloc(list->tensors, capacity * sizeof *tensors);
            list->tensors = tensors ? tensors : list->tensors;
            tensor_info *more = realloc(*infos, capacity * sizeof *more);
            *infos = more ? more : *infos;
            if (!tensors || !more)
                return eval_fail(e, "%s: out of memory for %zu tensors", g->source.path, capacity);
        }
        list->tensors[i] = (tensor){.source = &g->source};
        if (!take_tensor(&g->header, &list->tensors[i], &(*infos)[i], e))
            return false;
        list->n = i + 1;
    }
    g->header.where[0] = '\0';
    return true;
}

/* ---- where their data is ---- */

static bool place_tensor(const gguf *g, tensor *t, const tensor_info *info, size_t data_start,
                         size_t alignment, eval_error *e)
{
    const size_t data_bytes = g->source.size - data_start;
    if (info->offset % alignment != 0)
        return eval_fail(e, "%s: byte %zu: tensor '%s': offset is %" PRIu64 ", expected a multiple of %zu",
                         g->source.path, info->offset_at, t->name, info->offset, alignment);
    if (info->offset > data_bytes || t->n_bytes > data_bytes - info->offset)
        return eval_fail(e,
                         "%s: byte %zu: tensor '%s': offset is %" PRIu64 " and size %zu, but the file has "
                         "only %zu bytes of data; is it cut short?",
                         g->source.path, info->offset_at, t->name, info->offset, t->n_bytes, data_bytes);
    t->file_offset = data_start + (size_t)info->offset;
    return true;
}

static int compare_positions(const void *a, const void *b)
{
    const tensor *x = a, *y = b;
    if (x->file_offset != y->file_offset)
        return x->file_offset < y->file_offset ? -1 : 1;
    return (x->n_bytes > y->n_bytes) - (x->n_bytes < y->n_bytes); /* empty tensors first */
}

static bool check_overlaps(const gguf *g, eval_error *e)
{
    tensor *t = g->list.tensors;
    if (g->list.n > 0)
        qsort(t, g->list.n, sizeof *t, compare_positions);
    for (size_t i = 1; i < g->list.n; i++)
        if (t[i].file_offset < t[i - 1].file_offset + t[i - 1].n_bytes)
            return eval_fail(e, "%s: tensors '%s' and '%s' overlap at byte %zu", g->source.path,
                             t[i - 1].name, t[i].name, t[i].file_offset);
    return true;
}

static int compare_names(const void *a, const void *b)
{
    const tensor *x = a, *y = b;
    const int order = strcmp(x->name, y->name);
    return order ? order : (x->file_offset > y->file_offset) - (x->file_offset < y->file_offset);
}

static bool sort_by_name(gguf *g, eval_error *e)
{
    tensor *t = g->list.tensors;
    if (g->list.n > 0)
        qsort(t, g->list.n, sizeof *t, compare_names);
    for (size_t i = 1; i < g->list.n; i++)
        if (strcmp(t[i - 1].name, t[i].name) == 0)
            return eval_fail(e, "%s: tensor '%s' is there twice, with data at bytes %zu and %zu",
                             g->source.path, t[i].name, t[i - 1].file_offset, t[i].file_offset);
    return true;
}

static bool name_unknown_type(gguf *g, size_t i, uint32_t number, eval_error *e)
{
    if (!g->unknown_types)
        g->unknown_types = calloc(g->list.n, sizeof *g->unknown_types);
    if (!g->unknown_types)
        return eval_fail(e, "%s: out of memory", g->source.path);
    (void)snprintf(g->unknown_types[i], sizeof g->unknown_types[i], "type %" PRIu32, number);
    g->list.tensors[i].type_name = g->unknown_types[i];
    return true;
}

/* Once the header has stopped moving: names, and where the data is. */
static bool place_tensors(gguf *g, const tensor_info *infos, size_t alignment, eval_error *e)
{
    const size_t padding = (alignment - g->header.at % alignment) % alignment;
    const size_t data_start = g->header.at + padding;
    assert(g->header.bytes && (infos || g->list.n == 0));
    /* Where there are no tensors, there may be no padding either. */
    if (g->list.n > 0 && data_start > g->source.size)
        return eval_fail(e, "%s: data would begin at byte %zu, but the file has %zu bytes; is it cut short?",
                         g->source.path, data_start, g->source.size);
    for (size_t i = 0; i < g->list.n; i++) {
        tensor *t = &g->list.tensors[i];
        t->name = (const char *)g->header.bytes + infos[i].name_at;
        g->header.bytes[infos[i].name_at + infos[i].n_name] = '\0';
        if ((!t->type_name && !name_unknown_type(g, i, infos[i].type, e)) ||
            !place_tensor(g, t, &infos[i], data_start, alignment, e))
            return false;
    }
    /* By name again at the end, which is the order of the list. */
    return sort_by_name(g, e) && check_overlaps(g, e) && sort_by_name(g, e);
}

/* ---- the file ---- */

static bool take_magic_and_version(gguf_header *h, eval_error *e)
{
    uint32_t version = 0;
    if (!gguf_take(h, sizeof magic, "the magic number", e))
        return false;
    const char *path = h->source->path;
    if (memcmp(h->bytes, magic, sizeof magic) != 0)
        return eval_fail(e, "%s: byte 0: begins with %02x %02x %02x %02x, expected 47 47 55 46, \"GGUF\"%s",
                         path, h->bytes[0], h->bytes[1], h->bytes[2], h->bytes[3],
                         input_file_has_suffix(path, ".safetensors") || input_file_has_suffix(path, ".json")
                             ? "; of a Hugging Face model the folder is wanted, not a file in it"
                             : "");
    if (!gguf_take_u32(h, "the version", &version, e))
        return false;
    if (version != 0 && (version & 0xffffu) == 0)
        return eval_fail(e, "%s: byte 4: version is %08" PRIx32 ": a big-endian file, expected little-endian",
                         h->source->path, version);
    if (version != 2 && version != 3)
        return eval_fail(e, "%s: byte 4: version is %" PRIu32 ", expected 2 or 3", h->source->path, version);
    return true;
}

static bool check_split(const gguf *g, eval_error *e)
{
    size_t n_files = 0;
    if (!gguf_optional_size(g, "split.count", 0, SIZE_MAX, &n_files, e))
        return false;
    return n_files <= 1 ||
           gguf_wrong_value(g, "split.count", "a model in one file (llama-gguf-split --merge)", e);
}

static bool find_alignment(const gguf *g, size_t *alignment, eval_error *e)
{
    static const char key[] = "general.alignment";
    *alignment = DEFAULT_ALIGNMENT;
    if (!gguf_optional_size(g, key, 1, (size_t)1 << 30, alignment, e))
        return false;
    return (*alignment & (*alignment - 1)) == 0 || gguf_wrong_value(g, key, "a power of two", e);
}

static bool read_all(gguf *g, tensor_info **infos, eval_error *e)
{
    gguf_header *h = &g->header;
    size_t n_tensors = 0, n_keys = 0, alignment = 0;
    if (!take_magic_and_version(h, e) ||
        !gguf_take_count(h, "the list of tensors", MIN_TENSOR_BYTES, &n_tensors, e) ||
        !gguf_take_count(h, "the list of keys", MIN_PAIR_BYTES, &n_keys, e) ||
        !gguf_take_metadata(g, n_keys, e) || !take_tensors(g, infos, n_tensors, e))
        return false;
    gguf_header_trim(h);
    return gguf_seal_metadata(g, e) && check_split(g, e) && find_alignment(g, &alignment, e) &&
           place_tensors(g, *infos, alignment, e);
}

static bool read_or_close(gguf **out, gguf *g, eval_error *e)
{
    tensor_info *infos = NULL;
    g->header.source = &g->source;
    const bool good = read_all(g, &infos, e);
    free(infos);
    if (good)
        *out = g;
    else
        gguf_close(g);
    return good;
}

bool gguf_open(gguf **out, const char *path, eval_error *e)
{
    gguf *g = calloc(1, sizeof *g);
    if (!g)
        return eval_fail(e, "%s: out of memory", path);
    g->source.fd = -1;
    if (!input_file_open(&g->source.fd, &g->source.size, g->source.path, NULL, path, e)) {
        g->source.fd = -1; /* it was closed */
        gguf_close(g);
        return false;
    }
    return read_or_close(out, g, e);
}

bool gguf_open_memory(gguf **out, const char *name, const void *data, size_t size, eval_error *e)
{
    gguf *g = calloc(1, sizeof *g);
    if (!g)
        return eval_fail(e, "%s: out of memory", name);
    g->source.fd = -1;
    g->source.memory = data;
    g->source.size = size;
    (void)snprintf(g->source.path, sizeof g->source.path, "%s", name);
    return read_or_close(out, g, e);
}

void gguf_close(gguf *g)
{
    if (!g)
        return;
    if (g->source.fd >= 0)
        (void)close(g->source.fd);
    gguf_free_metadata(g);
    free(g->header.bytes);
    free(g->list.tensors);
    free(g->unknown_types);
    free(g);
}

const char *gguf_path(const gguf *g)
{
    return g->source.path;
}

const tensor_list *gguf_tensors(const gguf *g)
{
    return &g->list;
}
