/* NumPy's .npy files (npy.h).
 *
 * A file is: the bytes 0x93 "NUMPY"; two bytes of version; the header's length n, 2 bytes little-endian in
 * version 1 and 4 in versions 2 and 3; n bytes of header, a Python dictionary with the keys descr (a string),
 * fortran_order (True or False) and shape (a tuple of integers), ended by spaces and a newline; the data.
 * Source: NumPy's documentation, numpy.lib.format.
 */
#define _POSIX_C_SOURCE 200809L

#include "eval/model/npy.h"

#include "eval/common/input_file.h"

#include <stdlib.h>
#include <string.h>
#include <unistd.h>

enum { MAX_HEADER_BYTES = 65535, MAGIC_BYTES = 6 };
static const char magic[MAGIC_BYTES + 1] = "\x93NUMPY";

struct npy {
    tensor_source source;
    char type_name[32];
    tensor t;
};

/* The header's text while it is read. */
typedef struct text {
    const npy *a;
    char *bytes; /* NUL-terminated */
    size_t n, at;
    size_t start; /* byte of the file at which it begins */
} text;

/* ---- the dictionary ---- */

static bool fail_at(const text *t, const char *wanted, eval_error *e)
{
    char found[32] = "its end";
    if (t->at < t->n)
        snprintf(found, sizeof found, "'%.20s'", t->bytes + t->at);
    return eval_fail(e, "%s: byte %zu: header has %s, expected %s", t->a->source.path, t->start + t->at,
                     found, wanted);
}

static void skip_spaces(text *t)
{
    while (t->at < t->n && (t->bytes[t->at] == ' ' || t->bytes[t->at] == '\n'))
        t->at++;
}

static bool take(text *t, char c)
{
    skip_spaces(t);
    if (t->at >= t->n || t->bytes[t->at] != c)
        return false;
    t->at++;
    return true;
}

/* A string in single or double quotes, without escapes. */
static bool take_string(text *t, char *string, size_t size, const char *wanted, eval_error *e)
{
    skip_spaces(t);
    const char quote = t->at < t->n ? t->bytes[t->at] : '\0';
    if (quote != '\'' && quote != '"')
        return fail_at(t, wanted, e);
    const char *begin = t->bytes + t->at + 1, *end = memchr(begin, quote, t->n - t->at - 1);
    if (!end || (size_t)(end - begin) >= size || memchr(begin, '\\', (size_t)(end - begin)))
        return fail_at(t, wanted, e);
    memcpy(string, begin, (size_t)(end - begin));
    string[end - begin] = '\0';
    t->at += (size_t)(end - begin) + 2;
    return true;
}

static bool take_number(text *t, size_t *value, eval_error *e)
{
    skip_spaces(t);
    const size_t begin = t->at;
    size_t x = 0;
    for (; t->at < t->n && t->bytes[t->at] >= '0' && t->bytes[t->at] <= '9'; t->at++) {
        const size_t digit = (size_t)(t->bytes[t->at] - '0');
        if (x > (SIZE_MAX - digit) / 10) {
            t->at = begin;
            return fail_at(t, "a dimension that fits 64 bits", e);
        }
        x = 10 * x + digit;
    }
    *value = x;
    return t->at > begin || fail_at(t, "a dimension of the shape", e);
}

static bool take_shape(text *t, tensor *array, eval_error *e)
{
    if (!take(t, '('))
        return fail_at(t, "the shape, a tuple such as (2, 3)", e);
    array->n_dims = 0;
    array->n_elems = 1;
    while (!take(t, ')')) {
        size_t n = 0;
        if (array->n_dims == TENSOR_MAX_DIMS)
            return fail_at(t, "at most 8 dimensions", e);
        if (!take_number(t, &n, e))
            return false;
        if (n != 0 && array->n_elems > SIZE_MAX / n)
            return eval_fail(e, "%s: the product of its shape overflows", t->a->source.path);
        array->shape[array->n_dims++] = n;
        array->n_elems *= n;
        if (!take(t, ',') && (t->at >= t->n || t->bytes[t->at] != ')'))
            return fail_at(t, "',' or ')' in the shape", e);
    }
    return true;
}

static bool take_order(text *t, bool *fortran, eval_error *e)
{
    skip_spaces(t);
    const char *at = t->bytes + t->at;
    *fortran = strncmp(at, "True", 4) == 0;
    if (!*fortran && strncmp(at, "False", 5) != 0)
        return fail_at(t, "True or False for fortran_order", e);
    t->at += *fortran ? 4 : 5;
    return true;
}

static bool take_dictionary(text *t, npy *a, eval_error *e)
{
    static const char *const keys[] = {"descr", "fortran_order", "shape"};
    bool seen[3] = {false}, fortran = false;
    char key[32];
    if (!take(t, '{'))
        return fail_at(t, "'{'", e);
    while (!take(t, '}')) {
        const size_t begin = t->at;
        if (!take_string(t, key, sizeof key, "'descr', 'fortran_order' or 'shape'", e))
            return false;
        size_t which = 0;
        while (which < 3 && strcmp(key, keys[which]) != 0)
            which++;
        if (which == 3 || seen[which]) {
            t->at = begin;
            return fail_at(t, "'descr', 'fortran_order' and 'shape', each once", e);
        }
        seen[which] = true;
        if (!take(t, ':'))
            return fail_at(t, "':'", e);
        if (!(which == 0   ? take_string(t, a->type_name, sizeof a->type_name, "the type's name", e)
              : which == 1 ? take_order(t, &fortran, e)
                           : take_shape(t, &a->t, e)))
            return false;
        skip_spaces(t);
        if (!take(t, ',') && (t->at >= t->n || t->bytes[t->at] != '}'))
            return fail_at(t, "',' or '}'", e);
    }
    skip_spaces(t);
    if (t->at < t->n)
        return fail_at(t, "nothing after '}'", e);
    for (size_t i = 0; i < 3; i++)
        if (!seen[i])
            return eval_fail(e, "%s: header has no '%s'", a->source.path, keys[i]);
    return !fortran || eval_fail(e, "%s: fortran_order is True, expected False (numpy.ascontiguousarray)",
                                 a->source.path);
}

/* ---- the file ---- */

static bool check_type(npy *a, eval_error *e)
{
    a->t.type = strcmp(a->type_name, "<f2") == 0 ? TENSOR_F16 : TENSOR_F32;
    a->t.type_name = a->type_name;
    if (a->t.type == TENSOR_F32 && strcmp(a->type_name, "<f4") != 0)
        return eval_fail(e, "%s: descr is '%s', expected '<f4' (float32) or '<f2' (float16)", a->source.path,
                         a->type_name);
    const size_t elem = tensor_type_of(a->t.type)->block_bytes, bytes = a->source.size - a->t.file_offset;
    if (a->t.n_elems > SIZE_MAX / elem)
        return eval_fail(e, "%s: the product of its shape overflows", a->source.path);
    a->t.n_bytes = a->t.n_elems * elem;
    return a->t.n_bytes == bytes ||
           eval_fail(e,
                     "%s: byte %zu: %zu bytes of data, expected %zu for descr %s and shape of %zu elements",
                     a->source.path, a->t.file_offset, bytes, a->t.n_bytes, a->type_name, a->t.n_elems);
}

/* The header's length and where its text begins. */
static bool read_lengths(const npy *a, size_t *start, size_t *n, eval_error *e)
{
    const tensor_source *s = &a->source;
    uint8_t head[MAGIC_BYTES + 6];
    const size_t least = MAGIC_BYTES + 4;
    if (s->size < least)
        return eval_fail(e, "%s: file has %zu bytes, expected at least %zu for a .npy header", s->path,
                         s->size, least);
    if (!tensor_source_read(s, 0, least, head, e))
        return false;
    if (memcmp(head, magic, MAGIC_BYTES) != 0)
        return eval_fail(e, "%s: byte 0: is no .npy file, which begins with \\x93NUMPY", s->path);
    const unsigned version = head[MAGIC_BYTES];
    if (version < 1 || version > 3)
        return eval_fail(e, "%s: byte %d: version is %u, expected 1, 2 or 3", s->path, MAGIC_BYTES, version);
    *start = version == 1 ? least : least + 2;
    if (s->size < *start)
        return eval_fail(e, "%s: file has %zu bytes, expected at least %zu for a .npy header", s->path,
                         s->size, *start);
    if (version > 1 && !tensor_source_read(s, least, 2, head + least, e))
        return false;
    *n = head[MAGIC_BYTES + 2] | (size_t)head[MAGIC_BYTES + 3] << 8;
    if (version > 1)
        *n |= (size_t)head[least] << 16 | (size_t)head[least + 1] << 24;
    if (*n > MAX_HEADER_BYTES || *n > s->size - *start)
        return eval_fail(e, "%s: byte %d: header length is %zu, expected at most %zu", s->path,
                         MAGIC_BYTES + 2, *n,
                         s->size - *start < MAX_HEADER_BYTES ? s->size - *start : (size_t)MAX_HEADER_BYTES);
    return true;
}

static bool read_header(npy *a, eval_error *e)
{
    text t = {.a = a};
    if (!read_lengths(a, &t.start, &t.n, e))
        return false;
    t.bytes = malloc(t.n + 1);
    if (!t.bytes)
        return eval_fail(e, "%s: out of memory", a->source.path);
    bool good = tensor_source_read(&a->source, t.start, t.n, t.bytes, e);
    t.bytes[t.n] = '\0';
    a->t.file_offset = t.start + t.n;
    good = good && take_dictionary(&t, a, e) && check_type(a, e);
    free(t.bytes);
    return good;
}

static npy *new_npy(void)
{
    npy *a = calloc(1, sizeof *a);
    if (a) {
        a->source.fd = -1;
        a->t.source = &a->source;
        a->t.name = a->source.path;
    }
    return a;
}

static bool hand_over(npy **out, npy *a, bool good)
{
    if (good)
        *out = a;
    else
        npy_close(a);
    return good;
}

bool npy_open(npy **out, const char *dir, const char *name, eval_error *e)
{
    npy *a = new_npy();
    if (!a)
        return eval_fail(e, "%s: out of memory", name);
    return hand_over(out, a,
                     input_file_open(&a->source.fd, &a->source.size, a->source.path, dir, name, e) &&
                         read_header(a, e));
}

bool npy_open_memory(npy **out, const char *name, const void *data, size_t size, eval_error *e)
{
    npy *a = new_npy();
    if (!a)
        return eval_fail(e, "%s: out of memory", name);
    a->source.memory = data;
    a->source.size = size;
    snprintf(a->source.path, sizeof a->source.path, "%s", name);
    return hand_over(out, a, read_header(a, e));
}

void npy_close(npy *a)
{
    if (a && a->source.fd >= 0)
        (void)close(a->source.fd);
    free(a);
}

const tensor *npy_tensor(const npy *a)
{
    return &a->t;
}

void npy_write_header(FILE *f, tensor_type type, const size_t *shape, size_t n_dims)
{
    char header[512];
    int used = snprintf(header, sizeof header, "{'descr': '%s', 'fortran_order': False, 'shape': (",
                        type == TENSOR_F16 ? "<f2" : "<f4");
    for (size_t i = 0; i < n_dims; i++)
        used += snprintf(header + used, sizeof header - (size_t)used, "%zu,%s", shape[i],
                         i + 1 < n_dims ? " " : "");
    used += snprintf(header + used, sizeof header - (size_t)used, "), }");
    /* All before the data is a multiple of 64 bytes, filled with spaces before the newline. */
    const size_t before = MAGIC_BYTES + 4, length = (before + (size_t)used + 1 + 63) / 64 * 64 - before;
    const unsigned char version[] = {1, 0, (unsigned char)(length & 0xff), (unsigned char)(length >> 8)};
    fwrite(magic, 1, MAGIC_BYTES, f);
    fwrite(version, 1, sizeof version, f);
    fprintf(f, "%-*s\n", (int)length - 1, header);
}
