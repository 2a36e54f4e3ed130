/*
 * Fuzzes scheme text. The input is read twice: as text, which is either refused with an offset inside it or
 * prints and parses back to itself; and as the fields of a scheme, which are refused or survive the same.
 */
#include "lib/kvq.h"

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
    char text[KVQ_SCHEME_TEXT_MAX], again[KVQ_SCHEME_TEXT_MAX], exact[KVQ_SCHEME_TEXT_MAX];
    kvq_scheme parsed;
    kvq_error err;
    must(kvq_scheme_check(scheme, &err) == KVQ_OK);
    must(kvq_scheme_print(scheme, text, sizeof text) == KVQ_OK);
    must(kvq_scheme_parse(text, &parsed, &err) == KVQ_OK && same_scheme(scheme, &parsed));
    must(kvq_scheme_print(&parsed, again, sizeof again) == KVQ_OK && strcmp(text, again) == 0);
    size_t n = strlen(text);
    must(kvq_scheme_print(scheme, exact, n + 1) == KVQ_OK && strcmp(text, exact) == 0);
    must(kvq_scheme_print(scheme, exact, n) == KVQ_ERR_ARG);
    for (size_t dim = 1; dim <= KVQ_MAX_HEAD_DIM; dim = 3 * dim + 1)
        must(kvq_side_bits_per_element(&scheme->k, dim) >= 1 &&
             kvq_side_bits_per_element(&scheme->v, dim) >= 1);
}

static void check_text(const char *text)
{
    const kvq_scheme untouched = {.residual = 0xdeadbeef};
    kvq_scheme scheme = untouched;
    kvq_error err = {KVQ_OK, NULL, 0};
    if (kvq_scheme_parse(text, &scheme, &err) == KVQ_OK) {
        must(err.message == NULL);
        check_valid(&scheme);
        return;
    }
    must(err.status == KVQ_ERR_SCHEME && err.message != NULL && err.offset <= strlen(text));
    must(same_scheme(&scheme, &untouched));
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
    kvq_error err = {KVQ_OK, NULL, 0};
    char text[KVQ_SCHEME_TEXT_MAX];
    if (kvq_scheme_check(&scheme, &err) == KVQ_OK)
        check_valid(&scheme);
    else
        must(err.message != NULL && kvq_scheme_print(&scheme, text, sizeof text) == KVQ_ERR_SCHEME);
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
