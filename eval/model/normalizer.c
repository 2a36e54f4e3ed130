/* Normalizers (normalizer.h).
 *
 * NFC: characters are decomposed, marks sorted, and composed again. utf8proc does the first and the last; its
 * own sorting takes time with the square of a run of marks, so that is done here, by counting.
 * Source: Unicode Standard Annex 15.
 */
#include "eval/model/normalizer.h"

#include "eval/model/utf8.h"

#include <limits.h>
#include <stdlib.h>
#include <string.h>
#include <utf8proc.h>

bool text_append(text_buffer *b, const char *text, size_t n, eval_error *e)
{
    if (n > b->capacity - b->n) {
        const size_t capacity = b->capacity + b->capacity / 2 + n + 64;
        char *data = realloc(b->data, capacity);
        if (!data)
            return eval_fail(e, "tokenizer: out of memory for a text of %zu bytes", capacity);
        b->data = data;
        b->capacity = capacity;
    }
    if (n > 0)
        memcpy(b->data + b->n, text, n);
    b->n += n;
    return true;
}

void text_buffer_free(text_buffer *b)
{
    free(b->data);
    memset(b, 0, sizeof *b);
}

/* ---- NFC ---- */

/* All below U+0300 is in NFC already, whatever stands beside it. */
static bool is_nfc_plainly(const char *text, size_t n)
{
    for (size_t i = 0; i < n; i++)
        if ((unsigned char)text[i] >= 0xcc)
            return false;
    return true;
}

static utf8proc_propval_t combining_class(utf8proc_int32_t c)
{
    return utf8proc_get_property(c)->combining_class;
}

/* Sorts the marks of one run by their class, equal ones as they stand. `other` has room for as many. */
static void sort_marks(utf8proc_int32_t *c, size_t n, utf8proc_int32_t *other)
{
    size_t at[257] = {0};
    for (size_t i = 0; i < n; i++)
        at[(combining_class(c[i]) & 0xff) + 1]++;
    for (size_t k = 1; k < 257; k++)
        at[k] += at[k - 1];
    for (size_t i = 0; i < n; i++)
        other[at[combining_class(c[i]) & 0xff]++] = c[i];
    memcpy(c, other, n * sizeof *c);
}

static void sort_all_marks(utf8proc_int32_t *c, size_t n, utf8proc_int32_t *other)
{
    for (size_t begin = 0; begin < n;) {
        size_t end = begin;
        bool sorted = true;
        for (; end < n && combining_class(c[end]) != 0; end++)
            sorted = sorted && (end == begin || combining_class(c[end - 1]) <= combining_class(c[end]));
        if (!sorted)
            sort_marks(c + begin, end - begin, other);
        begin = end + (end == begin);
    }
}

enum { LONGEST_DECOMPOSITION = 4 }; /* of one character, canonical */

/* c has room for LONGEST_DECOMPOSITION times as many as there are characters in the text. */
static size_t decompose(const char *text, size_t n, utf8proc_int32_t *c)
{
    size_t n_c = 0, length;
    for (size_t i = 0; i < n; i += length) {
        uint32_t character = 0;
        length = utf8_decode(text + i, n - i, &character);
        if (length == 0)
            break; /* cannot be: the text is valid */
        const utf8proc_ssize_t got = utf8proc_decompose_char((utf8proc_int32_t)character, c + n_c,
                                                             LONGEST_DECOMPOSITION, UTF8PROC_DECOMPOSE, NULL);
        if (got >= 1 && got <= LONGEST_DECOMPOSITION)
            n_c += (size_t)got;
        else
            c[n_c++] = (utf8proc_int32_t)character;
    }
    return n_c;
}

static bool append_composed(utf8proc_int32_t *c, size_t n, text_buffer *out, eval_error *e)
{
    const utf8proc_ssize_t composed =
        utf8proc_normalize_utf32(c, (utf8proc_ssize_t)n, UTF8PROC_COMPOSE | UTF8PROC_STABLE);
    if (composed < 0)
        return eval_fail(e, "tokenizer: utf8proc error %ld", (long)composed);
    for (utf8proc_ssize_t i = 0; i < composed; i++) {
        char bytes[4];
        if (!text_append(out, bytes, utf8_encode((uint32_t)c[i], bytes), e))
            return false;
    }
    return true;
}

/* It composes with nothing; utf8proc (2.8) takes it for a trailing consonant, so none is shown to it but as
 * the first. */
#define NO_TRAILING_CONSONANT 0x11a7

static bool append_nfc(const char *text, size_t n, text_buffer *out, eval_error *e)
{
    size_t n_characters = 0;
    for (size_t i = 0; i < n; i++)
        n_characters += ((unsigned char)text[i] & 0xc0) != 0x80;
    const size_t room = n_characters * LONGEST_DECOMPOSITION;
    utf8proc_int32_t *c = calloc(2 * room + 1, sizeof *c);
    if (!c)
        return eval_fail(e, "tokenizer: out of memory for a text of %zu characters", n_characters);
    const size_t n_c = decompose(text, n, c);
    sort_all_marks(c, n_c, c + room);
    bool ok = true;
    for (size_t begin = 0, end; ok && begin < n_c; begin = end) {
        for (end = begin + 1; end < n_c && c[end] != NO_TRAILING_CONSONANT;)
            end++;
        ok = append_composed(c + begin, end - begin, out, e);
    }
    free(c);
    return ok;
}

/* ---- steps ---- */

static bool append_replaced(const normalizer_step *step, const char *text, size_t n, text_buffer *out,
                            eval_error *e)
{
    size_t begin = 0, i = 0;
    while (i < n) {
        if (n - i >= step->n_from && memcmp(text + i, step->from, step->n_from) == 0) {
            if (!text_append(out, text + begin, i - begin, e) || !text_append(out, step->to, step->n_to, e))
                return false;
            begin = i += step->n_from;
        } else {
            i++;
        }
    }
    return text_append(out, text + begin, n - begin, e);
}

bool normalize(const normalizer *z, bool prepend, text_buffer buffers[2], const char **text, size_t *n,
               eval_error *e)
{
    const size_t most = *n < SIZE_MAX / 200 ? 100 * *n + 1000 : SIZE_MAX;
    size_t which = 0;
    for (size_t i = 0; i < z->n_steps; i++) {
        const normalizer_step *step = &z->steps[i];
        text_buffer *out = &buffers[which];
        out->n = 0;
        bool ok = true;
        if (step->kind == NORMALIZE_NFC && is_nfc_plainly(*text, *n))
            continue;
        if (step->kind == NORMALIZE_PREPEND && (!prepend || *n == 0))
            continue;
        if (step->kind == NORMALIZE_NFC)
            ok = append_nfc(*text, *n, out, e);
        else if (step->kind == NORMALIZE_PREPEND)
            ok = text_append(out, step->to, step->n_to, e) && text_append(out, *text, *n, e);
        else
            ok = append_replaced(step, *text, *n, out, e);
        if (!ok)
            return false;
        if (out->n > most)
            return eval_fail(e, "tokenizer: the normalizers make %zu bytes of a text of %zu", out->n, *n);
        *text = out->data ? out->data : "";
        *n = out->n;
        which = 1 - which;
    }
    return true;
}
