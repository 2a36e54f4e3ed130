/* GGUF: files of another implementation give its numbers to the bit, and damage is safe. */
#define _XOPEN_SOURCE 700

#include "eval/common/input_file.h"
#include "tests/checkpoint_files.h"
#include "tests/gguf_image.h"
#include "tests/gguf_walk.h"
#include "tests/npy.h"

#include <criterion/criterion.h>
#include <unistd.h>

#define VECTORS KVQ_SOURCE_DIR "/tests/vectors/gguf"

static void must_open(gguf **g, const gguf_image *image)
{
    eval_error e = {""};
    cr_assert(gguf_open_memory(g, "test", image->bytes, image->n, &e), "%s", e.text);
}

/* ---- files of another implementation ---- */

static void open_vectors(gguf **g, input_file *f, const char *name)
{
    eval_error e = {""};
    cr_assert(input_file_read(f, VECTORS, name, &e), "%s", e.text);
    cr_assert(gguf_open_memory(g, name, f->data, f->size, &e), "%s", e.text);
}

/* Whole tensors, and each block by itself. */
static void compare_tensor(const tensor *t, const float *expected)
{
    eval_error e = {""};
    const size_t block = tensor_type_of(t->type)->block_elems;
    float *found = malloc((t->n_elems + 1) * sizeof *found);
    cr_assert_not_null(found);
    found[t->n_elems] = 12345.0f;
    cr_assert(tensor_read_f32(t, 0, t->n_elems, found, &e), "%s", e.text);
    for (size_t i = 0; i < t->n_elems; i++)
        cr_assert(memcmp(&found[i], &expected[i], sizeof found[i]) == 0, "%s[%zu] is %a, expected %a",
                  t->name, i, (double)found[i], (double)expected[i]);
    cr_assert_eq(found[t->n_elems], 12345.0f, "%s: written past the end", t->name);
    for (size_t i = 0; i < t->n_elems; i += block) {
        cr_assert(tensor_read_f32(t, i, block, found, &e), "%s", e.text);
        cr_assert_eq(memcmp(found, expected + i, block * sizeof *found), 0, "%s, block at %zu", t->name, i);
    }
    free(found);
}

static void compare_types(const gguf *g)
{
    npy_array expected;
    size_t at = 0, n_types = 0;
    cr_assert(npy_load(&expected, VECTORS "/types.npy"));
    for (size_t i = 0; i < gguf_tensors(g)->n; i++) {
        const tensor *t = &gguf_tensors(g)->tensors[i];
        cr_assert_str_eq(t->name + 2, t->type_name);
        cr_assert_eq(t->type == TENSOR_UNREADABLE, t->name[0] == 'x', "%s", t->name);
        if (t->type == TENSOR_UNREADABLE)
            continue;
        cr_assert_str_eq(tensor_type_of(t->type)->name, t->type_name);
        cr_assert_leq(at + t->n_elems, expected.n_elems);
        compare_tensor(t, (const float *)expected.data + at);
        at += t->n_elems;
        n_types++;
    }
    cr_assert_eq(at, expected.n_elems);
    cr_assert_eq(n_types, TENSOR_UNREADABLE, "every type that can be read has its tensor");
    npy_free(&expected);
}

Test(gguf, every_type_gives_the_reference_bits)
{
    gguf *g;
    eval_error e = {""};
    cr_assert(gguf_open(&g, VECTORS "/types.gguf", &e), "%s", e.text);
    cr_assert_str_eq(gguf_path(g), VECTORS "/types.gguf");
    compare_types(g);
    gguf_walk(g);
    gguf_close(g);
}

Test(gguf, version_2_and_memory_at_odd_addresses)
{
    gguf *g;
    input_file f;
    eval_error e = {""};
    open_vectors(&g, &f, "types.gguf");
    gguf_close(g);
    uint8_t *odd = malloc(f.size + 1);
    cr_assert_not_null(odd);
    memcpy(odd + 1, f.data, f.size);
    odd[1 + 4] = 2; /* the version; the rest is the same in 2 and 3 */
    cr_assert(gguf_open_memory(&g, "odd", odd + 1, f.size, &e), "%s", e.text);
    compare_types(g);
    gguf_close(g);
    free(odd);
    input_file_free(&f);
}

Test(gguf, shapes_are_slowest_dimension_first)
{
    gguf *g;
    input_file f;
    eval_error e = {""};
    float values[24];
    open_vectors(&g, &f, "kinds.gguf");
    const tensor *b = tensor_find(gguf_tensors(g), "b");
    cr_assert_not_null(b);
    cr_assert(b->n_dims == 3 && b->shape[0] == 2 && b->shape[1] == 3 && b->shape[2] == 4);
    cr_assert(b->n_elems == 24 && b->n_bytes == 48 && b->file_offset % 64 == 0 && b->type == TENSOR_F16);
    cr_assert(tensor_read_f32(b, 0, 24, values, &e), "%s", e.text);
    for (size_t i = 0; i < 24; i++)
        cr_assert_eq(values[i], (float)i);
    cr_assert_null(tensor_find(gguf_tensors(g), "c"));
    gguf_close(g);
    input_file_free(&f);
}

/* ---- metadata ---- */

Test(gguf, integers_of_every_kind)
{
    static const struct {
        const char *name;
        gguf_kind kind;
        size_t one; /* SIZE_MAX: none, it is negative */
        int64_t low, high;
    } cases[] = {
        {"uint8", GGUF_U8, 200, 0, 255},
        {"int8", GGUF_I8, 0, -128, 127},
        {"uint16", GGUF_U16, 40000, 0, 65535},
        {"int16", GGUF_I16, 0, INT16_MIN, INT16_MAX},
        {"uint32", GGUF_U32, 3000000000u, 0, UINT32_MAX},
        {"int32", GGUF_I32, 0, INT32_MIN, INT32_MAX},
        {"uint64", GGUF_U64, INT64_MAX, 0, INT64_MAX}, /* the largest does not fit in an int64 */
        {"int64", GGUF_I64, 0, INT64_MIN, INT64_MAX},
    };
    gguf *g;
    input_file f;
    open_vectors(&g, &f, "kinds.gguf");
    for (size_t i = 0; i < sizeof cases / sizeof cases[0]; i++) {
        eval_error e = {""};
        char one[32], many[32];
        size_t value = 1, n;
        snprintf(one, sizeof one, "one.%s", cases[i].name);
        snprintf(many, sizeof many, "many.%s", cases[i].name);
        cr_assert(gguf_required_size(g, one, 0, SIZE_MAX, &value, &e), "%s", e.text);
        cr_assert_eq(value, cases[i].one, "%s", one);
        cr_assert(gguf_optional_array(g, many, cases[i].kind, &n, &e), "%s", e.text);
        cr_assert_eq(n, 3);
        cr_assert_eq(gguf_array_integer(g, many, 0), cases[i].low, "%s", many);
        cr_assert_eq(gguf_array_integer(g, many, 2), cases[i].high, "%s", many);
    }
    gguf_close(g);
    input_file_free(&f);
}

Test(gguf, values_of_other_kinds)
{
    gguf *g;
    input_file f;
    eval_error e = {""};
    size_t n, n_bytes;
    double x = 0;
    bool flag = false;
    const char *text = NULL;
    open_vectors(&g, &f, "kinds.gguf");
    cr_assert(gguf_optional_float(g, "one.float32", 0, 1, &x, &e), "%s", e.text);
    cr_assert_eq(x, (double)1e-40f);
    cr_assert(gguf_optional_float(g, "one.float64", 0, 1, &x, &e), "%s", e.text);
    cr_assert_eq(x, 1e-310);
    cr_assert(gguf_optional_bool(g, "one.bool", &flag, &e) && flag, "%s", e.text);
    cr_assert(gguf_optional_string(g, "one.string", &text, &e), "%s", e.text);
    cr_assert_str_eq(text, "\xc4\xa0word");
    cr_assert(gguf_optional_array(g, "many.float32", GGUF_F32, &n, &e) && n == 3, "%s", e.text);
    cr_assert_eq(gguf_array_float(g, "many.float32", 2), (double)3.0e38f);
    cr_assert(gguf_optional_array(g, "many.float64", GGUF_F64, &n, &e) && n == 3, "%s", e.text);
    cr_assert_eq(gguf_array_float(g, "many.float64", 0), -0.1);
    cr_assert(gguf_optional_array(g, "many.bool", GGUF_BOOL, &n, &e) && n == 3, "%s", e.text);
    cr_assert(gguf_array_integer(g, "many.bool", 0) == 0 && gguf_array_integer(g, "many.bool", 2) == 1);
    cr_assert(gguf_optional_array(g, "many.string", GGUF_STRING, &n, &e) && n == 3, "%s", e.text);
    cr_assert_str_eq(gguf_array_string(g, "many.string", 0, &n_bytes), "");
    cr_assert_eq(n_bytes, 0);
    cr_assert_str_eq(gguf_array_string(g, "many.string", 1, &n_bytes), "\xc4\xa0word");
    cr_assert_eq(n_bytes, 6);
    cr_assert_str_eq(gguf_array_string(g, "many.string", 2, &n_bytes), "two\nlines");
    gguf_close(g);
    input_file_free(&f);
}

Test(gguf, absent_keys_leave_values_alone)
{
    gguf *g;
    input_file f;
    eval_error e = {""};
    size_t size = 7, n = 7;
    double x = 7;
    bool flag = true;
    const char *text = "before";
    open_vectors(&g, &f, "kinds.gguf");
    cr_assert_not(gguf_has(g, "none"));
    cr_assert(gguf_optional_size(g, "none", 0, 1, &size, &e) && size == 7);
    cr_assert(gguf_optional_float(g, "none", 0, 1, &x, &e) && x == 7);
    cr_assert(gguf_optional_bool(g, "none", &flag, &e) && flag);
    cr_assert(gguf_optional_string(g, "none", &text, &e) && strcmp(text, "before") == 0);
    cr_assert(gguf_optional_array(g, "none", GGUF_I32, &n, &e) && n == 0);
    cr_assert_not(gguf_required_size(g, "none", 1, 9, &size, &e));
    cr_assert_str_eq(e.text, "kinds.gguf: key 'none' is missing, expected a whole number from 1 to 9");
    gguf_close(g);
    input_file_free(&f);
}

/* The keys of a file for wrong values; each value's byte is in the messages below. */
static void put_wrong_values(gguf_image *image)
{
    gguf_put(image, "Gqq", 0, 7);
    gguf_put(image, "sdd", "u", GGUF_U32, 5);
    gguf_put(image, "sdd", "i", GGUF_I32, -5);
    gguf_put(image, "sdQ", "f", GGUF_F64, UINT64_C(0x7ff8000000000000)); /* NaN */
    gguf_put(image, "sdb", "b", GGUF_BOOL, 1);
    gguf_put(image, "sds", "s", GGUF_STRING, "text");
    gguf_put(image, "sddqq", "a", GGUF_ARRAY, GGUF_U64, 1, 0);
    gguf_put(image, "sdqbbb", "n", GGUF_STRING, 3, 'x', 0, 'y');
}

Test(gguf, wrong_values_are_named)
{
    gguf_image image = {.n = 0};
    gguf *g;
    eval_error e = {""};
    size_t size = 7, n = 7;
    double x = 7;
    bool flag = true;
    const char *text = "before";
    put_wrong_values(&image);
    must_open(&g, &image);
#define WRONG(call, message)                                                                                 \
    do {                                                                                                     \
        cr_assert_not(call);                                                                                 \
        cr_assert_str_eq(e.text, "test: byte " message);                                                     \
    } while (0)
    WRONG(gguf_optional_size(g, "u", 6, 10, &size, &e),
          "37: key 'u' is 5, expected a whole number from 6 to 10");
    WRONG(gguf_optional_size(g, "u", 0, 4, &size, &e),
          "37: key 'u' is 5, expected a whole number from 0 to 4");
    WRONG(gguf_required_size(g, "i", 0, 9, &size, &e),
          "54: key 'i' is -5, expected a whole number from 0 to 9");
    WRONG(gguf_optional_size(g, "f", 0, 9, &size, &e),
          "71: key 'f' is nan, expected a whole number from 0 to 9");
    WRONG(gguf_optional_size(g, "s", 0, 9, &size, &e),
          "114: key 's' is the string 'text', expected a whole number from 0 to 9");
    WRONG(gguf_optional_float(g, "f", 0, 9, &x, &e),
          "71: key 'f' is nan, expected a floating-point number from 0 to 9");
    WRONG(gguf_optional_float(g, "u", 0, 9, &x, &e),
          "37: key 'u' is 5, expected a floating-point number from 0 to 9");
    WRONG(gguf_optional_bool(g, "u", &flag, &e), "37: key 'u' is 5, expected a bool");
    WRONG(gguf_optional_string(g, "b", &text, &e), "92: key 'b' is true, expected a string without NUL");
    WRONG(gguf_optional_string(g, "n", &text, &e),
          "172: key 'n' is the string 'x' and a NUL and more, expected a string without NUL");
    WRONG(gguf_optional_string(g, "a", &text, &e),
          "143: key 'a' is an array of 1 u64s, expected a string without NUL");
    WRONG(gguf_optional_array(g, "a", GGUF_I64, &n, &e),
          "143: key 'a' is an array of 1 u64s, expected an array of i64s");
    WRONG(gguf_optional_array(g, "s", GGUF_STRING, &n, &e),
          "114: key 's' is the string 'text', expected an array of strings");
#undef WRONG
    cr_assert(size == 7 && x == 7 && flag && strcmp(text, "before") == 0);
    gguf_close(g);
    gguf_image_free(&image);
}

/* Were a look-up linear in the number of elements or keys, this would take minutes. */
Test(gguf, big_arrays_and_many_keys_are_fast, .timeout = 60)
{
    enum { N = 300000, KEYS = 20000 };
    gguf_image image = {.n = 0};
    gguf *g;
    eval_error e = {""};
    char text[32];
    size_t n, n_bytes, size = 0;
    gguf_put(&image, "Gqqsddq", 0, 1 + KEYS, "tokens", GGUF_ARRAY, GGUF_STRING, N);
    for (int i = 0; i < N; i++) {
        snprintf(text, sizeof text, "token %d", i);
        gguf_put(&image, "s", text);
    }
    for (int i = 0; i < KEYS; i++) {
        snprintf(text, sizeof text, "key %d", i);
        gguf_put(&image, "sdd", text, GGUF_U32, i);
    }
    must_open(&g, &image);
    cr_assert(gguf_optional_array(g, "tokens", GGUF_STRING, &n, &e) && n == N, "%s", e.text);
    for (size_t i = 0; i < N; i++) {
        snprintf(text, sizeof text, "token %zu", i);
        cr_assert_str_eq(gguf_array_string(g, "tokens", i, &n_bytes), text);
        cr_assert_eq(n_bytes, strlen(text));
    }
    for (size_t i = 0; i < KEYS; i++) {
        snprintf(text, sizeof text, "key %zu", i);
        cr_assert(gguf_required_size(g, text, i, i, &size, &e), "%s", e.text);
    }
    gguf_close(g);
    gguf_image_free(&image);
}

/* ---- what is unusual and right ---- */

Test(gguf, holes_order_and_types_not_known_are_no_errors)
{
    static const char *const names[] = {"early", "empty", "late", "new", "old", "scalar"};
    gguf_image image = {.n = 0};
    gguf *g;
    eval_error e = {""};
    float values[2];
    gguf_put(&image, "Gqqsdd", 6, 1, "general.alignment", GGUF_U32, 8);
    gguf_put(&image, "sdqdq", "late", 1, 2, 0, 40);
    gguf_put(&image, "sdqdq", "early", 1, 1, 0, 8);
    gguf_put(&image, "sdqqdq", "empty", 2, 0, 7, 8, 40);
    gguf_put(&image, "sddq", "scalar", 0, 0, 16);
    gguf_put(&image, "sdqdq", "new", 1, 3, 1234567, 24);
    gguf_put(&image, "sdqdq", "old", 1, 3, 31, 32);
    gguf_put(&image, "p", 8);
    const size_t data = image.n;
    gguf_put(&image, "zdzdzddz", 8, 0x3f800000, 4, 0x40000000, 20, 0x40400000, 0x40800000, 5);
    must_open(&g, &image);
    const tensor_list *list = gguf_tensors(g);
    cr_assert_eq(list->n, 6);
    for (size_t i = 0; i < 6; i++)
        cr_assert_str_eq(list->tensors[i].name, names[i], "sorted by name");
    cr_assert(tensor_read_f32(tensor_find(list, "early"), 0, 1, values, &e) && values[0] == 1.0f, "%s",
              e.text);
    cr_assert(tensor_read_f32(tensor_find(list, "scalar"), 0, 1, values, &e) && values[0] == 2.0f, "%s",
              e.text);
    cr_assert(tensor_read_f32(tensor_find(list, "late"), 0, 2, values, &e) && values[1] == 4.0f, "%s",
              e.text);
    const tensor *empty = tensor_find(list, "empty"), *new = tensor_find(list, "new");
    cr_assert(empty->n_elems == 0 && empty->n_bytes == 0 && empty->shape[0] == 7 &&
              empty->type == TENSOR_Q8_0);
    cr_assert(tensor_read_f32(empty, 0, 0, values, &e), "%s", e.text);
    cr_assert(new->type == TENSOR_UNREADABLE &&new->n_elems == 3 && new->n_bytes == 0);
    cr_assert_eq(new->file_offset, data + 24);
    cr_assert_str_eq(new->type_name, "type 1234567");
    cr_assert_str_eq(tensor_find(list, "old")->type_name, "Q4_0_4_4");
    gguf_close(g);
    gguf_image_free(&image);
}

Test(gguf, a_file_of_nothing)
{
    gguf_image image = {.n = 0};
    gguf *g;
    gguf_kind kind, element;
    gguf_put(&image, "Gqq", 0, 0);
    must_open(&g, &image);
    cr_assert_eq(gguf_tensors(g)->n, 0);
    cr_assert_null(tensor_find(gguf_tensors(g), "w"));
    cr_assert_null(gguf_key(g, 0, &kind, &element));
    gguf_close(g);
    gguf_close(NULL);
    gguf_image_free(&image);
}

/* ---- damage ---- */

Test(gguf, every_truncation_is_an_error)
{
    static const struct {
        const char *name;
        size_t padding; /* at the end, which nobody needs */
    } files[] = {{"types.gguf", 30}, {"kinds.gguf", 16}};
    for (size_t i = 0; i < sizeof files / sizeof files[0]; i++) {
        input_file f;
        eval_error e = {""};
        cr_assert(input_file_read(&f, VECTORS, files[i].name, &e), "%s", e.text);
        for (size_t n = 0; n < f.size - files[i].padding; n++) {
            cr_assert_not(gguf_open_copy(f.data, n, &e), "the first %zu bytes of %s were accepted", n,
                          files[i].name);
            cr_assert_eq(strncmp(e.text, "test: ", 6), 0, "%s", e.text);
            cr_assert_not_null(strstr(e.text, "cut short?"));
        }
        cr_assert(gguf_open_copy(f.data, f.size - files[i].padding, &e), "%s", e.text);
        input_file_free(&f);
    }
}

Test(gguf, every_changed_byte_is_safe)
{
    static const char *const names[] = {"types.gguf", "kinds.gguf"};
    for (size_t i = 0; i < 2; i++) {
        input_file f;
        eval_error e = {""};
        cr_assert(input_file_read(&f, VECTORS, names[i], &e), "%s", e.text);
        for (size_t at = 0; at < f.size; at++) {
            const uint8_t original = f.data[at];
            const uint8_t values[] = {0, 1, 0x7f, 0x80, 0xff, original ^ 1, original ^ 16, original + 1};
            for (size_t j = 0; j < sizeof values; j++) {
                f.data[at] = values[j];
                if (!gguf_open_copy(f.data, f.size, &e))
                    cr_assert_eq(strncmp(e.text, "test: ", 6), 0, "%s", e.text);
            }
            f.data[at] = original;
        }
        input_file_free(&f);
    }
}

/* ---- files ---- */

static void expect_no_file(const char *path, const char *message)
{
    gguf *g = NULL;
    eval_error e = {""};
    cr_assert_not(gguf_open(&g, path, &e));
    cr_assert_null(g);
    assert_mentions(e, path);
    assert_mentions(e, message);
}

/* Of a size that takes several reads, of a tensor and of the header. */
static void put_large(gguf_image *image, size_t n_blocks)
{
    gguf_put(image, "Gqqsddq", 1, 1, "k", GGUF_ARRAY, GGUF_U8, 200000);
    gguf_put_zeros(image, 200000);
    gguf_put(image, "sdqdqp", "w", 1, (int)(32 * n_blocks), 8, 0, 32);
    for (size_t i = 0; i < n_blocks; i++) {
        gguf_put(image, "bb", 0, 0x3c); /* a scale of 1 */
        for (size_t j = 0; j < 32; j++)
            gguf_put(image, "b", (int)((i + j) % 127));
    }
}

Test(gguf, a_file_reads_as_its_bytes_in_memory)
{
    enum { BLOCKS = 5000, N = 32 * BLOCKS };
    static float of_file[N], of_memory[N];
    gguf_image image = {.n = 0};
    gguf *g, *m;
    eval_error e = {""};
    char dir[64], path[128];
    make_dir(dir);
    snprintf(path, sizeof path, "%s/model.safetensors", dir);
    put_large(&image, BLOCKS);
    write_file(dir, "model.safetensors", image.bytes, image.n);
    must_open(&m, &image);
    cr_assert(gguf_open(&g, path, &e), "%s", e.text);
    const tensor *w = tensor_find(gguf_tensors(g), "w"), *v = tensor_find(gguf_tensors(m), "w");
    cr_assert(tensor_read_f32(w, 0, N, of_file, &e), "%s", e.text);
    cr_assert(tensor_read_f32(v, 0, N, of_memory, &e), "%s", e.text);
    cr_assert_eq(memcmp(of_file, of_memory, sizeof of_file), 0);
    for (size_t i = 0; i < N; i++)
        cr_assert_eq(of_file[i], (float)((i / 32 + i % 32) % 127), "[%zu]", i);

    /* Another program cuts it: an error, where a mapping would end the process. */
    cr_assert_eq(truncate(path, (off_t)w->file_offset + 3400), 0);
    cr_assert(tensor_read_f32(w, 0, 3200, of_file, &e), "what is still there can be read: %s", e.text);
    cr_assert_not(tensor_read_f32(w, 32, 3200, of_file, &e));
    assert_mentions(e, path);
    assert_mentions(e, "has become shorter since it was opened");
    gguf_close(g);
    gguf_close(m);
    gguf_image_free(&image);
    remove_dir(dir);
}

Test(gguf, files_that_are_none)
{
    char dir[64], path[128];
    make_dir(dir);
    snprintf(path, sizeof path, "%s/model.safetensors", dir);
    expect_no_file(dir, "is a directory");
    expect_no_file(path, "cannot open: No such file");
    write_text(dir, "model.safetensors", "");
    expect_no_file(path, "byte 0: the magic number has 4 bytes, but only 0 bytes follow");
    remove_dir(dir);
}

/* A damaged length in a huge file: refused before anything of that size is read or allocated. */
Test(gguf, a_header_has_its_limit)
{
    gguf_image image = {.n = 0};
    char dir[64], path[128];
    make_dir(dir);
    snprintf(path, sizeof path, "%s/model.safetensors", dir);
    gguf_put(&image, "Gqqsddq", 0, 1, "k", GGUF_ARRAY, GGUF_U8, 300 << 20);
    write_file(dir, "model.safetensors", image.bytes, image.n);
    cr_assert_eq(truncate(path, (off_t)1 << 30), 0); /* takes no room on the disk */
    expect_no_file(
        path, "byte 41: key 'k': the array has 314572800 entries, which do not fit in the 268435456 bytes "
              "a header may have");
    gguf_image_free(&image);
    remove_dir(dir);
}
