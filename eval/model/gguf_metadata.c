/* GGUF's keys and values: checked when the file is opened, looked up by key afterwards.
 *
 * A pair is: the key, a string; the value's kind, 4 bytes; the value. A string is its length in 8 bytes, then
 * that many bytes. An array is the kind of its elements, 4 bytes; their number, 8 bytes; the elements.
 */
#include "eval/model/gguf_internal.h"

#include <assert.h>
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

enum {
    LENGTH_BYTES = 8,
    MAX_KEY_BYTES = 65535, /* the specification's */
};

static const struct {
    const char *name;
    size_t n_bytes; /* 0: not fixed */
} kinds[] = {
    [GGUF_U8] = {"u8", 1},       [GGUF_I8] = {"i8", 1},     [GGUF_U16] = {"u16", 2},
    [GGUF_I16] = {"i16", 2},     [GGUF_U32] = {"u32", 4},   [GGUF_I32] = {"i32", 4},
    [GGUF_F32] = {"f32", 4},     [GGUF_BOOL] = {"bool", 1}, [GGUF_STRING] = {"string", 0},
    [GGUF_ARRAY] = {"array", 0}, [GGUF_U64] = {"u64", 8},   [GGUF_I64] = {"i64", 8},
    [GGUF_F64] = {"f64", 8},
};

/* ---- taking them from the file ---- */

static bool take_kind(gguf_header *h, const char *what, gguf_kind *kind, eval_error *e)
{
    const size_t at = h->at;
    uint32_t number = 0;
    if (!gguf_take_u32(h, what, &number, e))
        return false;
    if (number >= sizeof kinds / sizeof kinds[0])
        return eval_fail(e, "%s: byte %zu: %s%s is %" PRIu32 ", expected 0 to %d", h->source->path, at,
                         h->where, what, number, GGUF_F64);
    *kind = (gguf_kind)number;
    return true;
}

static bool check_bools(const gguf_header *h, size_t at, size_t n, eval_error *e)
{
    for (size_t i = 0; i < n; i++)
        if (h->bytes[at + i] > 1)
            return eval_fail(e, "%s: byte %zu: %sa bool is %u, expected 0 or 1", h->source->path, at + i,
                             h->where, h->bytes[at + i]);
    return true;
}

static bool take_strings(gguf_header *h, gguf_entry *entry, eval_error *e)
{
    entry->strings = malloc((entry->n + 1) * sizeof *entry->strings);
    if (!entry->strings)
        return eval_fail(e, "%s: out of memory for %zu strings", h->source->path, entry->n);
    for (size_t i = 0; i < entry->n; i++) {
        size_t n_bytes = 0;
        if (!gguf_take_string(h, "a string of the array", SIZE_MAX, &entry->strings[i], &n_bytes, e))
            return false;
    }
    entry->strings[entry->n] = h->at + LENGTH_BYTES;
    return true;
}

static bool take_array(gguf_header *h, gguf_entry *entry, eval_error *e)
{
    const size_t kind_at = h->at;
    if (!take_kind(h, "the kind of its elements", &entry->element, e))
        return false;
    if (entry->element == GGUF_ARRAY)
        return eval_fail(e, "%s: byte %zu: %san array of arrays, which is not read here", h->source->path,
                         kind_at, h->where);
    const size_t element_bytes = kinds[entry->element].n_bytes;
    if (!gguf_take_count(h, "the array", element_bytes ? element_bytes : LENGTH_BYTES, &entry->n, e))
        return false;
    entry->at = h->at;
    if (entry->element == GGUF_STRING)
        return take_strings(h, entry, e);
    return gguf_take(h, entry->n * element_bytes, "the array", e) &&
           (entry->element != GGUF_BOOL || check_bools(h, entry->at, entry->n, e));
}

static bool take_pair(gguf_header *h, gguf_entry *entry, eval_error *e)
{
    if (!gguf_take_name(h, "key", MAX_KEY_BYTES, &entry->key_at, &entry->n_key, e) ||
        !take_kind(h, "the kind of its value", &entry->kind, e))
        return false;
    if (entry->kind == GGUF_ARRAY)
        return take_array(h, entry, e);
    if (entry->kind == GGUF_STRING)
        return gguf_take_string(h, "its value", SIZE_MAX, &entry->at, &entry->n, e);
    entry->at = h->at;
    return gguf_take(h, kinds[entry->kind].n_bytes, "its value", e) &&
           (entry->kind != GGUF_BOOL || check_bools(h, entry->at, 1, e));
}

bool gguf_take_metadata(gguf *g, size_t n, eval_error *e)
{
    gguf_entries *m = &g->metadata;
    /* The array grows as pairs turn up, because n is only claimed. */
    while (m->n < n) {
        if (m->n == m->capacity) {
            const size_t capacity = m->capacity ? 2 * m->capacity : 64;
            gguf_entry *entries = realloc(m->entries, capacity * sizeof *entries);
            if (!entries)
                return eval_fail(e, "%s: out of memory for %zu keys", g->source.path, capacity);
            m->entries = entries;
            m->capacity = capacity;
        }
        gguf_entry *entry = &m->entries[m->n++];
        *entry = (gguf_entry){.key = NULL};
        if (!take_pair(&g->header, entry, e))
            return false;
    }
    g->header.where[0] = '\0';
    return true;
}

/* Equal keys in the file's order, for the message. */
static int compare_keys(const void *a, const void *b)
{
    const gguf_entry *x = a, *y = b;
    const int order = strcmp(x->key, y->key);
    return order ? order : (x->key_at > y->key_at) - (x->key_at < y->key_at);
}

bool gguf_seal_metadata(gguf *g, eval_error *e)
{
    gguf_entries *m = &g->metadata;
    /* Whatever follows a string is a number that has been taken already, or the spare byte at the end. */
    for (size_t i = 0; i < m->n; i++) {
        gguf_entry *entry = &m->entries[i];
        entry->key = (const char *)g->header.bytes + entry->key_at;
        g->header.bytes[entry->key_at + entry->n_key] = '\0';
        if (entry->kind == GGUF_STRING)
            g->header.bytes[entry->at + entry->n] = '\0';
        for (size_t j = 0; entry->strings && j < entry->n; j++)
            g->header.bytes[entry->strings[j + 1] - LENGTH_BYTES] = '\0';
    }
    if (m->n > 0)
        qsort(m->entries, m->n, sizeof *m->entries, compare_keys);
    for (size_t i = 1; i < m->n; i++)
        if (strcmp(m->entries[i - 1].key, m->entries[i].key) == 0)
            return eval_fail(e, "%s: key '%.200s' is there twice, at bytes %zu and %zu", g->source.path,
                             m->entries[i].key, m->entries[i - 1].key_at, m->entries[i].key_at);
    return true;
}

void gguf_free_metadata(gguf *g)
{
    for (size_t i = 0; i < g->metadata.n; i++)
        free(g->metadata.entries[i].strings);
    free(g->metadata.entries);
}

/* ---- values ---- */

static int compare_with_key(const void *key, const void *entry)
{
    return strcmp(key, ((const gguf_entry *)entry)->key);
}

static const gguf_entry *find(const gguf *g, const char *key)
{
    const gguf_entries *m = &g->metadata;
    return m->n ? bsearch(key, m->entries, m->n, sizeof *m->entries, compare_with_key) : NULL;
}

static bool is_integer(gguf_kind kind)
{
    return kind != GGUF_F32 && kind != GGUF_F64 && kind != GGUF_BOOL && kind != GGUF_STRING &&
           kind != GGUF_ARRAY;
}

static bool is_float(gguf_kind kind)
{
    return kind == GGUF_F32 || kind == GGUF_F64;
}

#define LOAD(type, src)                                                                                      \
    type x;                                                                                                  \
    memcpy(&x, src, sizeof x)

/* The element at src as a magnitude and a sign, which hold any 64-bit integer. */
static uint64_t load_magnitude(gguf_kind kind, const uint8_t *src, bool *negative)
{
    int64_t value = 0;
    *negative = false;
    switch (kind) {
    case GGUF_BOOL:
    case GGUF_U8:
        return *src;
    case GGUF_U16: {
        LOAD(uint16_t, src);
        return x;
    }
    case GGUF_U32: {
        LOAD(uint32_t, src);
        return x;
    }
    case GGUF_U64: {
        LOAD(uint64_t, src);
        return x;
    }
    case GGUF_I8: {
        LOAD(int8_t, src);
        value = x;
        break;
    }
    case GGUF_I16: {
        LOAD(int16_t, src);
        value = x;
        break;
    }
    case GGUF_I32: {
        LOAD(int32_t, src);
        value = x;
        break;
    }
    case GGUF_I64: {
        LOAD(int64_t, src);
        value = x;
        break;
    }
    default:
        assert(is_integer(kind));
        break;
    }
    *negative = value < 0;
    return *negative ? 0 - (uint64_t)value : (uint64_t)value;
}

static double load_float(gguf_kind kind, const uint8_t *src)
{
    if (kind == GGUF_F64) {
        LOAD(double, src);
        return x;
    }
    LOAD(float, src);
    return (double)x;
}

static void describe(const gguf *g, const gguf_entry *entry, char *text, size_t size)
{
    const uint8_t *src = g->header.bytes + entry->at;
    bool negative = false;
    if (is_integer(entry->kind)) {
        const uint64_t magnitude = load_magnitude(entry->kind, src, &negative);
        (void)snprintf(text, size, "%s%" PRIu64, negative ? "-" : "", magnitude);
    } else if (is_float(entry->kind)) {
        (void)snprintf(text, size, "%.9g", load_float(entry->kind, src));
    } else if (entry->kind == GGUF_BOOL) {
        (void)snprintf(text, size, "%s", *src ? "true" : "false");
    } else if (entry->kind == GGUF_STRING) {
        (void)snprintf(text, size, "the string '%.60s'%s", (const char *)src,
                       strlen((const char *)src) < entry->n ? " and a NUL and more" : "");
    } else {
        (void)snprintf(text, size, "an array of %zu %ss", entry->n, kinds[entry->element].name);
    }
}

bool gguf_wrong_value(const gguf *g, const char *key, const char *wanted, eval_error *e)
{
    const gguf_entry *entry = find(g, key);
    char found[128];
    assert(entry);
    describe(g, entry, found, sizeof found);
    return eval_fail(e, "%s: byte %zu: key '%.200s' is %s, expected %s", g->source.path, entry->at, key,
                     found, wanted);
}

bool gguf_has(const gguf *g, const char *key)
{
    return find(g, key) != NULL;
}

const char *gguf_key(const gguf *g, size_t i, gguf_kind *kind, gguf_kind *element)
{
    if (i >= g->metadata.n)
        return NULL;
    *kind = g->metadata.entries[i].kind;
    *element = g->metadata.entries[i].element;
    return g->metadata.entries[i].key;
}

bool gguf_optional_size(const gguf *g, const char *key, size_t min, size_t max, size_t *value, eval_error *e)
{
    const gguf_entry *entry = find(g, key);
    if (!entry)
        return true;
    bool negative = true;
    uint64_t found = 0;
    if (is_integer(entry->kind))
        found = load_magnitude(entry->kind, g->header.bytes + entry->at, &negative);
    if (negative || found < min || found > max) {
        char wanted[80];
        (void)snprintf(wanted, sizeof wanted, "a whole number from %zu to %zu", min, max);
        return gguf_wrong_value(g, key, wanted, e);
    }
    *value = (size_t)found;
    return true;
}

bool gguf_required_size(const gguf *g, const char *key, size_t min, size_t max, size_t *value, eval_error *e)
{
    if (!gguf_has(g, key))
        return eval_fail(e, "%s: key '%.200s' is missing, expected a whole number from %zu to %zu",
                         g->source.path, key, min, max);
    return gguf_optional_size(g, key, min, max, value, e);
}

bool gguf_optional_float(const gguf *g, const char *key, double min, double max, double *value, eval_error *e)
{
    const gguf_entry *entry = find(g, key);
    if (!entry)
        return true;
    const double found = is_float(entry->kind) ? load_float(entry->kind, g->header.bytes + entry->at) : 0;
    if (!is_float(entry->kind) || !(found >= min && found <= max)) {
        char wanted[80];
        (void)snprintf(wanted, sizeof wanted, "a floating-point number from %.9g to %.9g", min, max);
        return gguf_wrong_value(g, key, wanted, e);
    }
    *value = found;
    return true;
}

bool gguf_optional_bool(const gguf *g, const char *key, bool *value, eval_error *e)
{
    const gguf_entry *entry = find(g, key);
    if (!entry)
        return true;
    if (entry->kind != GGUF_BOOL)
        return gguf_wrong_value(g, key, "a bool", e);
    *value = g->header.bytes[entry->at] != 0;
    return true;
}

bool gguf_optional_string(const gguf *g, const char *key, const char **value, eval_error *e)
{
    const gguf_entry *entry = find(g, key);
    if (!entry)
        return true;
    const char *text = (const char *)g->header.bytes + entry->at;
    if (entry->kind != GGUF_STRING || strlen(text) != entry->n)
        return gguf_wrong_value(g, key, "a string without NUL", e);
    *value = text;
    return true;
}

/* ---- arrays ---- */

bool gguf_optional_array(const gguf *g, const char *key, gguf_kind kind, size_t *n, eval_error *e)
{
    const gguf_entry *entry = find(g, key);
    *n = 0;
    if (!entry)
        return true;
    if (entry->kind != GGUF_ARRAY || entry->element != kind) {
        char wanted[32];
        (void)snprintf(wanted, sizeof wanted, "an array of %ss", kinds[kind].name);
        return gguf_wrong_value(g, key, wanted, e);
    }
    *n = entry->n;
    return true;
}

const char *gguf_array_string(const gguf *g, const char *key, size_t i, size_t *n_bytes)
{
    const gguf_entry *entry = find(g, key);
    assert(entry && entry->strings && i < entry->n);
    *n_bytes = entry->strings[i + 1] - LENGTH_BYTES - entry->strings[i];
    return (const char *)g->header.bytes + entry->strings[i];
}

static const uint8_t *array_element(const gguf *g, const gguf_entry *entry, size_t i)
{
    assert(entry && entry->kind == GGUF_ARRAY && i < entry->n);
    return g->header.bytes + entry->at + i * kinds[entry->element].n_bytes;
}

int64_t gguf_array_integer(const gguf *g, const char *key, size_t i)
{
    const gguf_entry *entry = find(g, key);
    const uint8_t *src = array_element(g, entry, i);
    bool negative = false;
    const uint64_t magnitude = load_magnitude(entry->element, src, &negative);
    if (negative)
        return -(int64_t)(magnitude - 1) - 1;
    return magnitude > INT64_MAX ? INT64_MAX : (int64_t)magnitude;
}

double gguf_array_float(const gguf *g, const char *key, size_t i)
{
    const gguf_entry *entry = find(g, key);
    const uint8_t *src = array_element(g, entry, i);
    assert(is_float(entry->element));
    return load_float(entry->element, src);
}
