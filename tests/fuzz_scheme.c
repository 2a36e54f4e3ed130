/*
 * Fuzzes scheme text. The input is read twice: as text, and as numbers of words that make up a text, which
 * gets further into the grammar. Either is refused with an offset inside it, or prints and parses back to
 * itself.
 */
#include "lib/scheme.h"
#include "tests/toy_codec.h"

#include <stdlib.h>
#include <string.h>

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

static void must(bool holds)
{
    if (!holds)
        abort();
}

static bool same_scheme(const kvq_scheme *a, const kvq_scheme *b)
{
    for (size_t i = 0; i < KVQ_N_ROLES; i++)
        if (a->side[i].codec != b->side[i].codec || a->residual_dtype[i] != b->residual_dtype[i] ||
            memcmp(a->side[i].parameter, b->side[i].parameter, sizeof a->side[i].parameter) != 0)
            return false;
    return a->arith == b->arith && a->heavy_hitters == b->heavy_hitters && a->residual == b->residual &&
           a->residual_mode == b->residual_mode && a->sinks == b->sinks;
}

static void check_plain(const kvq_scheme *scheme)
{
    char text[KVQ_SCHEME_TEXT_MAX];
    for (int form = 0; form < 2; form++) {
        kvq_scheme *parsed;
        must(kvq_scheme_print(scheme, form == 1, text) && strlen(text) < sizeof text);
        must(kvq_scheme_create(&parsed, text, NULL) == KVQ_OK && same_scheme(scheme, parsed));
        must(strcmp(scheme->text, kvq_scheme_text(parsed)) == 0);
        must(form == 1 || strcmp(text, kvq_scheme_text(parsed)) == 0);
        for (size_t dim = 1; dim <= KVQ_MAX_HEAD_DIM; dim = 3 * dim + 1) {
            const double bits = kvq_scheme_bits_per_element(parsed, dim);
            must(bits >= 1 || (bits == 0 && dim > 128)); /* some codecs do not take larger ones */
        }
        kvq_scheme_free(parsed);
    }
}

/* The whole and each of its layers. */
static void check_valid(const kvq_scheme *scheme)
{
    kvq_scheme *again;
    const size_t n_layers = kvq_scheme_min_layers(scheme);
    must(n_layers <= KVQ_MAX_LAYERS);
    must(kvq_scheme_create(&again, kvq_scheme_text(scheme), NULL) == KVQ_OK);
    must(strcmp(kvq_scheme_text(scheme), kvq_scheme_text(again)) == 0);
    must(kvq_scheme_min_layers(again) == n_layers);
    const kvq_scheme *last = NULL, *base = kvq_scheme_of_layer(scheme, n_layers);
    must(same_scheme(scheme, base));
    for (size_t layer = 0; layer <= n_layers; layer++) {
        const kvq_scheme *part = kvq_scheme_of_layer(scheme, layer);
        must(part->min_layers == 0);
        must(same_scheme(part, kvq_scheme_of_layer(again, layer)));
        if (part != last) /* neighbours that are one scheme are one range */
            check_plain(part);
        must(part == last || last == NULL || !same_scheme(part, last));
        must(layer + 1 != n_layers || !same_scheme(part, base));
        last = part;
    }
    kvq_scheme_free(again);
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

/* Put words together. */
static void check_words(const uint8_t *data, size_t size)
{
    static const char *const words[] = {
        ",",
        "k=",
        "v=",
        "r=",
        "s=",
        "mode=",
        "rtype=",
        "arith=",
        "hh=",
        "@",
        "/",
        ":",
        "kivi",
        "sliding",
        "f32",
        "f16",
        "i8",
        "kivi-f16",
        "full",
        "channel",
        "token",
        "-g",
        "fp32",
        "fp16",
        "kivi2",
        "kivi4-g64",
        "affine",
        "0",
        "1",
        "2",
        "3",
        "5",
        "8",
        "16",
        "32",
        "64",
        "128",
        "1048577",
        ".5",
        "k=2,v=2",
        "k=4@token/full",
        ",v=8@channel/128",
        ",r=128",
        ",rtype=i8/f16",
        ",mode=sliding",
        ",hh=1",
        "kvq2",
        "kvq2-fb",
        "kvq1.5",
        "tier:",
        "rot:",
        ":fb",
        ":u=",
        ":cert",
        ":page=0",
        "q4_1",
        "turbo:",
        ":nc",
        "kvarn2",
        "quarot:4/64",
        "nuq2",
        ":qn",
        "+",
        "-",
        "=",
        "+0=",
        "+1-2=kivi2",
        "+4095=fp32",
    };
    enum { N_WORDS = sizeof words / sizeof words[0], LONGEST = 400 };
    char text[LONGEST] = "";
    kvq_printer p = {.text = text, .size = sizeof text};
    for (size_t i = 0; i < size && p.n < sizeof text - 32; i++)
        kvq_put(&p, words[data[i] % N_WORDS]);
    check_text(text);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    toy_codec_register();
    char *text = malloc(size + 1);
    if (text == NULL)
        return 0;
    if (size > 0)
        memcpy(text, data, size);
    text[size] = '\0';
    check_text(text);
    free(text);
    check_words(data, size);
    return 0;
}
