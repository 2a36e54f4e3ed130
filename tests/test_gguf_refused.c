/* Damaged and hostile GGUF files: each is refused with one exact message. */
#include "tests/gguf_image.h"
#include "tests/gguf_walk.h"

static void refuse(gguf_image *image, int line, const char *message)
{
    eval_error e = {""};
    cr_assert_not(gguf_open_copy(image->bytes, image->n, &e), "line %d was accepted, expected: %s", line,
                  message);
    cr_assert_str_eq(e.text, message, "line %d:\nfound    %s\nexpected %s", line, e.text, message);
    gguf_image_free(image);
}

/* REFUSED(message, letters, ...): a file of these parts is refused with exactly this message. */
#define REFUSED(message, ...)                                                                                \
    do {                                                                                                     \
        gguf_image image_ = {.n = 0};                                                                        \
        gguf_put(&image_, __VA_ARGS__);                                                                      \
        refuse(&image_, __LINE__, message);                                                                  \
    } while (0)

/* ---- the header ---- */

Test(gguf_refused, begins_wrong)
{
    REFUSED("test: byte 0: the magic number has 4 bytes, but only 0 bytes follow; is the file cut short?",
            "");
    REFUSED("test: byte 0: begins with 47 47 4d 4c, expected 47 47 55 46, \"GGUF\"", "bbbb", 'G', 'G', 'M',
            'L');
    REFUSED("test: byte 4: version is 1, expected 2 or 3", "ddz", 0x46554747, 1, 100);
    REFUSED("test: byte 4: version is 4, expected 2 or 3", "ddz", 0x46554747, 4, 100);
    REFUSED("test: byte 4: version is 0, expected 2 or 3", "ddz", 0x46554747, 0, 100);
    REFUSED("test: byte 4: version is 03000000: a big-endian file, expected little-endian", "ddz", 0x46554747,
            0x03000000, 100);
    REFUSED("test: byte 8: the list of tensors has 8 bytes, but only 4 bytes follow; is the file cut short?",
            "Gd", 0);
    REFUSED(
        "test: byte 8: the list of tensors has 5 entries, but only 100 bytes follow; is the file cut short?",
        "Gqz", 5, 100);
    REFUSED(
        "test: byte 8: the list of tensors has 18446744073709551615 entries, but only 100 bytes follow; is "
        "the file cut short?",
        "GQz", UINT64_MAX, 100);
    REFUSED(
        "test: byte 16: the list of keys has 1000000000000 entries, but only 100 bytes follow; is the file "
        "cut short?",
        "GqQz", 0, UINT64_C(1000000000000), 100);
}

/* As REFUSED, for what follows the counts of one key. */
#define KEY_REFUSED(message, letters, ...) REFUSED("test: byte " message, "Gqq" letters, 0, 1, __VA_ARGS__)

Test(gguf_refused, keys_and_values_are_checked)
{
    KEY_REFUSED("24: a key's name has 65536 bytes, expected at most 65535", "qz", 65536, 70000);
    KEY_REFUSED("24: a key's name has 20 bytes, but only 19 bytes follow; is the file cut short?", "qz", 20,
                19);
    KEY_REFUSED("24: a key's name is empty", "sz", "", 20);
    KEY_REFUSED("33: key 'a': a NUL in its name", "qbbbz", 3, 'a', 0, 'b', 20);
    KEY_REFUSED("33: key 'k': the kind of its value is 13, expected 0 to 12", "sdz", "k", 13, 20);
    KEY_REFUSED("33: key 'k': the kind of its value is 4294967295, expected 0 to 12", "sdz", "k", -1, 20);
    KEY_REFUSED("37: key 'k': its value has 8 bytes, but only 7 bytes follow; is the file cut short?", "sdz",
                "k", GGUF_F64, 7);
    KEY_REFUSED(
        "37: key 'k': its value has 9223372036854775807 bytes, but only 3 bytes follow; is the file cut "
        "short?",
        "sdQz", "k", GGUF_STRING, UINT64_C(0x7fffffffffffffff), 3);
    KEY_REFUSED(
        "37: key 'k': its value has 18446744073709551615 bytes, but only 3 bytes follow; is the file cut "
        "short?",
        "sdQz", "k", GGUF_STRING, UINT64_MAX, 3);
    KEY_REFUSED("37: key 'k': a bool is 2, expected 0 or 1", "sdb", "k", GGUF_BOOL, 2);
    KEY_REFUSED("35: key 'a?b': the kind of its value is 13, expected 0 to 12", "sdz", "a\nb", 13, 20);
}

Test(gguf_refused, arrays_are_checked)
{
    KEY_REFUSED("37: key 'k': the kind of its elements is 77, expected 0 to 12", "sddq", "k", GGUF_ARRAY, 77,
                0);
    KEY_REFUSED("37: key 'k': an array of arrays, which is not read here", "sddq", "k", GGUF_ARRAY,
                GGUF_ARRAY, 0);
    KEY_REFUSED("41: key 'k': the array has 3 entries, but only 11 bytes follow; is the file cut short?",
                "sddqz", "k", GGUF_ARRAY, GGUF_I32, 3, 11);
    KEY_REFUSED(
        "41: key 'k': the array has 4611686018427387905 entries, but only 11 bytes follow; is the file cut "
        "short?",
        "sddQz", "k", GGUF_ARRAY, GGUF_I32, UINT64_C(0x4000000000000001), 11);
    KEY_REFUSED("41: key 'k': the array has 2 entries, but only 15 bytes follow; is the file cut short?",
                "sddqz", "k", GGUF_ARRAY, GGUF_STRING, 2, 15);
    KEY_REFUSED(
        "58: key 'k': a string of the array has 5 bytes, but only 4 bytes follow; is the file cut short?",
        "sddqsqz", "k", GGUF_ARRAY, GGUF_STRING, 2, "x", 5, 4);
    KEY_REFUSED(
        "58: key 'k': a string of the array has 8 bytes, but only 7 bytes follow; is the file cut short?",
        "sddqsz", "k", GGUF_ARRAY, GGUF_STRING, 2, "x", 7);
    KEY_REFUSED("51: key 'k': a bool is 255, expected 0 or 1", "sddqbbb", "k", GGUF_ARRAY, GGUF_BOOL, 3, 0, 1,
                255);
}

Test(gguf_refused, keys_with_a_meaning)
{
    REFUSED("test: key 'k' is there twice, at bytes 32 and 60", "Gqqsdbsdbsdb", 0, 3, "k", GGUF_U8, 1, "j",
            GGUF_U8, 1, "k", GGUF_U8, 1);
    KEY_REFUSED("53: key 'general.alignment' is 0, expected a whole number from 1 to 1073741824", "sdd",
                "general.alignment", GGUF_U32, 0);
    KEY_REFUSED("53: key 'general.alignment' is 48, expected a power of two", "sdd", "general.alignment",
                GGUF_U32, 48);
    KEY_REFUSED(
        "61: key 'general.alignment' is the string '32', expected a whole number from 1 to 1073741824", "sds",
        "general.alignment", GGUF_STRING, "32");
    KEY_REFUSED("47: key 'split.count' is 3, expected a model in one file (llama-gguf-split --merge)", "sdbb",
                "split.count", GGUF_U16, 3, 0);
    gguf_image whole = {.n = 0};
    eval_error e = {""};
    gguf_put(&whole, "Gqqsdbb", 0, 1, "split.count", GGUF_U16, 1, 0);
    cr_assert(gguf_open_copy(whole.bytes, whole.n, &e), "split into one: %s", e.text);
    gguf_image_free(&whole);
}

/* ---- tensors ---- */

#define TENSOR_REFUSED(message, letters, ...) REFUSED("test: byte " message, "Gqq" letters, 1, 0, __VA_ARGS__)
#define BIG                                   UINT64_C(0x100000000)

Test(gguf_refused, what_a_header_says_of_tensors_is_checked)
{
    TENSOR_REFUSED("24: a tensor's name has 65 bytes, expected at most 64", "qz", 65, 100);
    TENSOR_REFUSED("24: a tensor's name is empty", "sz", "", 100);
    TENSOR_REFUSED("32: tensor '': a NUL in its name", "qz", 1, 100);
    TENSOR_REFUSED("33: tensor 'w': 5 dimensions, expected at most 4", "sdz", "w", 5, 100);
    TENSOR_REFUSED("33: tensor 'w': 4294967295 dimensions, expected at most 4", "sdz", "w", -1, 100);
    TENSOR_REFUSED("45: tensor 'w': the product of its dimensions overflows at 4294967296", "sdQQz", "w", 2,
                   BIG, BIG, 100);
    TENSOR_REFUSED(
        "56: tensor 'a name of 20 letters': its type has 4 bytes, but only 3 bytes follow; is the file "
        "cut short?",
        "sdz", "a name of 20 letters", 0, 3);
    TENSOR_REFUSED("45: tensor 'w': rows have 48 elements, expected a multiple of 32 for Q8_0", "sdqdqz", "w",
                   1, 48, 8, 0, 100);
    TENSOR_REFUSED("45: tensor 'w': rows have 128 elements, expected a multiple of 256 for Q6_K", "sdqdqz",
                   "w", 1, 128, 14, 0, 210);
    TENSOR_REFUSED("45: tensor 'w': rows have 16 elements, expected a multiple of 32 for IQ4_NL", "sdqdqz",
                   "w", 1, 16, 20, 0, 100);
    TENSOR_REFUSED("37: tensor 'w': rows have 1 element, expected a multiple of 32 for Q4_0", "sddqz", "w", 0,
                   2, 0, 100);
    TENSOR_REFUSED("53: tensor 'w': the size in bytes of 4611686018427387904 elements overflows", "sdQqdqz",
                   "w", 2, BIG, 1 << 30, 0, 0, 100);
    TENSOR_REFUSED("49: tensor 'w': its offset has 8 bytes, but only 7 bytes follow; is the file cut short?",
                   "sdqdz", "w", 1, 1, 0, 7);
}

/* One F32 tensor of two elements or two such tensors, whose data begins at byte 64 or 96. */
#define ONE_REFUSED(message, offset, n_data)                                                                 \
    REFUSED("test: " message, "GqqsdqdQpz", 1, 0, "w", 1, 2, 0, UINT64_C(offset), 32, n_data)
#define TWO_REFUSED(message, name, type, offset_0, offset_1, n_data)                                         \
    REFUSED("test: " message, "GqqsdqdqsdqdQpz", 2, 0, "v", 1, 64, 0, offset_0, name, 1, 64, type,           \
            UINT64_C(offset_1), 32, n_data)

Test(gguf_refused, where_data_lies_is_checked)
{
    ONE_REFUSED("byte 49: tensor 'w': offset is 16, expected a multiple of 32", 16, 100);
    ONE_REFUSED("byte 49: tensor 'w': offset is 0 and size 8, but the file has only 7 bytes of data; is it "
                "cut short?",
                0, 7);
    ONE_REFUSED(
        "byte 49: tensor 'w': offset is 32 and size 8, but the file has only 39 bytes of data; is it cut "
        "short?",
        32, 39);
    ONE_REFUSED(
        "byte 49: tensor 'w': offset is 64 and size 8, but the file has only 63 bytes of data; is it cut "
        "short?",
        64, 63);
    ONE_REFUSED(
        "byte 49: tensor 'w': offset is 18446744073709551584 and size 8, but the file has only 40 bytes of "
        "data; is it cut short?",
        18446744073709551584, 40);
    TWO_REFUSED("tensor 'v' is there twice, with data at bytes 96 and 352", "v", 0, 0, 256, 512);
    TWO_REFUSED("tensors 'v' and 'w' overlap at byte 320", "w", 0, 0, 224, 512);
    TWO_REFUSED("tensors 'w' and 'v' overlap at byte 320", "w", 0, 224, 0, 512);
    TWO_REFUSED("tensors 'v' and 'w' overlap at byte 96", "w", 0, 0, 0, 512);
    TWO_REFUSED("tensors 'v' and 'w' overlap at byte 128", "w", 24, 0, 32, 512); /* I8 */
    TWO_REFUSED("tensors 'v' and 'w' overlap at byte 128", "w", 99, 0, 32, 512); /* of a size not known */
    TWO_REFUSED(
        "byte 82: tensor 'w': offset is 544 and size 0, but the file has only 512 bytes of data; is it cut "
        "short?",
        "w", 99, 0, 544, 512);
}

/* Found by fuzzing: an empty tensor needs no data, but what is read must begin in the file all the same. */
Test(gguf_refused, header_that_ends_before_its_data_would_begin)
{
    REFUSED("test: data would begin at byte 64, but the file has 57 bytes; is it cut short?", "Gqqsdqdq", 1,
            0, "w", 1, 2, 0, 0);
    REFUSED("test: data would begin at byte 64, but the file has 61 bytes; is it cut short?", "Gqqsdqdqz", 1,
            0, "w", 1, 0, 0, 0, 4);
}
