/* Finding added tokens (added_tokens.h): the leftmost, of those the longest, as `tokenizers` does. */
#include "eval/model/added_tokens.h"

#include "eval/model/utf8.h"

#include <stdlib.h>
#include <string.h>
#include <utf8proc.h>

static int compare_tokens(const void *a, const void *b)
{
    const added_token *x = a, *y = b;
    const int order = memcmp(x->content, y->content, x->n < y->n ? x->n : y->n);
    if (order != 0)
        return order;
    if (x->n != y->n)
        return x->n < y->n ? -1 : 1;
    return (x->id > y->id) - (x->id < y->id);
}

/* Copies the contents to a->bytes, which grows; the tokens' contents are set once it stands still. */
static bool copy_tokens(added_tokens *a, const char *file, const added_token *tokens, size_t n,
                        bool normalized, const normalizer *z, text_buffer *bytes, eval_error *e)
{
    text_buffer buffers[2] = {{0}, {0}};
    bool ok = true;
    for (size_t i = 0; ok && i < n; i++) {
        if (tokens[i].normalized != normalized)
            continue;
        const char *content = tokens[i].content;
        size_t length = tokens[i].n;
        if (length > LONGEST_ADDED_TOKEN) {
            ok = eval_fail(e, "%s: the added token of id %d has %zu bytes, expected at most %d", file,
                           (int)tokens[i].id, length, LONGEST_ADDED_TOKEN);
            break;
        }
        if (normalized)
            ok = normalize(z, true, buffers, &content, &length, e);
        if (!ok || length == 0)
            continue;
        a->tokens[a->n] = tokens[i];
        a->tokens[a->n++].n = length;
        ok = text_append(bytes, content, length, e);
    }
    text_buffer_free(&buffers[0]);
    text_buffer_free(&buffers[1]);
    return ok;
}

bool added_tokens_build(added_tokens *a, const char *file, const added_token *tokens, size_t n,
                        bool normalized, const normalizer *z, eval_error *e)
{
    text_buffer bytes = {0};
    memset(a, 0, sizeof *a);
    a->tokens = calloc(n + 1, sizeof *a->tokens);
    if (!a->tokens)
        return eval_fail(e, "%s: out of memory for %zu added tokens", file, n);
    const bool ok = copy_tokens(a, file, tokens, n, normalized, z, &bytes, e);
    a->bytes = bytes.data;
    if (!ok || !a->bytes) /* failed, or none */
        return ok;
    const char *content = a->bytes;
    for (size_t i = 0; i < a->n; i++) {
        a->tokens[i].content = content;
        a->begins[(unsigned char)content[0]] = true;
        content += a->tokens[i].n;
    }
    if (a->n > 0)
        qsort(a->tokens, a->n, sizeof *a->tokens, compare_tokens);
    return true;
}

void added_tokens_free(added_tokens *a)
{
    free(a->tokens);
    free(a->bytes);
    memset(a, 0, sizeof *a);
}

/* ---- search ---- */

/* The first of tokens[low..high) whose byte at `depth` is `byte` or more; all of them have the same bytes
 * before, and one that ends there comes first. */
static size_t lower_bound(const added_tokens *a, size_t low, size_t high, size_t depth, int byte)
{
    while (low < high) {
        const size_t middle = low + (high - low) / 2;
        const added_token *t = &a->tokens[middle];
        if (t->n <= depth || (unsigned char)t->content[depth] < byte)
            low = middle + 1;
        else
            high = middle;
    }
    return low;
}

/* The longest token that text begins with, or NULL. */
static const added_token *longest_at(const added_tokens *a, const char *text, size_t n)
{
    const added_token *longest = NULL;
    size_t low = 0, high = a->n;
    for (size_t depth = 0; depth < n; depth++) {
        const int byte = (unsigned char)text[depth];
        low = lower_bound(a, low, high, depth, byte);
        high = lower_bound(a, low, high, depth, byte + 1);
        if (low == high)
            break;
        if (a->tokens[low].n == depth + 1)
            longest = &a->tokens[low];
    }
    return longest;
}

/* Is it of a word, as Rust's regular expressions have it? Alphabetic, marks, decimal digits, connecting
 * punctuation, joiners. */
static bool is_word(uint32_t c)
{
    const utf8proc_category_t category = utf8proc_category((utf8proc_int32_t)c);
    return (category >= UTF8PROC_CATEGORY_LU && category <= UTF8PROC_CATEGORY_ND) ||
           category == UTF8PROC_CATEGORY_NL || category == UTF8PROC_CATEGORY_PC || c == 0x200c ||
           c == 0x200d || (c >= 0x24b6 && c <= 0x24e9) || (c >= 0x1f130 && c <= 0x1f149) ||
           (c >= 0x1f150 && c <= 0x1f169) || (c >= 0x1f170 && c <= 0x1f189);
}

/* The character that ends at text[end]; 0 and no character if that is not valid UTF-8. */
static size_t decode_before(const char *text, size_t end, uint32_t *c)
{
    for (size_t n = 1; n <= 4 && n <= end; n++)
        if (utf8_decode(text + end - n, n, c) == n)
            return n;
    return 0;
}

static bool stands_alone(const char *text, size_t n, size_t begin, size_t end)
{
    uint32_t c;
    return !(decode_before(text, begin, &c) > 0 && is_word(c)) &&
           !(utf8_decode(text + end, n - end, &c) > 0 && is_word(c));
}

int32_t added_tokens_find(const added_tokens *a, const char *text, size_t n, size_t from, size_t taken,
                          size_t *begin, size_t *end, size_t *next)
{
    for (size_t at = from; a->n > 0 && at < n; at++) {
        const added_token *t = a->begins[(unsigned char)text[at]] ? longest_at(a, text + at, n - at) : NULL;
        uint32_t c;
        size_t length;
        if (!t)
            continue;
        *begin = at;
        *next = *end = at + t->n;
        if (t->single_word && !stands_alone(text, n, *begin, *end)) {
            at = *end - 1;
            continue;
        }
        if (t->lstrip)
            while (*begin > taken && (length = decode_before(text, *begin, &c)) > 0 && utf8_is_white_space(c))
                *begin -= length;
        if (*begin < taken)
            *begin = taken;
        if (t->rstrip)
            while ((length = utf8_decode(text + *end, n - *end, &c)) > 0 && utf8_is_white_space(c))
                *end += length;
        return t->id;
    }
    return -1;
}
