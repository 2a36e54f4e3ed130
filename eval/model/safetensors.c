/* Parses and validates safetensors files and shard indexes.
 *
 * A file is: the header's length n as 8 bytes, little-endian; n bytes of JSON, which begin with '{' and may
 * be padded with spaces; then the data. The JSON maps each tensor's name to its dtype, shape and data_offsets
 * [begin, end), counted from the start of the data. `__metadata__`, if there, maps strings to strings.
 * Tensors may lie in any order but must cover the data completely: no holes, no overlaps.
 */
#define _POSIX_C_SOURCE 200809L

#include "eval/model/safetensors.h"

#include "eval/common/input_file.h"
#include "eval/common/json_util.h"

#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#define LENGTH_BYTES     8
#define MAX_HEADER_BYTES (100u * 1000 * 1000) /* the reference implementation's limit */
#define SINGLE_NAME      "model.safetensors"
#define INDEX_NAME       "model.safetensors.index.json"

/* Tensors point at their shard's source and header, so shards stay where they were allocated. */
typedef struct safetensors_shard {
    struct safetensors_shard *next;
    const char *name; /* plain file name, for shards of an index; points into the index */
    tensor_source source;
    json_t *header; /* owns the tensor names and dtype names */
} shard;

struct safetensors {
    shard *shards;
    json_t *index; /* NULL for a single file */
    tensor_list list;
};

static const struct {
    const char *name;
    tensor_type type;
    unsigned bits;
} dtypes[] = {
    {"F32", TENSOR_F32, 32},           {"F16", TENSOR_F16, 16},           {"BF16", TENSOR_BF16, 16},
    {"BOOL", TENSOR_UNREADABLE, 8},    {"U8", TENSOR_UNREADABLE, 8},      {"I8", TENSOR_UNREADABLE, 8},
    {"U16", TENSOR_UNREADABLE, 16},    {"I16", TENSOR_UNREADABLE, 16},    {"U32", TENSOR_UNREADABLE, 32},
    {"I32", TENSOR_UNREADABLE, 32},    {"U64", TENSOR_UNREADABLE, 64},    {"I64", TENSOR_UNREADABLE, 64},
    {"F64", TENSOR_UNREADABLE, 64},    {"C64", TENSOR_UNREADABLE, 64},    {"F8_E5M2", TENSOR_UNREADABLE, 8},
    {"F8_E4M3", TENSOR_UNREADABLE, 8}, {"F8_E8M0", TENSOR_UNREADABLE, 8}, {"F6_E2M3", TENSOR_UNREADABLE, 6},
    {"F6_E3M2", TENSOR_UNREADABLE, 6}, {"F4", TENSOR_UNREADABLE, 4},
};

/* ---- one tensor of the header ---- */

static bool fail_tensor(const tensor *t, eval_error *e, const char *what)
{
    return eval_fail(e, "%s: tensor '%.200s': %s", t->source->path, t->name, what);
}

static bool parse_dtype(tensor *t, const json_t *entry, unsigned *bits, eval_error *e)
{
    t->type_name = json_string_value(json_object_get(entry, "dtype"));
    if (!t->type_name)
        return fail_tensor(t, e, "dtype is missing or not a string");
    for (size_t i = 0; i < sizeof dtypes / sizeof dtypes[0]; i++) {
        if (strcmp(dtypes[i].name, t->type_name) == 0) {
            t->type = dtypes[i].type;
            *bits = dtypes[i].bits;
            return true;
        }
    }
    return eval_fail(e, "%s: tensor '%.200s': dtype '%.40s' is not a safetensors dtype", t->source->path,
                     t->name, t->type_name);
}

static bool parse_shape(tensor *t, const json_t *entry, eval_error *e)
{
    const json_t *shape = json_object_get(entry, "shape");
    if (!json_is_array(shape))
        return fail_tensor(t, e, "shape is missing or not an array");
    t->n_dims = json_array_size(shape);
    if (t->n_dims > TENSOR_MAX_DIMS)
        return eval_fail(e, "%s: tensor '%.200s': shape has %zu dimensions, expected at most %d",
                         t->source->path, t->name, t->n_dims, TENSOR_MAX_DIMS);
    t->n_elems = 1;
    for (size_t i = 0; i < t->n_dims; i++) {
        if (!json_to_size(json_array_get(shape, i), SIZE_MAX, &t->shape[i]))
            return eval_fail(e, "%s: tensor '%.200s': shape[%zu] is not a non-negative integer",
                             t->source->path, t->name, i);
        if (t->shape[i] != 0 && t->n_elems > SIZE_MAX / t->shape[i])
            return fail_tensor(t, e, "the product of its shape overflows");
        t->n_elems *= t->shape[i];
    }
    return true;
}

static bool parse_offsets(tensor *t, const json_t *entry, size_t data_start, unsigned bits, eval_error *e)
{
    const json_t *offsets = json_object_get(entry, "data_offsets");
    size_t begin, end;
    if (json_array_size(offsets) != 2 || !json_to_size(json_array_get(offsets, 0), SIZE_MAX, &begin) ||
        !json_to_size(json_array_get(offsets, 1), SIZE_MAX, &end))
        return fail_tensor(t, e, "data_offsets is not a pair of non-negative integers");
    size_t data_bytes = t->source->size - data_start;
    if (begin > end || end > data_bytes)
        return eval_fail(
            e, "%s: tensor '%.200s': data_offsets [%zu, %zu] do not lie in the file's %zu data bytes",
            t->source->path, t->name, begin, end, data_bytes);
    if (t->n_elems > SIZE_MAX / bits)
        return fail_tensor(t, e, "the size given by its dtype and shape overflows");
    if (t->n_elems * bits % 8 != 0)
        return fail_tensor(t, e, "the size given by its dtype and shape is not a whole number of bytes");
    t->n_bytes = end - begin;
    if (t->n_bytes != t->n_elems * bits / 8)
        return eval_fail(
            e,
            "%s: tensor '%.200s': data_offsets [%zu, %zu] hold %zu bytes, expected %zu for its dtype "
            "%s and shape of %zu elements",
            t->source->path, t->name, begin, end, t->n_bytes, t->n_elems * bits / 8, t->type_name,
            t->n_elems);
    t->file_offset = data_start + begin;
    return true;
}

static bool parse_tensor(tensor *t, const json_t *entry, size_t data_start, eval_error *e)
{
    unsigned bits = 0;
    if (!json_is_object(entry))
        return fail_tensor(t, e, "its header entry is not an object");
    return parse_dtype(t, entry, &bits, e) && parse_shape(t, entry, e) &&
           parse_offsets(t, entry, data_start, bits, e);
}

/* ---- one file ---- */

static int compare_positions(const void *a, const void *b)
{
    const tensor *x = a, *y = b;
    if (x->file_offset != y->file_offset)
        return x->file_offset < y->file_offset ? -1 : 1;
    return (x->n_bytes > y->n_bytes) - (x->n_bytes < y->n_bytes); /* empty tensors first */
}

/* The tensors of one file, in any order, must cover its data exactly once. */
static bool check_layout(tensor *t, size_t n, const shard *file, size_t data_start, eval_error *e)
{
    if (n > 0)
        qsort(t, n, sizeof *t, compare_positions);
    size_t covered = data_start;
    for (size_t i = 0; i < n; i++) {
        if (t[i].file_offset < covered)
            return eval_fail(e, "%s: tensors '%.200s' and '%.200s' overlap at byte %zu", file->source.path,
                             t[i - 1].name, t[i].name, t[i].file_offset);
        if (t[i].file_offset > covered)
            return eval_fail(e, "%s: bytes %zu to %zu, before tensor '%.200s', belong to no tensor",
                             file->source.path, covered, t[i].file_offset, t[i].name);
        covered += t[i].n_bytes;
    }
    if (covered != file->source.size)
        return eval_fail(e, "%s: bytes %zu to %zu, at the end, belong to no tensor", file->source.path,
                         covered, file->source.size);
    return true;
}

static bool check_metadata(const json_t *metadata, const shard *file, eval_error *e)
{
    const char *key;
    const json_t *value;
    if (!json_is_object(metadata))
        return eval_fail(e, "%s: __metadata__ is not an object", file->source.path);
    json_object_foreach((json_t *)metadata, key, value)
    {
        if (!json_is_string(value))
            return eval_fail(e, "%s: __metadata__: value of '%.200s' is not a string", file->source.path,
                             key);
    }
    return true;
}

static bool read_header_length(const shard *s, size_t *length, eval_error *e)
{
    uint8_t bytes[LENGTH_BYTES];
    if (s->source.size < LENGTH_BYTES)
        return eval_fail(e, "%s: file has %zu bytes, expected at least %d for the header's length",
                         s->source.path, s->source.size, LENGTH_BYTES);
    if (!tensor_source_read(&s->source, 0, LENGTH_BYTES, bytes, e))
        return false;
    uint64_t n = 0;
    for (int i = LENGTH_BYTES - 1; i >= 0; i--)
        n = n << 8 | bytes[i];
    if (n > MAX_HEADER_BYTES)
        return eval_fail(e, "%s: byte 0: header length is %llu, expected at most %u", s->source.path,
                         (unsigned long long)n, MAX_HEADER_BYTES);
    if (n > s->source.size - LENGTH_BYTES)
        return eval_fail(
            e, "%s: byte 0: header length is %llu, but only %zu bytes follow; is the file cut short?",
            s->source.path, (unsigned long long)n, s->source.size - LENGTH_BYTES);
    *length = (size_t)n;
    return true;
}

static bool read_header(shard *s, size_t *data_start, eval_error *e)
{
    size_t length = 0;
    if (!read_header_length(s, &length, e))
        return false;
    char *text = malloc(length + 1);
    if (!text)
        return eval_fail(e, "%s: out of memory for a header of %zu bytes", s->source.path, length);
    bool good = tensor_source_read(&s->source, LENGTH_BYTES, length, text, e);
    if (good && (length == 0 || text[0] != '{'))
        good = eval_fail(e, "%s: byte %d: the header does not begin with '{'", s->source.path, LENGTH_BYTES);
    if (good)
        s->header = json_parse_object(s->source.path, text, length, LENGTH_BYTES, e);
    free(text);
    *data_start = LENGTH_BYTES + length;
    return good && s->header;
}

/* Adds the tensors of a file that is already open. */
static bool add_shard_tensors(safetensors *st, shard *s, eval_error *e)
{
    size_t data_start = 0;
    if (!read_header(s, &data_start, e))
        return false;
    size_t n_entries = json_object_size(s->header), n = 0;
    /* + 1: realloc to size 0 may return NULL */
    tensor *tensors = realloc(st->list.tensors, (st->list.n + n_entries + 1) * sizeof *tensors);
    if (!tensors)
        return eval_fail(e, "%s: out of memory for %zu tensors", s->source.path, n_entries);
    st->list.tensors = tensors;
    tensors += st->list.n;

    const char *name;
    json_t *entry;
    json_object_foreach(s->header, name, entry)
    {
        if (strcmp(name, "__metadata__") == 0) {
            if (!check_metadata(entry, s, e))
                return false;
            continue;
        }
        tensors[n] = (tensor){.name = name, .source = &s->source};
        if (!parse_tensor(&tensors[n], entry, data_start, e))
            return false;
        n++;
    }
    st->list.n += n;
    return check_layout(tensors, n, s, data_start, e);
}

static shard *new_shard(safetensors *st, const char *name)
{
    shard *s = calloc(1, sizeof *s);
    if (s) {
        s->name = name;
        s->source.fd = -1;
        s->next = st->shards;
        st->shards = s;
    }
    return s;
}

static bool add_shard_file(safetensors *st, const char *dir, const char *name, eval_error *e)
{
    shard *s = new_shard(st, name);
    if (!s)
        return eval_fail(e, "%s: out of memory", name);
    return input_file_open(&s->source.fd, &s->source.size, s->source.path, dir, name, e) &&
           add_shard_tensors(st, s, e);
}

/* ---- all tensors ---- */

static int compare_names(const void *a, const void *b)
{
    return strcmp(((const tensor *)a)->name, ((const tensor *)b)->name);
}

static bool sort_by_name(safetensors *st, eval_error *e)
{
    if (st->list.n > 0)
        qsort(st->list.tensors, st->list.n, sizeof *st->list.tensors, compare_names);
    for (size_t i = 1; i < st->list.n; i++)
        if (strcmp(st->list.tensors[i - 1].name, st->list.tensors[i].name) == 0)
            return eval_fail(e, "%s: tensor '%.200s' is also in %s", st->list.tensors[i].source->path,
                             st->list.tensors[i].name, st->list.tensors[i - 1].source->path);
    return true;
}

const tensor_list *safetensors_tensors(const safetensors *st)
{
    return &st->list;
}

const char *safetensors_metadata(const safetensors *st, const char *key)
{
    const json_t *metadata = st->shards ? json_object_get(st->shards->header, "__metadata__") : NULL;
    return json_string_value(json_object_get(metadata, key));
}

void safetensors_close(safetensors *st)
{
    if (!st)
        return;
    while (st->shards) {
        shard *s = st->shards;
        st->shards = s->next;
        json_decref(s->header);
        if (s->source.fd >= 0)
            (void)close(s->source.fd);
        free(s);
    }
    json_decref(st->index);
    free(st->list.tensors);
    free(st);
}

/* ---- opening ---- */

static const shard *find_shard(const safetensors *st, const char *name)
{
    const shard *s = st->shards;
    while (s && strcmp(s->name, name) != 0)
        s = s->next;
    return s;
}

/* Opens every shard the index names, then checks that each tensor is where the index says. */
static bool open_shards(safetensors *st, const char *dir, const input_file *index_file, eval_error *e)
{
    st->index = json_parse_object(index_file->path, index_file->data, index_file->size, 0, e);
    if (!st->index)
        return false;
    json_t *weight_map = json_object_get(st->index, "weight_map");
    if (!json_is_object(weight_map))
        return eval_fail(e, "%s: weight_map is missing or not an object", index_file->path);

    const char *tensor_name;
    json_t *value;
    json_object_foreach(weight_map, tensor_name, value)
    {
        const char *name = json_string_value(value);
        if (!name || name[0] == '\0' || strchr(name, '/') || strstr(name, ".."))
            return eval_fail(e, "%s: weight_map: '%.200s' has shard '%.200s', expected a plain file name",
                             index_file->path, tensor_name, name ? name : "(not a string)");
        if (!find_shard(st, name) && !add_shard_file(st, dir, name, e))
            return false;
    }
    if (!sort_by_name(st, e))
        return false;
    json_object_foreach(weight_map, tensor_name, value)
    {
        const tensor *t = tensor_find(&st->list, tensor_name);
        const shard *s = find_shard(st, json_string_value(value));
        if (!t || t->source != &s->source)
            return eval_fail(e, "%s: tensor '%.200s' is missing, but %s says it is there", s->source.path,
                             tensor_name, index_file->path);
    }
    return true;
}

static bool open_index(safetensors *st, const char *dir, eval_error *e)
{
    input_file index_file;
    if (!input_file_read(&index_file, dir, INDEX_NAME, e))
        return false;
    bool ok = open_shards(st, dir, &index_file, e);
    input_file_free(&index_file);
    return ok;
}

static bool file_exists(const char *dir, const char *name)
{
    char path[4096];
    int length = snprintf(path, sizeof path, "%s/%s", dir, name);
    return length > 0 && (size_t)length < sizeof path && access(path, F_OK) == 0;
}

bool safetensors_open_dir(safetensors **out, const char *dir, eval_error *e)
{
    bool single = file_exists(dir, SINGLE_NAME);
    if (!single && !file_exists(dir, INDEX_NAME))
        return eval_fail(e, "%s: has neither %s nor %s", dir, SINGLE_NAME, INDEX_NAME);
    safetensors *st = calloc(1, sizeof *st);
    if (!st)
        return eval_fail(e, "%s: out of memory", dir);
    bool ok =
        single ? add_shard_file(st, dir, SINGLE_NAME, e) && sort_by_name(st, e) : open_index(st, dir, e);
    if (!ok) {
        safetensors_close(st);
        return false;
    }
    *out = st;
    return true;
}

bool safetensors_open_file(safetensors **out, const char *path, eval_error *e)
{
    safetensors *st = calloc(1, sizeof *st);
    if (!st)
        return eval_fail(e, "%s: out of memory", path);
    if (!add_shard_file(st, NULL, path, e) || !sort_by_name(st, e)) {
        safetensors_close(st);
        return false;
    }
    *out = st;
    return true;
}

bool safetensors_open_memory(safetensors **out, const char *name, const void *data, size_t size,
                             eval_error *e)
{
    safetensors *st = calloc(1, sizeof *st);
    shard *s = st ? new_shard(st, name) : NULL;
    if (!s) {
        safetensors_close(st);
        return eval_fail(e, "%s: out of memory", name);
    }
    s->source.memory = data;
    s->source.size = size;
    snprintf(s->source.path, sizeof s->source.path, "%s", name);
    if (!add_shard_tensors(st, s, e) || !sort_by_name(st, e)) {
        safetensors_close(st);
        return false;
    }
    *out = st;
    return true;
}
