/* UTF-8 and what little of Unicode is needed besides (utf8.h). */
#include "eval/model/utf8.h"

size_t utf8_decode(const char *text, size_t n, uint32_t *character)
{
    const unsigned char *s = (const unsigned char *)text;
    static const uint32_t smallest[5] = {0, 0, 0x80, 0x800, 0x10000};
    if (n == 0)
        return 0;
    if (s[0] < 0x80) {
        *character = s[0];
        return 1;
    }
    size_t length = s[0] >= 0xf0 ? 4 : s[0] >= 0xe0 ? 3 : 2;
    if (s[0] < 0xc2 || s[0] > 0xf4 || n < length)
        return 0;
    uint32_t c = s[0] & (0x7fu >> length);
    for (size_t i = 1; i < length; i++) {
        if ((s[i] & 0xc0) != 0x80)
            return 0;
        c = c << 6 | (s[i] & 0x3fu);
    }
    if (c < smallest[length] || c > 0x10ffff || (c >= 0xd800 && c <= 0xdfff))
        return 0;
    *character = c;
    return length;
}

size_t utf8_encode(uint32_t c, char out[4])
{
    if (c < 0x80) {
        out[0] = (char)c;
        return 1;
    }
    const size_t length = c < 0x800 ? 2 : c < 0x10000 ? 3 : 4;
    for (size_t i = length - 1; i > 0; i--, c >>= 6)
        out[i] = (char)(0x80 | (c & 0x3f));
    out[0] = (char)(c | (length == 2 ? 0xc0u : length == 3 ? 0xe0u : 0xf0u));
    return length;
}

bool utf8_is_white_space(uint32_t c)
{
    return (c >= 0x9 && c <= 0xd) || c == 0x20 || c == 0x85 || c == 0xa0 || c == 0x1680 ||
           (c >= 0x2000 && c <= 0x200a) || c == 0x2028 || c == 0x2029 || c == 0x202f || c == 0x205f ||
           c == 0x3000;
}

size_t utf8_valid_prefix(const char *text, size_t n_bytes)
{
    size_t i = 0, length;
    uint32_t character;
    while ((length = utf8_decode(text + i, n_bytes - i, &character)) > 0)
        i += length;
    return i;
}

size_t utf8_incomplete_tail(const char *text, size_t n_bytes)
{
    for (size_t n = 1; n <= 3 && n <= n_bytes; n++) {
        const unsigned char c = (unsigned char)text[n_bytes - n];
        if ((c & 0xc0) !=
            0x80) { /* not a continuation: the character that n bytes are there of begins here */
            const size_t length = c >= 0xf0 && c < 0xf5   ? 4
                                  : c >= 0xe0 && c < 0xf0 ? 3
                                  : c >= 0xc2 && c < 0xe0 ? 2
                                                          : 1;
            return length > n ? n : 0;
        }
    }
    return 0;
}

bool text_check_utf8(const char *file, const char *text, size_t n_bytes, eval_error *e)
{
    size_t valid = utf8_valid_prefix(text, n_bytes);
    if (valid < n_bytes)
        return eval_fail(e, "%s: byte %zu (0x%02x) is not valid UTF-8, expected UTF-8 text", file, valid,
                         (unsigned char)text[valid]);
    return true;
}
