/*
 * Fuzzes scheme text. The input is read twice: as text, which is either refused with an offset inside it or
 * prints and parses back to itself; and as the fields of a scheme, which are refused or survive the same.
 */
#include "lib/scheme.h"

#include <stdlib.h>
#include <string.h>

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

static void must(bool holds)
{
    if (!holds)
        abort();
}

static bool same_side(const kvq_side_scheme *a, const kvq_side_scheme *b)
{
    if (a->codec != b->codec)
        return false;
    return a->codec != KVQ_CODEC_AFFINE || (a->bits == b->bits && a->axis == b->axis && a->group == b->group);
}

static bool same_scheme(const kvq_scheme *a, const kvq_scheme *b)
{
    return same_side(&a->k, &b->k) && same_side(&a->v, &b->v) && a->arith == b->arith &&
           a->residual == b->residual && a->residual_mode == b->residual_mode &&
           a->residual_dtype == b->residual_dtype && a->sinks == b->sinks;
}

static void check_valid(const kvq_scheme *scheme)
{
    char text[KVQ_SCHEME_TEXT_MAX];
    for (int form = 0; form < 2; form++) {
        kvq_scheme *parsed;
        must(kvq_scheme_print(scheme, form == 1, text) && strlen(text) < sizeof text);
        must(kvq_scheme_create(&parsed, text, NULL) == KVQ_OK && same_scheme(scheme, parsed));
        must(form == 1 || strcmp(text, kvq_scheme_text(parsed)) == 0);
        for (size_t dim = 1; dim <= KVQ_MAX_HEAD_DIM; dim = 3 * dim + 1)
            must(kvq_scheme_bits_per_element(parsed, dim) >= 1);
        kvq_scheme_free(parsed);
    }
}

static void check_text(const char *text)
{
    kvq_scheme *scheme = NULL;
    kvq_error err = {KVQ_OK, NULL, 0};
    if (kvq_scheme_create(&scheme, text, &err) == KVQ_OK) {
        must(err.message == NULL);
        check_valid(scheme);
        kvq_scheme_free(scheme);
        return;
    }
    must(err.status == KVQ_ERR_SCHEME && err.message != NULL && err.offset <= strlen(text));
    must(scheme == NULL);
}

/* Small fields mostly, so that many are valid; wide ones to find what is not checked. */
static uint32_t take(const uint8_t **data, size_t *size)
{
    uint32_t value = 0;
    for (size_t i = 0; i < 4 && *size > 0; i++, ++*data, --*size) {
        value = value << 8 | **data;
        if (**data < 0x80)
            break;
    }
    return value;
}

static void check_fields(const uint8_t *data, size_t size)
{
    kvq_scheme scheme = {
        .k = {.codec = (kvq_codec_id)take(&data, &size), .bits = take(&data, &size)},
        .v = {.codec = (kvq_codec_id)take(&data, &size), .bits = take(&data, &size)},
    };
    scheme.k.axis = (kvq_axis)take(&data, &size);
    scheme.k.group = 16 * take(&data, &size);
    scheme.v.axis = (kvq_axis)take(&data, &size);
    scheme.v.group = 16 * take(&data, &size);
    scheme.arith = (kvq_arith)take(&data, &size);
    scheme.residual = take(&data, &size);
    scheme.residual_mode = (kvq_residual_mode)take(&data, &size);
    scheme.residual_dtype = (kvq_dtype)take(&data, &size);
    scheme.sinks = take(&data, &size);
    char text[KVQ_SCHEME_TEXT_MAX];
    if (kvq_scheme_problem(&scheme) == NULL)
        check_valid(&scheme);
    else
        must(!kvq_scheme_print(&scheme, false, text));
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    char *text = malloc(size + 1);
    if (text == NULL)
        return 0;
    if (size > 0)
        memcpy(text, data, size);
    text[size] = '\0';
    check_text(text);
    free(text);
    check_fields(data, size);
    return 0;
}
