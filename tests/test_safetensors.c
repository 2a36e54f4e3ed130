/* Safetensors: what is valid opens and converts exactly, everything else is a clear error. */
#define _XOPEN_SOURCE 700

#include "eval/common/input_file.h"
#include "eval/model/safetensors.h"
#include "tests/checkpoint_files.h"

#include <criterion/criterion.h>
#include <math.h>
#include <sys/stat.h>
#include <unistd.h>

static const char good_header[] = "{\"__metadata__\":{\"format\":\"pt\"},"
                                  "\"b\":{\"dtype\":\"F16\",\"shape\":[2,2],\"data_offsets\":[4,12]},"
                                  "\"mask\":{\"dtype\":\"BOOL\",\"shape\":[3],\"data_offsets\":[12,15]},"
                                  "\"a\":{\"dtype\":\"F32\",\"shape\":[],\"data_offsets\":[0,4]},"
                                  "\"none\":{\"dtype\":\"F32\",\"shape\":[0,7],\"data_offsets\":[4,4]}}   ";

static const uint8_t good_data[15] = {0, 0, 0x80, 0x3f, 0, 0x3c, 0, 0x40, 0, 0x42, 0, 0xc4};

/* Opens an exact-size copy, so that the sanitizer sees every read past the end. */
static bool open_copy(safetensors **st, const uint8_t *image, size_t size, eval_error *e)
{
    uint8_t *copy = malloc(size ? size : 1);
    if (size > 0)
        memcpy(copy, image, size);
    bool ok = safetensors_open_memory(st, "test-file", copy, size, e);
    if (!ok)
        free(copy);
    else { /* touch everything a user could touch */
        for (size_t i = 0; i < safetensors_tensors(*st)->n; i++) {
            const tensor *t = &safetensors_tensors(*st)->tensors[i];
            cr_assert_eq(tensor_find(safetensors_tensors(*st), t->name), t);
            if (t->type != TENSOR_UNREADABLE) {
                float *values = malloc(t->n_elems * sizeof *values + 1);
                cr_assert(tensor_read_f32(t, 0, t->n_elems, values, e), "%s", e->text);
                free(values);
            }
        }
        safetensors_close(*st);
        free(copy);
    }
    return ok;
}

Test(safetensors, valid_file)
{
    size_t size;
    uint8_t *image = st_image(good_header, good_data, sizeof good_data, &size);
    safetensors *st;
    eval_error e;
    float values[4];
    cr_assert(safetensors_open_memory(&st, "x", image, size, &e), "%s", e.text);
    cr_assert_eq(safetensors_tensors(st)->n, 4);
    cr_assert_str_eq(safetensors_tensors(st)->tensors[0].name, "a");
    cr_assert_null(tensor_find(safetensors_tensors(st), "__metadata__"));

    const tensor *b = tensor_find(safetensors_tensors(st), "b");
    cr_assert_not_null(b);
    cr_assert(b->n_dims == 2 && b->shape[0] == 2 && b->shape[1] == 2 && b->n_elems == 4);
    cr_assert_eq(b->file_offset, size - sizeof good_data + 4);
    cr_assert(tensor_read_f32(b, 0, 4, values, &e), "%s", e.text);
    cr_assert(values[0] == 1.0f && values[1] == 2.0f && values[2] == 3.0f && values[3] == -4.0f);
    cr_assert(tensor_read_f32(b, 2, 1, values, &e) && values[0] == 3.0f && values[1] == 2.0f, "a part");
    cr_assert(tensor_read_f32(tensor_find(safetensors_tensors(st), "a"), 0, 1, values, &e), "%s", e.text);
    cr_assert_eq(values[0], 1.0f);
    cr_assert_eq(tensor_find(safetensors_tensors(st), "mask")->type, TENSOR_UNREADABLE);
    cr_assert_eq(tensor_find(safetensors_tensors(st), "none")->n_elems, 0);
    safetensors_close(st);
    free(image);
}

Test(safetensors, every_truncation_is_an_error)
{
    size_t size;
    uint8_t *image = st_image(good_header, good_data, sizeof good_data, &size);
    for (size_t n = 0; n < size; n++) {
        safetensors *st;
        eval_error e = {""};
        cr_assert_not(open_copy(&st, image, n, &e), "the first %zu of %zu bytes were accepted", n, size);
        assert_mentions(e, "test-file");
    }
    free(image);
}

Test(safetensors, every_changed_byte_is_safe)
{
    size_t size;
    uint8_t *image = st_image(good_header, good_data, sizeof good_data, &size);
    for (size_t i = 0; i < size - sizeof good_data; i++) {
        const uint8_t original = image[i];
        for (unsigned value = 0; value < 256; value++) {
            safetensors *st;
            eval_error e = {""};
            image[i] = (uint8_t)value;
            if (!open_copy(&st, image, size, &e))
                assert_mentions(e, "test-file: ");
        }
        image[i] = original;
    }
    free(image);
}

#define ENTRY(name, dtype, shape, offsets)                                                                   \
    "\"" name "\":{\"dtype\":\"" dtype "\",\"shape\":" shape ",\"data_offsets\":" offsets "}"

Test(safetensors, lies_are_named)
{
    static const struct {
        const char *header; /* followed by 8 bytes of data */
        const char *mentions[2];
    } cases[] = {
        {"{" ENTRY("w", "F32", "[2]", "[0,12]") "}",
         {"'w'", "[0, 12] do not lie in the file's 8 data bytes"}},
        {"{" ENTRY("w", "F32", "[2]", "[8,0]") "}", {"'w'", "[8, 0]"}},
        {"{" ENTRY("w", "F32", "[2]", "[-8,0]") "}", {"'w'", "data_offsets"}},
        {"{" ENTRY("w", "F32", "[2]", "[0]") "}", {"'w'", "data_offsets is not a pair"}},
        {"{" ENTRY("w", "F32", "[2]", "[0,8.0]") "}", {"'w'", "data_offsets is not a pair"}},
        {"{" ENTRY("w", "F32", "[2]", "{}") "}", {"'w'", "data_offsets is not a pair"}},
        {"{" ENTRY("w", "F32", "[3]", "[0,8]") "}", {"'w'", "hold 8 bytes, expected 12"}},
        {"{" ENTRY("w", "F16", "[2,1]", "[0,8]") "}", {"'w'", "hold 8 bytes, expected 4"}},
        {"{" ENTRY("w", "F33", "[2]", "[0,8]") "}", {"'w'", "dtype 'F33'"}},
        {"{" ENTRY("w", "F4", "[15]", "[0,8]") "}", {"'w'", "not a whole number of bytes"}},
        {"{" ENTRY("w", "F32", "[-2]", "[0,8]") "}", {"'w'", "shape[0]"}},
        {"{" ENTRY("w", "F32", "[1.5]", "[0,8]") "}", {"'w'", "shape[0]"}},
        {"{" ENTRY("w", "F32", "2", "[0,8]") "}", {"'w'", "shape is missing"}},
        {"{" ENTRY("w", "F32", "[1,1,1,1,1,1,1,1,2]", "[0,8]") "}", {"'w'", "9 dimensions"}},
        {"{" ENTRY("w", "F32", "[4294967296,4294967296]", "[0,8]") "}", {"'w'", "overflows"}},
        {"{" ENTRY("w", "F32", "[4611686018427387904,2]", "[0,8]") "}", {"'w'", "overflows"}},
        {"{" ENTRY("w", "F32", "[9223372036854775808]", "[0,8]") "}", {"bad JSON", "too big integer"}},
        {"{" ENTRY("u", "F32", "[2]", "[0,8]") "," ENTRY("w", "F32", "[1]", "[4,8]") "}",
         {"'u' and 'w'", "overlap"}},
        {"{" ENTRY("u", "F32", "[2]", "[0,8]") "," ENTRY("w", "F32", "[2]", "[0,8]") "}",
         {"overlap", "test-file"}},
        {"{" ENTRY("w", "F32", "[1]", "[4,8]") "}", {"before tensor 'w'", "belong to no tensor"}},
        {"{" ENTRY("w", "F32", "[1]", "[0,4]") "}", {"at the end", "belong to no tensor"}},
        {"{" ENTRY("w", "F16", "[1]", "[0,2]") "," ENTRY("u", "F16", "[2]", "[4,8]") "}",
         {"before tensor 'u'", "belong to no tensor"}},
        {"{}", {"at the end", "belong to no tensor"}},
        {"{" ENTRY("w", "F32", "[1]", "[0,4]") "," ENTRY("w", "F32", "[1]", "[4,8]") "}",
         {"duplicate", "\"w\""}},
        {"{\"w\":[]}", {"'w'", "not an object"}},
        {"{\"w\":{}}", {"'w'", "dtype is missing"}},
        {"{\"w\":{\"dtype\":5}}", {"'w'", "dtype is missing or not a string"}},
        {"{\"__metadata__\":[]," ENTRY("w", "F32", "[2]", "[0,8]") "}", {"__metadata__", "not an object"}},
        {"{\"__metadata__\":{\"k\":1}," ENTRY("w", "F32", "[2]", "[0,8]") "}", {"__metadata__", "'k'"}},
        {"{\"a\\u0000b\":{}}", {"bad JSON", "NUL"}},
        {"{\"a\nb\":{}}", {"bad JSON", "byte 1"}},
        {"{" ENTRY("w", "F32", "[2]", "[0,8]") "} {}", {"bad JSON", "end of file"}},
        {" {" ENTRY("w", "F32", "[2]", "[0,8]") "}", {"byte 8", "begin with '{'"}},
        {"[]", {"byte 8", "begin with '{'"}},
        {"", {"byte 8", "begin with '{'"}},
    };
    const uint8_t data[8] = {0};
    for (size_t i = 0; i < sizeof cases / sizeof cases[0]; i++) {
        size_t size;
        uint8_t *image = st_image(cases[i].header, data, sizeof data, &size);
        safetensors *st;
        eval_error e = {""};
        cr_assert_not(open_copy(&st, image, size, &e), "accepted: %s", cases[i].header);
        for (size_t j = 0; j < 2; j++)
            assert_mentions(e, cases[i].mentions[j]);
        cr_assert_null(strchr(e.text, '\n'));
        free(image);
    }
}

Test(safetensors, header_length_is_checked_against_the_file)
{
    static const struct {
        uint8_t length[8];
        const char *mentions;
    } cases[] = {
        {{200, 0, 0, 0, 0, 0, 0, 0}, "header length is 200, but only 2 bytes follow"},
        {{0, 0, 0, 8, 0, 0, 0, 0}, "header length is 134217728, expected at most 100000000"},
        {{255, 255, 255, 255, 255, 255, 255, 255}, "18446744073709551615"},
        {{3, 0, 0, 0, 0, 0, 0, 0}, "only 2 bytes follow"},
    };
    for (size_t i = 0; i < sizeof cases / sizeof cases[0]; i++) {
        uint8_t image[10];
        safetensors *st;
        eval_error e = {""};
        memcpy(image, cases[i].length, 8);
        memcpy(image + 8, "{}", 2);
        cr_assert_not(open_copy(&st, image, sizeof image, &e));
        assert_mentions(e, cases[i].mentions);
    }
}

/* ---- conversion ---- */

/* Opens one float tensor of n values that starts at an odd address, and converts it. */
static void convert(const char *dtype, const void *data, size_t n, size_t elem_bytes, float *out)
{
    char header[128];
    size_t size;
    snprintf(header, sizeof header, "{\"w\":{\"dtype\":\"%s\",\"shape\":[%zu],\"data_offsets\":[0,%zu]}}",
             dtype, n, n * elem_bytes);
    if (strlen(header) % 2 == 0)
        strcat(header, " ");
    uint8_t *image = st_image(header, data, n * elem_bytes, &size);
    safetensors *st;
    eval_error e;
    cr_assert(safetensors_open_memory(&st, "x", image, size, &e), "%s", e.text);
    cr_assert_eq(((uintptr_t)image + safetensors_tensors(st)->tensors[0].file_offset) % 2, 1);
    cr_assert(tensor_read_f32(&safetensors_tensors(st)->tensors[0], 0, n, out, &e), "%s", e.text);
    safetensors_close(st);
    free(image);
}

static void assert_same_float(float found, double expected, unsigned bits)
{
    if (isnan(expected))
        cr_assert(isnan(found), "0x%04x gave %g, expected NaN", bits, (double)found);
    else
        cr_assert((double)found == expected && !signbit(found) == !signbit(expected),
                  "0x%04x gave %a, expected %a", bits, (double)found, expected);
}

/* sign * mantissa * 2^exponent by the definition of an IEEE format with a 16-bit pattern. */
static double value_by_definition(unsigned bits, int mantissa_bits, int bias)
{
    const int exponent_max = (1 << (15 - mantissa_bits)) - 1;
    const int exponent = (int)(bits & 0x7fffu) >> mantissa_bits;
    const int mantissa = (int)bits & ((1 << mantissa_bits) - 1);
    double magnitude;
    if (exponent == exponent_max)
        magnitude = mantissa ? (double)NAN : (double)INFINITY;
    else if (exponent == 0)
        magnitude = ldexp(mantissa, 1 - bias - mantissa_bits);
    else
        magnitude = ldexp(mantissa + (1 << mantissa_bits), exponent - bias - mantissa_bits);
    return bits & 0x8000u ? -magnitude : magnitude;
}

Test(safetensors, all_half_and_bfloat_values)
{
    static uint16_t patterns[65536];
    static float values[65536];
    for (unsigned i = 0; i < 65536; i++)
        patterns[i] = (uint16_t)i;
    convert("F16", patterns, 65536, 2, values);
    for (unsigned i = 0; i < 65536; i++)
        assert_same_float(values[i], value_by_definition(i, 10, 15), i);
    convert("BF16", patterns, 65536, 2, values);
    for (unsigned i = 0; i < 65536; i++)
        assert_same_float(values[i], value_by_definition(i, 7, 127), i);
}

Test(safetensors, float_values_are_copied)
{
    const float source[5] = {1.5f, -0.0f, 1e-42f, INFINITY, NAN};
    float values[5];
    convert("F32", source, 5, 4, values);
    cr_assert_eq(memcmp(values, source, sizeof source), 0);
}

/* ---- files and shards ---- */

static void expect_dir_error(const char *dir, const char *first, const char *second)
{
    safetensors *st;
    eval_error e = {""};
    cr_assert_not(safetensors_open_dir(&st, dir, &e));
    assert_mentions(e, first);
    assert_mentions(e, second);
}

static void write_shard(const char *dir, const char *file, const char *name, float value)
{
    static st_writer w;
    const size_t shape[1] = {1};
    st_writer_add(&w, name, "F32", 1, shape, &value, sizeof value);
    st_writer_save(&w, dir, file);
}

Test(safetensors, files_that_are_none)
{
    char dir[64], path[128];
    make_dir(dir);
    expect_dir_error(dir, dir, "neither model.safetensors nor model.safetensors.index.json");
    write_text(dir, "model.safetensors", "");
    expect_dir_error(dir, "model.safetensors", "file has 0 bytes");
    remove_file(dir, "model.safetensors");
    snprintf(path, sizeof path, "%s/model.safetensors", dir);
    cr_assert_eq(mkdir(path, 0700), 0);
    expect_dir_error(dir, path, "is a directory");
    cr_assert_eq(remove(path), 0);
    cr_assert_eq(mkfifo(path, 0600), 0);
    expect_dir_error(dir, path, "not a regular file");
    remove_dir(dir);
    expect_dir_error("/nowhere/at-all", "/nowhere/at-all", "neither");

    input_file f;
    eval_error e;
    static char long_name[5000];
    memset(long_name, 'x', sizeof long_name - 1);
    cr_assert_not(input_file_read(&f, NULL, long_name, &e));
    assert_mentions(e, "longer than 4095 bytes");
    cr_assert_not(input_file_read(&f, "/nowhere", "file", &e));
    assert_mentions(e, "/nowhere/file: cannot open: No such file");
}

/* Another program cuts the file while it is open: an error, where a mapping would end the process. */
Test(safetensors, a_file_that_becomes_shorter_is_an_error)
{
    enum { N = 100000 };
    static st_writer w;
    static float values[N];
    char dir[64], path[128];
    safetensors *st;
    eval_error e = {""};
    const size_t shape[1] = {N};
    make_dir(dir);
    snprintf(path, sizeof path, "%s/model.safetensors", dir);
    static const char *const dtypes[] = {"F32", "BF16"};
    for (size_t i = 0; i < 2; i++) {
        st_writer_add(&w, "x", dtypes[i], 1, shape, values, i == 0 ? 4 * N : 2 * N);
        st_writer_save(&w, dir, "model.safetensors");
        cr_assert(safetensors_open_dir(&st, dir, &e), "%s", e.text);
        const tensor *x = tensor_find(safetensors_tensors(st), "x");
        cr_assert(tensor_read_f32(x, 0, N, values, &e), "%s", e.text);
        cr_assert_eq(truncate(path, 5000), 0);
        cr_assert(tensor_read_f32(x, 0, 10, values, &e), "what is still there can be read: %s", e.text);
        cr_assert_not(tensor_read_f32(x, 0, N, values, &e));
        assert_mentions(e, path);
        assert_mentions(e, "ends at byte 5000");
        assert_mentions(e, "has become shorter since it was opened");
        safetensors_close(st);
    }
    remove_dir(dir);
}

Test(safetensors, what_was_read_whole_does_not_change_with_its_file)
{
    char dir[64], path[128];
    static char text[300000];
    input_file f;
    eval_error e = {""};
    memset(text, 'x', sizeof text);
    make_dir(dir);
    write_file(dir, "merges.txt", text, sizeof text);
    snprintf(path, sizeof path, "%s/merges.txt", dir);
    for (int stream = 0; stream < 2; stream++) {
        cr_assert(stream ? input_file_read_stream(&f, path, &e) : input_file_read(&f, dir, "merges.txt", &e),
                  "%s", e.text);
        cr_assert_eq(truncate(path, 0), 0);
        cr_assert_eq(f.size, sizeof text);
        cr_assert_eq(memcmp(f.data, text, sizeof text), 0);
        input_file_free(&f);
        write_file(dir, "merges.txt", text, sizeof text);
    }
    remove_dir(dir);
}

Test(safetensors, shards)
{
    char dir[64];
    float value;
    safetensors *st;
    eval_error e;
    make_dir(dir);
    write_shard(dir, "a.safetensors", "x", 1.0f);
    write_shard(dir, "b.safetensors", "y", 2.0f);
    write_text(
        dir, "model.safetensors.index.json",
        "{\"metadata\":{\"total_size\":8},\"weight_map\":{\"x\":\"a.safetensors\",\"y\":\"b.safetensors\"}}");
    cr_assert(safetensors_open_dir(&st, dir, &e), "%s", e.text);
    cr_assert_eq(safetensors_tensors(st)->n, 2);
    cr_assert(tensor_read_f32(tensor_find(safetensors_tensors(st), "y"), 0, 1, &value, &e), "%s", e.text);
    cr_assert_eq(value, 2.0f);
    cr_assert_not_null(strstr(tensor_find(safetensors_tensors(st), "y")->source->path, "/b.safetensors"));
    safetensors_close(st);
    remove_dir(dir);
}

Test(safetensors, wrong_shard_indexes)
{
    static const struct {
        const char *index, *mentions[2];
    } cases[] = {
        {"{\"weight_map\":{\"x\":\"a.safetensors\",\"z\":\"b.safetensors\"}}",
         {"b.safetensors", "tensor 'z' is missing"}},
        {"{\"weight_map\":{\"x\":\"b.safetensors\",\"y\":\"a.safetensors\"}}",
         {"tensor 'x' is missing", "index.json"}},
        {"{\"weight_map\":{\"x\":\"gone.safetensors\"}}", {"gone.safetensors", "cannot open"}},
        {"{\"weight_map\":{\"x\":\"../a.safetensors\"}}", {"'x'", "expected a plain file name"}},
        {"{\"weight_map\":{\"x\":\"/etc/passwd\"}}", {"'x'", "expected a plain file name"}},
        {"{\"weight_map\":{\"x\":\"\"}}", {"'x'", "expected a plain file name"}},
        {"{\"weight_map\":{\"x\":3}}", {"'x'", "(not a string)"}},
        {"{\"weight_map\":[]}", {"weight_map", "not an object"}},
        {"{}", {"weight_map", "index.json"}},
        {"[]", {"index.json", "expected a JSON object"}},
        {"{\"weight_map\":", {"index.json", "bad JSON"}},
    };
    char dir[64];
    make_dir(dir);
    write_shard(dir, "a.safetensors", "x", 1.0f);
    write_shard(dir, "b.safetensors", "y", 2.0f);
    for (size_t i = 0; i < sizeof cases / sizeof cases[0]; i++) {
        write_text(dir, "model.safetensors.index.json", cases[i].index);
        expect_dir_error(dir, cases[i].mentions[0], cases[i].mentions[1]);
    }
    write_shard(dir, "b.safetensors", "x", 2.0f);
    write_text(dir, "model.safetensors.index.json",
               "{\"weight_map\":{\"x\":\"a.safetensors\",\"y\":\"b.safetensors\"}}");
    expect_dir_error(dir, "tensor 'x' is also in", "safetensors");
    remove_dir(dir);
}
