/* Cells as lines of JSON (line.h). What a struct holds is written down once, in a table of its fields, from
 * which come the writer, the reader and the text that is hashed for the key.
 *
 * Numbers come back with the same bits: doubles have 17 digits, NaN is null, infinities are the strings "inf"
 * and
 * "-inf", and whole numbers that a signed 64-bit integer cannot hold, like all checksums, are strings of
 * hexadecimal digits after 0x. A portrait, which is large, is hexadecimal digits too: of each float its bits,
 * eight digits.
 */
#include "eval/results/line.h"

#include "eval/common/json_util.h"

#include <assert.h>
#include <float.h>
#include <inttypes.h>
#include <limits.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define XXH_INLINE_ALL
#include <xxhash.h>

/* ---- tables ---- */

typedef enum field_type { TEXT, BOOL, I32, U32, U64, HEX, SIZE, FLOAT, DOUBLE } field_type;

typedef struct field {
    const char *name;
    field_type type;
    size_t at, size; /* within the struct; size of a TEXT with its zero */
} field;

#define FIELD(of, type, name)                                                                                \
    {                                                                                                        \
#name, type, offsetof(of, name), sizeof(((of *)0)->name)                                             \
    }
#define COUNT(table) (sizeof(table) / sizeof(table)[0])

static const field experiment_fields[] = {
    FIELD(experiment, TEXT, model),       FIELD(experiment, TEXT, architecture),
    FIELD(experiment, TEXT, weights),     FIELD(experiment, HEX, model_checksum),
    FIELD(experiment, U64, n_params),     FIELD(experiment, SIZE, n_layer),
    FIELD(experiment, SIZE, n_head),      FIELD(experiment, SIZE, n_kv_head),
    FIELD(experiment, SIZE, head_dim),    FIELD(experiment, SIZE, n_embd),
    FIELD(experiment, SIZE, n_ctx),       FIELD(experiment, SIZE, vocab_size),
    FIELD(experiment, SIZE, attn_window), FIELD(experiment, SIZE, n_layer_windowed),
    FIELD(experiment, TEXT, text),        FIELD(experiment, I32, bos_id),
    FIELD(experiment, SIZE, n_tokens),    FIELD(experiment, SIZE, n_prompt),
    FIELD(experiment, BOOL, append_only), FIELD(experiment, BOOL, has_quality),
    FIELD(experiment, BOOL, kv_only),     FIELD(experiment, TEXT, precision),
    FIELD(experiment, U64, seed),         FIELD(experiment, TEXT, version),
};

/* A cell's own; its scheme and arrays are written one by one. */
static const field cell_fields[] = {
    FIELD(cell, SIZE, window),    FIELD(cell, HEX, ids_checksum),   FIELD(cell, DOUBLE, kld_p99),
    FIELD(cell, DOUBLE, kld_max), FIELD(cell, FLOAT, attn_max_abs), FIELD(cell, DOUBLE, seconds),
    FIELD(cell, TEXT, isa),
};

static const field usage_fields[] = {
    FIELD(kvq_usage, U64, payload),
    FIELD(kvq_usage, U64, metadata),
    FIELD(kvq_usage, U64, residual),
    FIELD(kvq_usage, U64, sinks),
    FIELD(kvq_usage, U64, slack),
    FIELD(kvq_usage, U64, bookkeeping),
    FIELD(kvq_usage, U64, total),
    FIELD(kvq_usage, U64, n_elements),
    FIELD(kvq_usage, U64, n_packed_elements),
    FIELD(kvq_usage, U64, evidence),
};

/* Blocks and heads are many: each is an array, in this order. */
static const field block_fields[] = {
    FIELD(cell_block, U32, n_steps),       FIELD(cell_block, U32, n_targets),
    FIELD(cell_block, U32, n_agree),       FIELD(cell_block, DOUBLE, kl),
    FIELD(cell_block, DOUBLE, nll),        FIELD(cell_block, DOUBLE, nll_fp32),
    FIELD(cell_block, DOUBLE, attn_error), FIELD(cell_block, DOUBLE, attn_reference),
    FIELD(cell_block, DOUBLE, attn_kl),    FIELD(cell_block, U64, n_attn),
};

static const field head_fields[] = {
    FIELD(cell_head, DOUBLE, k_error),    FIELD(cell_head, DOUBLE, k_reference),
    FIELD(cell_head, DOUBLE, v_error),    FIELD(cell_head, DOUBLE, v_reference),
    FIELD(cell_head, DOUBLE, attn_error), FIELD(cell_head, DOUBLE, attn_reference),
    FIELD(cell_head, DOUBLE, attn_kl),    FIELD(cell_head, U64, n_steps),
};

static const field worst_fields[] = {
    FIELD(cell_worst, U32, position),   FIELD(cell_worst, DOUBLE, kl),
    FIELD(cell_worst, I32, next),       FIELD(cell_worst, I32, best_fp32),
    FIELD(cell_worst, I32, best),       FIELD(cell_worst, TEXT, context),
    FIELD(cell_worst, TEXT, next_text), FIELD(cell_worst, TEXT, best_fp32_text),
    FIELD(cell_worst, TEXT, best_text),
};

static const field portrait_fields[] = {
    FIELD(cell_portrait, SIZE, layer),
    FIELD(cell_portrait, SIZE, kv_head),
    FIELD(cell_portrait, SIZE, n_rows),
    FIELD(cell_portrait, SIZE, n_columns),
};

/* A whole number of a struct that has no sign. */
static uint64_t unsigned_at(const field *f, const void *base)
{
    const char *at = (const char *)base + f->at;
    uint32_t narrow = 0;
    uint64_t wide = 0;
    size_t size = 0;
    switch (f->type) {
    case U32:
        memcpy(&narrow, at, sizeof narrow);
        return narrow;
    case SIZE:
        memcpy(&size, at, sizeof size);
        return size;
    default:
        memcpy(&wide, at, sizeof wide);
        return wide;
    }
}

/* ---- the key ---- */

/* Text that is no UTF-8 JSON cannot have, and a cell should not be lost for it: then what is not ASCII
 * becomes '?'. The text itself, or a copy in `plain`, which has room for any field. */
static const char *good_text(const char *text, char *plain, size_t size)
{
    json_t *good = json_string(text);
    json_decref(good);
    if (good)
        return text;
    snprintf(plain, size, "%s", text);
    for (char *c = plain; *c; c++)
        *c = (unsigned char)*c < 0x80 ? *c : '?';
    return plain;
}

/* name=length:text or name=number, each on a line of its own, so that no two structs share a text. */
static void hash_fields(XXH3_state_t *state, const field *fields, size_t n, const void *base)
{
    for (size_t i = 0; i < n; i++) {
        const field *f = &fields[i];
        const char *at = (const char *)base + f->at;
        char line[640], plain[512];
        int32_t number = 0;
        bool flag = false;
        if (f->type == TEXT) { /* as the line has it */
            const char *text = good_text(at, plain, sizeof plain);
            snprintf(line, sizeof line, "%s=%zu:%s\n", f->name, strlen(text), text);
        } else if (f->type == BOOL)
            snprintf(line, sizeof line, "%s=%d\n", f->name, (memcpy(&flag, at, sizeof flag), flag));
        else if (f->type == I32)
            snprintf(line, sizeof line, "%s=%" PRId32 "\n", f->name, (memcpy(&number, at, 4), number));
        else
            snprintf(line, sizeof line, "%s=%" PRIu64 "\n", f->name, unsigned_at(f, base));
        XXH3_64bits_update(state, line, strlen(line));
    }
}

uint64_t line_key(const experiment *x, const char *scheme, size_t window, uint64_t ids_checksum)
{
    XXH3_state_t state;
    char text[128];
    XXH3_64bits_reset(&state);
    XXH3_64bits_update(&state, LINE_SCHEMA "\n", strlen(LINE_SCHEMA "\n"));
    hash_fields(&state, experiment_fields, COUNT(experiment_fields), x);
    snprintf(text, sizeof text, "window=%zu\nids_checksum=%" PRIu64 "\nscheme=%zu:", window, ids_checksum,
             strlen(scheme));
    XXH3_64bits_update(&state, text, strlen(text));
    XXH3_64bits_update(&state, scheme, strlen(scheme));
    return XXH3_64bits_digest(&state);
}

bool line_same_experiment(const experiment *a, const experiment *b)
{
    for (size_t i = 0; i < COUNT(experiment_fields); i++) {
        const field *f = &experiment_fields[i];
        const char *in_a = (const char *)a + f->at, *in_b = (const char *)b + f->at;
        if (f->type == TEXT ? strcmp(in_a, in_b) != 0 : memcmp(in_a, in_b, f->size) != 0)
            return false;
    }
    return true;
}

/* ---- writing ---- */

static json_t *real_json(double x)
{
    return isnan(x) ? json_null() : isinf(x) ? json_string(x > 0.0 ? "inf" : "-inf") : json_real(x);
}

static json_t *hex_json(uint64_t x)
{
    char text[24];
    snprintf(text, sizeof text, "0x%016" PRIx64, x);
    return json_string(text);
}

static json_t *field_json(const field *f, const void *base)
{
    const char *at = (const char *)base + f->at;
    bool flag = false;
    int32_t number = 0;
    char plain[512];
    float single = 0.0f;
    double real = 0.0;
    switch (f->type) {
    case TEXT:
        return json_string(good_text(at, plain, sizeof plain));
    case BOOL:
        memcpy(&flag, at, sizeof flag);
        return json_boolean(flag);
    case I32:
        memcpy(&number, at, sizeof number);
        return json_integer(number);
    case FLOAT:
        memcpy(&single, at, sizeof single);
        return real_json((double)single);
    case DOUBLE:
        memcpy(&real, at, sizeof real);
        return real_json(real);
    case U32:
    case U64:
    case SIZE:
        if (unsigned_at(f, base) <= INT64_MAX)
            return json_integer((json_int_t)unsigned_at(f, base));
        return hex_json(unsigned_at(f, base));
    case HEX:
        return hex_json(unsigned_at(f, base));
    }
    return NULL;
}

static json_t *fields_json(const field *fields, size_t n, const void *base)
{
    json_t *object = json_object();
    for (size_t i = 0; object && i < n; i++) {
        if (json_object_set_new(object, fields[i].name, field_json(&fields[i], base)) != 0) {
            json_decref(object);
            return NULL;
        }
    }
    return object;
}

static json_t *rows_json(const field *fields, size_t n, const void *rows, size_t n_rows, size_t row_size)
{
    json_t *array = json_array();
    bool good = array != NULL;
    for (size_t i = 0; good && i < n_rows; i++) {
        json_t *row = json_array();
        good = json_array_append_new(array, row) == 0;
        for (size_t j = 0; good && j < n; j++)
            good = json_array_append_new(row, field_json(&fields[j], (const char *)rows + i * row_size)) == 0;
    }
    if (good)
        return array;
    json_decref(array);
    return NULL;
}

static json_t *bins_json(const cell *c)
{
    json_t *array = json_array();
    for (size_t i = 0; i < CELL_N_BINS; i++)
        (void)json_array_append_new(array, json_integer(c->bins[i]));
    return array;
}

static json_t *worst_json(const cell *c)
{
    json_t *array = json_array();
    for (size_t i = 0; i < c->n_worst; i++)
        (void)json_array_append_new(array, fields_json(worst_fields, COUNT(worst_fields), &c->worst[i]));
    return array;
}

static json_t *floats_json(const float *x, size_t n)
{
    char *text = malloc(8 * n + 1);
    if (!text)
        return NULL;
    text[0] = '\0';
    for (size_t i = 0; i < n; i++) {
        uint32_t bits;
        memcpy(&bits, &x[i], sizeof bits);
        snprintf(text + 8 * i, 9, "%08" PRIx32, bits);
    }
    json_t *string = json_stringn_nocheck(text, 8 * n);
    free(text);
    return string;
}

static json_t *portrait_json(const cell_portrait *p)
{
    const size_t n = p->n_rows * p->n_columns;
    if (n == 0)
        return json_null();
    json_t *object = fields_json(portrait_fields, COUNT(portrait_fields), p);
    if (json_object_set_new(object, "k", floats_json(p->k, n)) == 0 &&
        json_object_set_new(object, "v", floats_json(p->v, n)) == 0)
        return object;
    json_decref(object);
    return NULL;
}

static json_t *cell_json(const experiment *x, const cell *c)
{
    const struct {
        const char *name;
        json_t *value;
    } parts[] = {
        {"usage", fields_json(usage_fields, COUNT(usage_fields), &c->usage)},
        {"blocks", rows_json(block_fields, COUNT(block_fields), c->blocks, c->n_blocks, sizeof c->blocks[0])},
        {"heads",
         rows_json(head_fields, COUNT(head_fields), c->heads, x->n_layer * x->n_head, sizeof c->heads[0])},
        {"bins", bins_json(c)},
        {"worst", worst_json(c)},
        {"portrait", portrait_json(&c->portrait)},
    };
    json_t *object = json_object(), *own = fields_json(cell_fields, COUNT(cell_fields), c);
    bool good = json_object_set_new(object, "scheme", json_string(c->scheme)) == 0 && own &&
                json_object_update(object, own) == 0;
    json_decref(own);
    for (size_t i = 0; i < COUNT(parts); i++) /* takes each of them, also after a failure */
        good = json_object_set_new(object, parts[i].name, parts[i].value) == 0 && good;
    if (good && json_array_size(json_object_get(object, "bins")) == CELL_N_BINS &&
        json_array_size(json_object_get(object, "worst")) == c->n_worst)
        return object;
    json_decref(object);
    return NULL;
}

char *line_write(const experiment *x, const cell *c)
{
    char key[24];
    snprintf(key, sizeof key, "%016" PRIx64, line_key(x, c->scheme, c->window, c->ids_checksum));
    json_t *root = json_object();
    bool good = json_object_set_new(root, "schema", json_string(LINE_SCHEMA)) == 0;
    good = json_object_set_new(root, "key", json_string(key)) == 0 && good;
    good = json_object_set_new(root, "experiment",
                               fields_json(experiment_fields, COUNT(experiment_fields), x)) == 0 &&
           good;
    good = json_object_set_new(root, "cell", cell_json(x, c)) == 0 && good;
    char *text = good ? json_dumps(root, JSON_COMPACT | JSON_REAL_PRECISION(17)) : NULL;
    json_decref(root);
    return text;
}

/* ---- reading ---- */

typedef struct reader {
    const char *where; /* file and line */
    eval_error *e;
} reader;

static bool wrong(const reader *r, const char *path, const json_t *value, const char *expected)
{
    char wanted[96];
    if (!value)
        return eval_fail(r->e, "%s: %s is missing, expected %s", r->where, path, expected);
    snprintf(wanted, sizeof wanted, "expected %s", expected);
    return json_wrong_value(value, r->where, path, wanted, r->e);
}

/* 16 hexadecimal digits and nothing else. */
static bool read_digits(const char *text, size_t n, uint64_t *out)
{
    /* No more than these n: a portrait's text is long, and would be measured once for each number. */
    char digits[17];
    assert(n < sizeof digits);
    const char *end = memchr(text, '\0', n);
    if (end)
        return false;
    memcpy(digits, text, n);
    digits[n] = '\0';
    *out = strtoull(digits, NULL, 16);
    return strspn(digits, "0123456789abcdef") == n;
}

static bool to_unsigned(const json_t *value, uint64_t *out)
{
    if (json_is_integer(value) && json_integer_value(value) >= 0) {
        *out = (uint64_t)json_integer_value(value);
        return true;
    }
    const char *text = json_string_value(value);
    return text && strncmp(text, "0x", 2) == 0 && strlen(text) == 18 && read_digits(text + 2, 16, out);
}

static bool to_real(const json_t *value, double *out)
{
    const char *text = json_string_value(value);
    if (json_is_null(value))
        *out = (double)NAN;
    else if (text && strcmp(text, "inf") == 0)
        *out = (double)INFINITY;
    else if (text && strcmp(text, "-inf") == 0)
        *out = (double)-INFINITY;
    else if (json_is_number(value))
        *out = json_number_value(value);
    else
        return false;
    return true;
}

static bool read_unsigned(const reader *r, const field *f, const char *path, const json_t *value, void *at)
{
    uint64_t wide = 0;
    const uint64_t most = f->type == U32 ? UINT32_MAX : f->type == SIZE ? SIZE_MAX : UINT64_MAX;
    if (!to_unsigned(value, &wide) || wide > most)
        return wrong(r, path, value, "a whole number from 0, or 0x and 16 hexadecimal digits");
    const uint32_t narrow = (uint32_t)wide;
    const size_t size = (size_t)wide;
    if (f->type == U32)
        memcpy(at, &narrow, sizeof narrow);
    else if (f->type == SIZE)
        memcpy(at, &size, sizeof size);
    else
        memcpy(at, &wide, sizeof wide);
    return true;
}

static bool read_real(const reader *r, const field *f, const char *path, const json_t *value, void *at)
{
    double x = 0.0;
    if (!to_real(value, &x) || x < 0.0) /* they are sums of what is never below zero, or the largest of it */
        return wrong(r, path, value, "a number from 0, null or \"inf\"");
    if (f->type == DOUBLE) {
        memcpy(at, &x, sizeof x);
        return true;
    }
    if (isfinite(x) && fabs(x) > (double)FLT_MAX)
        return wrong(r, path, value, "a number that float32 holds");
    const float single = (float)x;
    memcpy(at, &single, sizeof single);
    return true;
}

static bool read_field(const reader *r, const field *f, const char *path, const json_t *value, void *base)
{
    char *at = (char *)base + f->at, expected[64];
    const char *text = json_string_value(value);
    switch (f->type) {
    case TEXT:
        if (!text || strlen(text) >= f->size) {
            snprintf(expected, sizeof expected, "a string of at most %zu bytes", f->size - 1);
            return wrong(r, path, value, expected);
        }
        memcpy(at, text, strlen(text) + 1);
        return true;
    case BOOL:
        if (!json_is_boolean(value))
            return wrong(r, path, value, "true or false");
        memcpy(at, &(bool){json_is_true(value)}, sizeof(bool));
        return true;
    case I32:
        if (!json_is_integer(value) || json_integer_value(value) < INT32_MIN ||
            json_integer_value(value) > INT32_MAX)
            return wrong(r, path, value, "a 32-bit integer");
        memcpy(at, &(int32_t){(int32_t)json_integer_value(value)}, sizeof(int32_t));
        return true;
    case U32:
    case U64:
    case HEX:
    case SIZE:
        return read_unsigned(r, f, path, value, at);
    case FLOAT:
    case DOUBLE:
        return read_real(r, f, path, value, at);
    }
    return false;
}

static bool read_fields(const reader *r, const char *path, const json_t *object, const field *fields,
                        size_t n, void *base)
{
    char name[160];
    if (!json_is_object(object))
        return wrong(r, path, object, "an object");
    for (size_t i = 0; i < n; i++) {
        snprintf(name, sizeof name, "%s.%s", path, fields[i].name);
        if (!read_field(r, &fields[i], name, json_object_get(object, fields[i].name), base))
            return false;
    }
    return true;
}

/* An array of arrays into rows that it allocates. */
static bool read_rows(const reader *r, const char *path, const json_t *array, const field *fields, size_t n,
                      void **rows, size_t row_size)
{
    char name[160], expected[64];
    const size_t n_rows = json_array_size(array);
    *rows = calloc(n_rows > 0 ? n_rows : 1, row_size);
    if (!*rows)
        return eval_fail(r->e, "%s: out of memory", r->where);
    for (size_t i = 0; i < n_rows; i++) {
        const json_t *row = json_array_get(array, i);
        if (json_array_size(row) != n) {
            snprintf(name, sizeof name, "%s[%zu]", path, i);
            snprintf(expected, sizeof expected, "an array of %zu", n);
            return wrong(r, name, row, expected);
        }
        for (size_t j = 0; j < n; j++) {
            snprintf(name, sizeof name, "%s[%zu].%s", path, i, fields[j].name);
            if (!read_field(r, &fields[j], name, json_array_get(row, j), (char *)*rows + i * row_size))
                return false;
        }
    }
    return true;
}

/* Steps are as many as they must be, those of a kind no more, and what was computed of logits is finite. */
static bool check_block(const reader *r, const cell_block *b, size_t i, uint64_t due)
{
    const double most_nll = 1e6 * (double)due; /* float32 logits hardly reach a thousandth of it */
    const struct {
        const char *name;
        uint64_t value;
    } counts[] = {{"n_steps", b->n_steps}, {"n_targets", b->n_targets}, {"n_agree", b->n_agree}};
    const struct {
        const char *name;
        double value, most;
    } sums[] = {{"kl", b->kl, DBL_MAX}, {"nll", b->nll, most_nll}, {"nll_fp32", b->nll_fp32, most_nll}};
    for (size_t j = 0; j < COUNT(counts); j++)
        if (counts[j].value > due || (j == 0 && counts[j].value < due))
            return eval_fail(r->e, "%s: cell.blocks[%zu].%s is %" PRIu64 ", expected %s%" PRIu64, r->where, i,
                             counts[j].name, counts[j].value, j > 0 ? "at most " : "", due);
    for (size_t j = 0; j < COUNT(sums); j++)
        if (!(sums[j].value <= sums[j].most))
            return eval_fail(r->e, "%s: cell.blocks[%zu].%s is %g, expected 0 to %g", r->where, i,
                             sums[j].name, sums[j].value, sums[j].most);
    return true;
}

/* Blocks of CELL_BLOCK steps, of which the last may be shorter, that cover the window's counted steps. */
static bool read_blocks(const reader *r, const experiment *x, const json_t *array, cell *c)
{
    void *rows = NULL;
    if (!json_is_array(array))
        return wrong(r, "cell.blocks", array, "an array");
    const bool good =
        read_rows(r, "cell.blocks", array, block_fields, COUNT(block_fields), &rows, sizeof c->blocks[0]);
    c->blocks = rows;
    c->n_blocks = json_array_size(array);
    if (!good)
        return false;
    uint64_t left = x->n_tokens - x->n_prompt;
    for (size_t i = 0; i < c->n_blocks; i++) {
        const uint64_t due = left < CELL_BLOCK ? left : CELL_BLOCK;
        if (!check_block(r, &c->blocks[i], i, due))
            return false;
        left -= due;
    }
    return left == 0 || eval_fail(r->e, "%s: cell.blocks: the last %" PRIu64 " steps of %zu are missing",
                                  r->where, left, x->n_tokens - x->n_prompt);
}

static bool read_heads(const reader *r, const experiment *x, const json_t *array, cell *c)
{
    void *rows = NULL;
    char expected[64];
    const size_t n = x->n_layer * x->n_head; /* both within the library's limits */
    if (!json_is_array(array) || json_array_size(array) != n) {
        snprintf(expected, sizeof expected, "an array of %zu: one row per layer and head", n);
        return json_is_array(array) ? eval_fail(r->e, "%s: cell.heads has %zu rows, expected %s", r->where,
                                                json_array_size(array), expected)
                                    : wrong(r, "cell.heads", array, expected);
    }
    const bool good =
        read_rows(r, "cell.heads", array, head_fields, COUNT(head_fields), &rows, sizeof c->heads[0]);
    c->heads = rows;
    return good;
}

static bool read_bins(const reader *r, const json_t *array, cell *c)
{
    if (json_array_size(array) != CELL_N_BINS)
        return wrong(r, "cell.bins", array, "an array of 40");
    for (size_t i = 0; i < CELL_N_BINS; i++) {
        const field f = {"", U32, 0, 0};
        char path[64];
        snprintf(path, sizeof path, "cell.bins[%zu]", i);
        if (!read_unsigned(r, &f, path, json_array_get(array, i), &c->bins[i]))
            return false;
    }
    return true;
}

static bool read_worst(const reader *r, const json_t *array, cell *c)
{
    if (!json_is_array(array) || json_array_size(array) > CELL_N_WORST)
        return wrong(r, "cell.worst", array, "an array of at most 10");
    c->n_worst = json_array_size(array);
    for (size_t i = 0; i < c->n_worst; i++) {
        char path[64];
        snprintf(path, sizeof path, "cell.worst[%zu]", i);
        if (!read_fields(r, path, json_array_get(array, i), worst_fields, COUNT(worst_fields), &c->worst[i]))
            return false;
    }
    return true;
}

static bool read_floats(const reader *r, const char *path, const json_t *value, size_t n, float **out)
{
    const char *text = json_string_value(value);
    char expected[64];
    snprintf(expected, sizeof expected, "%zu hexadecimal digits", 8 * n);
    if (!text || strlen(text) != 8 * n || strspn(text, "0123456789abcdef") != 8 * n)
        return text ? eval_fail(r->e, "%s: %s: expected %s", r->where, path, expected)
                    : wrong(r, path, value, expected);
    *out = calloc(n, sizeof **out);
    if (!*out)
        return eval_fail(r->e, "%s: out of memory", r->where);
    for (size_t i = 0; i < n; i++) {
        uint64_t wide = 0;
        (void)read_digits(text + 8 * i, 8, &wide);
        const uint32_t bits = (uint32_t)wide;
        memcpy(&(*out)[i], &bits, sizeof bits);
    }
    return true;
}

static bool read_portrait(const reader *r, const json_t *object, cell *c)
{
    cell_portrait *p = &c->portrait;
    if (json_is_null(object))
        return true;
    if (!read_fields(r, "cell.portrait", object, portrait_fields, COUNT(portrait_fields), p))
        return false;
    if (p->n_rows < 1 || p->n_rows > CELL_PORTRAIT || p->n_columns < 1 || p->n_columns > KVQ_MAX_HEAD_DIM)
        return eval_fail(r->e, "%s: cell.portrait: %zu rows of %zu, expected 1 to %d of 1 to %d", r->where,
                         p->n_rows, p->n_columns, (int)CELL_PORTRAIT, (int)KVQ_MAX_HEAD_DIM);
    const size_t n = p->n_rows * p->n_columns;
    return read_floats(r, "cell.portrait.k", json_object_get(object, "k"), n, &p->k) &&
           read_floats(r, "cell.portrait.v", json_object_get(object, "v"), n, &p->v);
}

static bool read_experiment(const reader *r, const json_t *object, experiment *x)
{
    if (!read_fields(r, "experiment", object, experiment_fields, COUNT(experiment_fields), x))
        return false;
    const struct {
        const char *name;
        size_t value, least, most;
    } ranges[] = {
        {"n_layer", x->n_layer, 1, KVQ_MAX_LAYERS},    {"n_head", x->n_head, 1, KVQ_MAX_HEADS},
        {"n_kv_head", x->n_kv_head, 1, KVQ_MAX_HEADS}, {"head_dim", x->head_dim, 1, KVQ_MAX_HEAD_DIM},
        {"n_tokens", x->n_tokens, 1, KVQ_MAX_TOKENS},  {"n_prompt", x->n_prompt, 0, x->n_tokens}};
    for (size_t i = 0; i < COUNT(ranges); i++)
        if (ranges[i].value < ranges[i].least || ranges[i].value > ranges[i].most)
            return eval_fail(r->e, "%s: experiment.%s is %zu, expected %zu to %zu", r->where, ranges[i].name,
                             ranges[i].value, ranges[i].least, ranges[i].most);
    return true;
}

/* Bytes by purpose, and their sum. */
static bool read_usage(const reader *r, const json_t *object, kvq_usage *u)
{
    u->struct_size = sizeof *u;
    if (!read_fields(r, "cell.usage", object, usage_fields, COUNT(usage_fields), u))
        return false;
    const uint64_t parts[] = {u->payload, u->metadata,    u->residual, u->sinks,
                              u->slack,   u->bookkeeping, u->evidence};
    uint64_t left = u->total;
    for (size_t i = 0; i < COUNT(parts); i++) {
        if (parts[i] > left)
            return eval_fail(r->e, "%s: cell.usage.total is %" PRIu64 ", less than the sum of its parts",
                             r->where, u->total);
        left -= parts[i];
    }
    return left == 0 ||
           eval_fail(r->e, "%s: cell.usage.total is %" PRIu64 ", expected the sum of its parts, %" PRIu64,
                     r->where, u->total, u->total - left);
}

static bool read_cell(const reader *r, const json_t *object, const experiment *x, cell *c)
{
    enum { MAX_SCHEME = 65535 }; /* of any scheme (kvq.h): with layers that differ a text is long */
    if (!read_fields(r, "cell", object, cell_fields, COUNT(cell_fields), c))
        return false;
    const json_t *scheme = json_object_get(object, "scheme");
    const size_t n = json_string_length(scheme);
    if (n < 1 || n > MAX_SCHEME)
        return wrong(r, "cell.scheme", scheme, "a scheme's text");
    c->scheme = malloc(n + 1);
    if (!c->scheme)
        return eval_fail(r->e, "%s: out of memory", r->where);
    memcpy(c->scheme, json_string_value(scheme), n + 1);
    return read_usage(r, json_object_get(object, "usage"), &c->usage) &&
           read_blocks(r, x, json_object_get(object, "blocks"), c) &&
           read_heads(r, x, json_object_get(object, "heads"), c) &&
           read_bins(r, json_object_get(object, "bins"), c) &&
           read_worst(r, json_object_get(object, "worst"), c) &&
           read_portrait(r, json_object_get(object, "portrait"), c);
}

static bool read_key(const reader *r, const json_t *value, const experiment *x, const cell *c, uint64_t *key)
{
    const char *text = json_string_value(value);
    if (!text || strlen(text) != 16 || !read_digits(text, 16, key))
        return wrong(r, "key", value, "16 hexadecimal digits");
    const uint64_t due = line_key(x, c->scheme, c->window, c->ids_checksum);
    return *key == due || eval_fail(r->e,
                                    "%s: key is %s, but what the line holds has %016" PRIx64
                                    ": experiment, scheme, window or ids_checksum were changed",
                                    r->where, text, due);
}

bool line_read(const json_t *object, const char *where, experiment *x, cell *c, uint64_t *key, eval_error *e)
{
    const reader r = {where, e};
    const json_t *schema = json_object_get(object, "schema");
    memset(x, 0, sizeof *x);
    memset(c, 0, sizeof *c);
    if (!json_is_string(schema) || strcmp(json_string_value(schema), LINE_SCHEMA) != 0)
        return wrong(&r, "schema", schema, "\"" LINE_SCHEMA "\"");
    if (read_experiment(&r, json_object_get(object, "experiment"), x) &&
        read_cell(&r, json_object_get(object, "cell"), x, c) &&
        read_key(&r, json_object_get(object, "key"), x, c, key))
        return true;
    cell_clear(c);
    return false;
}
