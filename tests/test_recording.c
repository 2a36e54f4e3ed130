/* Recorded caches: every form reads back as what was written, and files that are wrong are refused with what
 * is wrong in them. */
#define _POSIX_C_SOURCE 200809L

#include "eval/model/record.h"
#include "eval/model/recording.h"
#include "tests/checkpoint_files.h"

#include <math.h>

enum { L = 2, B = 3, H = 4, HKV = 2, T = 5, D = 8, MOST = 4096 };

/* The number of a place; halves and bfloat16 hold it exactly. Eight bits mixed from all of the place, so that
 * a layer, sequence, head, token or dimension taken for another shows. */
static float number(int part, size_t l, size_t b, size_t h, size_t t, size_t d)
{
    size_t x = (size_t)part + 3 * (l + L * (b + B * (h + H * (t + T * d))));
    x = x * 0x9e3779b97f4a7c15u >> 56;
    return ((float)x - 128.0f) / 64.0f;
}

static size_t put(uint8_t *to, tensor_type type, float x)
{
    uint32_t bits;
    memcpy(&bits, &x, 4);
    uint16_t half = (uint16_t)(bits >> 16);
    if (type == TENSOR_F16)
        half = x == 0.0f ? 0
                         : (uint16_t)((bits >> 16 & 0x8000u) | (((bits >> 23 & 0xffu) - 112u) << 10) |
                                      (bits >> 13 & 0x3ffu));
    memcpy(to, type == TENSOR_F32 ? (void *)&bits : (void *)&half, type == TENSOR_F32 ? 4 : 2);
    return type == TENSOR_F32 ? 4 : 2;
}

/* [L][n_b][heads][T][D] of parts first to last: one tensor, or with two parts past_key_values. */
static size_t array_of(uint8_t *data, tensor_type type, int first, int last, size_t n_b, size_t heads)
{
    size_t used = 0;
    for (size_t l = 0; l < L; l++)
        for (int part = first; part <= last; part++)
            for (size_t b = 0; b < n_b; b++)
                for (size_t h = 0; h < heads; h++)
                    for (size_t t = 0; t < T; t++)
                        for (size_t d = 0; d < D; d++)
                            used += put(data + used, type, number(part, l, b, h, t, d));
    return used;
}

static size_t npy_image(uint8_t *image, const char *dictionary, const uint8_t *data, size_t n)
{
    const size_t length = strlen(dictionary);
    memcpy(image, "\x93NUMPY\1\0", 8);
    image[8] = (uint8_t)length;
    image[9] = (uint8_t)(length >> 8);
    memcpy(image + 10, dictionary, length);
    memcpy(image + 10 + length, data, n);
    return 10 + length + n;
}

/* Everything that r says, against number(). */
static void check_all(const char *what, const recording *r, bool queries, size_t n_b)
{
    const model_shape *s = recording_shape(r);
    const size_t n_head = queries ? H : HKV;
    cr_assert(s->n_layer == L && s->n_head == n_head && s->n_kv_head == HKV && s->head_dim == D &&
                  s->n_ctx == T,
              "%s", what);
    cr_assert_eq(recording_n_sequences(r), n_b, "%s", what);
    cr_assert_eq(recording_has_queries(r), queries, "%s", what);
    float x[3][T * H * D];
    for (size_t n = 1; n <= T; n++)
        for (size_t l = 0; l < L; l++)
            for (size_t b = 0; b < n_b; b++) {
                eval_error e = {""};
                memset(x, 0x5a, sizeof x);
                cr_assert(recording_read(r, l, b, n, x[0], x[1], x[2], &e), "%s: %s", what, e.text);
                for (int part = queries ? 0 : 1; part < 3; part++) {
                    const size_t heads = part == 0 ? H : HKV;
                    for (size_t t = 0; t < n; t++)
                        for (size_t h = 0; h < heads; h++)
                            for (size_t d = 0; d < D; d++)
                                cr_assert_eq(x[part][(t * heads + h) * D + d], number(part, l, b, h, t, d),
                                             "%s: part %d layer %zu sequence %zu head %zu token %zu dim %zu",
                                             what, part, l, b, h, t, d);
                    float untouched;
                    memset(&untouched, 0x5a, sizeof untouched);
                    if (n < T)
                        cr_assert_eq(x[part][n * heads * D], untouched, "%s: more than %zu tokens", what, n);
                }
            }
}

static const tensor_type types[] = {TENSOR_F32, TENSOR_F16, TENSOR_BF16};
static const char *const type_names[] = {"F32", "F16", "BF16"};
static uint8_t data[1 << 16], image[1 << 16];

Test(recording, safetensors_of_every_type_and_form)
{
    for (size_t i = 0; i < 3; i++)
        for (int form = 0; form < 6; form++) {
            const size_t n_b = form % 2 ? 1 : B;
            const int kind = form / 2; /* q, k, v; k, v; past_key_values */
            st_writer w = {.n_header = 0};
            for (int part = kind == 0 ? 0 : 1; part < (kind == 2 ? 2 : 3); part++) {
                const size_t heads = part == 0 ? H : HKV;
                const size_t n = array_of(data, types[i], part, kind == 2 ? 2 : part, n_b, heads);
                const size_t five[] = {L, B, heads, T, D}, four[] = {L, heads, T, D},
                             six[] = {L, 2, B, HKV, T, D}, past_five[] = {L, 2, HKV, T, D};
                static const char *const names[] = {"q", "k", "v"};
                if (kind == 2)
                    st_writer_add(&w, "past_key_values", type_names[i], n_b == B ? 6 : 5,
                                  n_b == B ? six : past_five, data, n);
                else
                    st_writer_add(&w, names[part], type_names[i], n_b == B ? 5 : 4, n_b == B ? five : four,
                                  data, n);
            }
            strcat(w.header, "}");
            size_t size;
            uint8_t *file = st_image(w.header, w.data, w.n_data, &size);
            recording *r = NULL;
            eval_error e = {""};
            cr_assert(recording_open_memory(&r, "f", file, size, &e), "%s", e.text);
            char what[64];
            snprintf(what, sizeof what, "%s form %d", type_names[i], form);
            check_all(what, r, kind == 0, n_b);
            cr_assert_str_eq(recording_type(r), type_names[i]);
            cr_assert_float_eq(recording_scale(r), 1 / sqrtf(D), 1e-7f);
            recording_close(r);
            free(file);
            free(w.data);
        }
}

Test(recording, npy_with_and_without_sequences)
{
    for (size_t i = 0; i < 4; i++) {
        const size_t n_b = i % 2 ? 1 : B;
        char dictionary[200];
        snprintf(dictionary, sizeof dictionary,
                 "{'descr': '%s', 'fortran_order': False, 'shape': (2, 2, %s2, 5, 8), }\n",
                 i < 2 ? "<f4" : "<f2", n_b == 1 ? "" : "3, ");
        const size_t n = array_of(data, i < 2 ? TENSOR_F32 : TENSOR_F16, 1, 2, n_b, HKV);
        const size_t size = npy_image(image, dictionary, data, n);
        recording *r = NULL;
        eval_error e = {""};
        cr_assert(recording_open_memory(&r, "f", image, size, &e), "%s", e.text);
        check_all(dictionary, r, false, n_b);
        recording_close(r);
    }
}

Test(recording, a_directory_of_npy)
{
    char dir[64];
    static const char *const names[] = {"q.npy", "k.npy", "v.npy"};
    make_dir(dir);
    for (int part = 2; part >= 0; part--) {
        char dictionary[200];
        snprintf(dictionary, sizeof dictionary,
                 "{'descr': '<f2', 'fortran_order': False, 'shape': (2, 3, %d, 5, 8)}", part == 0 ? H : HKV);
        const size_t n = array_of(data, TENSOR_F16, part, part, B, part == 0 ? H : HKV);
        write_file(dir, names[part], image, npy_image(image, dictionary, data, n));
        recording *r = NULL;
        eval_error e = {""};
        const bool good = recording_open(&r, dir, &e);
        cr_assert_eq(good, part < 2, "%s", e.text);
        if (good)
            check_all(names[part], r, part == 0, B);
        else
            assert_mentions(e, "k.npy");
        recording_close(r);
    }
    for (size_t i = 0; i < 3; i++)
        remove_file(dir, names[i]);
    remove_dir(dir);
}

Test(recording, metadata_is_taken)
{
    const char *header =
        "{\"__metadata__\":{\"scale\":\"0.75\",\"windows\":\"3,0,99\",\"model\":\"a\\u0007b\",\"text\":\"t\"}"
        ","
        "\"past_key_values\":{\"dtype\":\"F16\",\"shape\":[3,2,1,4,2],\"data_offsets\":[0,96]}}";
    size_t size;
    memset(data, 0, sizeof data);
    uint8_t *file = st_image(header, data, 96, &size);
    recording *r = NULL;
    eval_error e = {""};
    cr_assert(recording_open_memory(&r, "f", file, size, &e), "%s", e.text);
    cr_expect_eq(recording_scale(r), 0.75f);
    cr_expect_eq(recording_window(r, 0), 3);
    cr_expect_eq(recording_window(r, 1), 0);
    cr_expect_eq(recording_window(r, 2), 0, "longer than the sequence is all");
    cr_expect_str_eq(recording_model(r), "a?b");
    cr_expect_str_eq(recording_text(r), "t");
    recording_close(r);
    free(file);
}

static uint64_t checksum_of(const char *metadata)
{
    char header[256];
    snprintf(header, sizeof header,
             "{\"__metadata__\":{%s},\"past_key_values\":{\"dtype\":\"F16\",\"shape\":[3,2,1,4,2],"
             "\"data_offsets\":[0,96]}}",
             metadata);
    size_t size;
    memset(data, 0, sizeof data);
    uint8_t *file = st_image(header, data, 96, &size);
    recording *r = NULL;
    eval_error e = {""};
    uint64_t sum = 0;
    cr_assert(recording_open_memory(&r, "f", file, size, &e), "%s", e.text);
    cr_assert(recording_checksum(r, &sum, &e), "%s", e.text);
    recording_close(r);
    free(file);
    return sum;
}

Test(recording, the_checksum_is_of_all_that_attention_depends_on)
{
    const uint64_t sum = checksum_of("\"scale\":\"0.75\"");
    cr_expect_eq(checksum_of("\"scale\":\"0.75\",\"model\":\"m\",\"windows\":\"0,0,99\""), sum);
    cr_expect_neq(checksum_of("\"scale\":\"0.5\""), sum);
    cr_expect_neq(checksum_of("\"scale\":\"0.75\",\"windows\":\"3,0,0\""), sum);
    cr_expect_neq(checksum_of("\"scale\":\"0.75\",\"windows\":\"0,3,0\""),
                  checksum_of("\"scale\":\"0.75\",\"windows\":\"3,0,0\""));
}

/* The note of a recording of this header, or "". */
static void expect_note(const char *header, bool wanted)
{
    size_t size;
    memset(data, 0, sizeof data);
    uint8_t *file = st_image(header, data, 96, &size);
    recording *r = NULL;
    eval_error e = {""};
    cr_assert(recording_open_memory(&r, "f", file, size, &e), "%s", e.text);
    cr_expect_eq(recording_note(r) != NULL, wanted, "%s", header);
    if (recording_note(r))
        cr_expect(strstr(recording_note(r), "a scale of 1/sqrt(D) and attention to all tokens are assumed"),
                  "%s", recording_note(r));
    recording_close(r);
    free(file);
}

Test(recording, what_is_assumed_is_noted)
{
#define KV                                                                                                   \
    "\"k\":{\"dtype\":\"F32\",\"shape\":[1,1,2,4],\"data_offsets\":[0,32]},"                                 \
    "\"v\":{\"dtype\":\"F32\",\"shape\":[1,1,2,4],\"data_offsets\":[32,64]}"
#define QKV KV ",\"q\":{\"dtype\":\"F32\",\"shape\":[1,1,2,4],\"data_offsets\":[64,96]}"
    expect_note("{" QKV "}", true);
    expect_note("{\"__metadata__\":{\"model\":\"m\"}," QKV "}", true);
    expect_note("{\"__metadata__\":{\"scale\":\"0.5\"}," QKV "}", false);
    expect_note("{\"__metadata__\":{\"windows\":\"0\"}," QKV "}", false);
#undef KV
#undef QKV
}

/* ---- what is refused ---- */

static void refused(const char *header, size_t n_data, const char *wanted)
{
    size_t size;
    memset(data, 0, sizeof data);
    uint8_t *file = st_image(header, data, n_data, &size);
    recording *r = NULL;
    eval_error e = {""};
    cr_assert_not(recording_open_memory(&r, "f", file, size, &e), "%s", header);
    cr_expect_null(r);
    cr_expect_str_eq(e.text, wanted, "%s: %s", header, e.text);
    free(file);
}

#define K(shape, to)       "\"k\":{\"dtype\":\"F32\",\"shape\":" shape ",\"data_offsets\":[0," to "]}"
#define V(shape, from, to) "\"v\":{\"dtype\":\"F32\",\"shape\":" shape ",\"data_offsets\":[" from "," to "]}"
#define Q(shape, from, to) "\"q\":{\"dtype\":\"F32\",\"shape\":" shape ",\"data_offsets\":[" from "," to "]}"
#define GOOD               K("[1,1,2,4]", "32") "," V("[1,1,2,4]", "32", "64")
#define META(key, value)   "{\"__metadata__\":{\"" key "\":\"" value "\"}," GOOD "}"

Test(recording, safetensors_refused)
{
    refused("{" K("[1,1,2,4]", "32") "}", 32,
            "f: tensor 'v' is missing; expected k and v, or past_key_values");
    refused("{" K("[2,4]", "32") "," V("[2,4]", "32", "64") "}", 64,
            "f: tensor 'k': shape is [2][4], expected [L][heads][T][D] or [L][B][heads][T][D]");
    refused("{" K("[1,1,2,4]", "32") "," V("[1,1,2,2]", "32", "48") "}", 48,
            "f: tensor 'v': shape is [1][1][2][2], expected 1 layer, 1 sequence of 2 tokens, 4 numbers a "
            "head, as "
            "'k' has");
    refused("{" K("[1,1,2,4]", "32") "," V("[1,1,3,4]", "32", "80") "}", 80,
            "f: tensor 'v': shape is [1][1][3][4], expected 1 layer, 1 sequence of 2 tokens, 4 numbers a "
            "head, as "
            "'k' has");
    refused("{" K("[1,1,2,4]", "32") "," V("[1,2,2,4]", "32", "96") "}", 96,
            "f: tensor 'v': 2 heads, expected 1 as 'k' has");
    refused("{" K("[1,2,2,4]", "64") "," V("[1,2,2,4]", "64", "128") "," Q("[1,3,2,4]", "128", "224") "}",
            224, "f: tensor 'q': 3 heads, expected a multiple of the keys' 2");
    refused(META("scale", "0"), 64, "f: metadata: scale is '0', expected a number above 0");
    refused(META("scale", "nan"), 64, "f: metadata: scale is 'nan', expected a number above 0");
    refused(META("windows", "4,4"), 64,
            "f: metadata: windows, layer 0: '4,4', expected 1 numbers with commas");
    refused(META("windows", "-1"), 64, "f: metadata: windows, layer 0: '-1', expected 1 numbers with commas");
}

Test(recording, npy_refused)
{
    static const struct {
        const char *dictionary, *mentions;
    } cases[] = {
        {"{'descr': '<f4', 'fortran_order': True, 'shape': (1, 2, 1, 2, 4), }", "fortran_order is True"},
        {"{'descr': '>f4', 'fortran_order': False, 'shape': (1, 2, 1, 2, 4), }", "descr is '>f4'"},
        {"{'descr': '<f4', 'fortran_order': False, 'shape': (1, 3, 1, 2, 4), }",
         "64 bytes of data, expected 96"},
        {"{'descr': '<f4', 'fortran_order': False, 'shape': (1, 2, 1, 2, 3), }",
         "64 bytes of data, expected 48"},
        {"{'descr': '<f4', 'fortran_order': False, 'shape': (4294967296, 4294967296, 2), }", "overflows"},
        {"{'descr': '<f4', 'fortran_order': False, 'shape': (2, 8), }", "shape is [2][8], expected [L][2]"},
        {"{'descr': '<f4', 'shape': (2, 8), }", "no 'fortran_order'"},
        {"{'descr': '<f4', 'fortran_order': False, 'shape': (2, 8)", "expected"},
    };
    for (size_t i = 0; i < sizeof cases / sizeof cases[0]; i++) {
        memset(data, 0, sizeof data);
        const size_t size = npy_image(image, cases[i].dictionary, data, 64);
        recording *r = NULL;
        eval_error e = {""};
        cr_assert_not(recording_open_memory(&r, "f", image, size, &e), "%s", cases[i].dictionary);
        assert_mentions(e, cases[i].mentions);
        /* Every shorter file is refused, too; that with bytes too many is good once those 16 are gone. */
        for (size_t n = 0; n < (i == 3 ? size - 16 : size); n++)
            cr_assert_not(recording_open_memory(&r, "f", image, n, &e));
    }
    image[8] = image[9] = 0xff; /* the header's length lies */
    eval_error e = {""};
    recording *r = NULL;
    cr_assert_not(recording_open_memory(&r, "f", image, 200, &e));
    assert_mentions(e, "byte 8: header length is 65535, expected at most 190");
}

Test(recording, what_is_not_finite_is_named_with_its_place)
{
    st_writer w = {.n_header = 0};
    const size_t shape[] = {L, B, HKV, T, D};
    size_t n = array_of(data, TENSOR_F32, 1, 1, B, HKV);
    st_writer_add(&w, "k", "F32", 5, shape, data, n);
    n = array_of(data, TENSOR_F32, 2, 2, B, HKV);
    const float bad = NAN;
    memcpy(data + sizeof bad * ((((1 * B + 2) * HKV + 1) * T + 3) * D + 6), &bad, sizeof bad);
    st_writer_add(&w, "v", "F32", 5, shape, data, n);
    strcat(w.header, "}");
    size_t size;
    uint8_t *file = st_image(w.header, w.data, w.n_data, &size);
    recording *r = NULL;
    eval_error e = {""};
    cr_assert(recording_open_memory(&r, "f", file, size, &e), "%s", e.text);
    float k[T * HKV * D], v[T * HKV * D];
    cr_assert(recording_read(r, 1, 2, 3, NULL, k, v, &e), "the tokens before it are good");
    cr_assert_not(recording_read(r, 1, 2, T, NULL, k, v, &e));
    assert_mentions(e, "layer 1, sequence 2, head 1, token 3, dimension 6");
    assert_mentions(e, "is NaN, expected a finite number");
    recording_close(r);
    free(file);
    free(w.data);
}

Test(recording, heads_too_wide_to_write_are_refused)
{
    const model m = {.shape = {.n_layer = 1, .n_head = 1, .n_kv_head = 1, .head_dim = MOST + 1}};
    const record_config c = {.model = &m, .n_windows = 1, .n_tokens = 2, .model_name = "wide", .npy = true};
    eval_error e = {""};
    cr_assert_not(record_write(NULL, "out", &c, &e));
    cr_assert_str_eq(e.text, "wide: head_dim is 4097, expected 1 to 4096 to record it");
}
