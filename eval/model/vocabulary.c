/* Tokens and the search for them (vocabulary.h).
 *
 * Byte-level vocabularies write each byte of a token as one printable Unicode character: the printable ones
 * of Latin-1 stand for themselves, the others are U+0100, U+0101, ... in order (so a space is U+0120).
 * Source: Radford et al., 2019, section 2.2.
 *
 * The search is binary over the sorted tokens: no file can make it slow, as it could with a hash.
 */
#include "eval/model/vocabulary.h"

#include "eval/model/utf8.h"

#include <stdlib.h>
#include <string.h>

/* The byte that a character of a byte-level name stands for, or -1. */
static int byte_of_character(uint32_t c)
{
    if ((c >= 0x21 && c <= 0x7e) || (c >= 0xa1 && c <= 0xac) || (c >= 0xae && c <= 0xff))
        return (int)c;
    if (c >= 0x100 && c <= 0x120)
        return (int)(c - 0x100); /* 0x00..0x20 */
    if (c >= 0x121 && c <= 0x142)
        return (int)(c - 0x121 + 0x7f); /* 0x7f..0xa0 */
    return c == 0x143 ? 0xad : -1;
}

size_t byte_level_bytes(const char *name, size_t n, char *out, bool *by_hand)
{
    size_t n_out = 0, length;
    if (by_hand)
        *by_hand = false;
    for (size_t i = 0; i < n; i += length) {
        uint32_t c;
        length = utf8_decode(name + i, n - i, &c);
        const int byte = length > 0 ? byte_of_character(c) : -1;
        if (byte < 0) {
            memcpy(out, name, n);
            if (by_hand)
                *by_hand = true;
            return n;
        }
        out[n_out++] = (char)byte;
    }
    return n_out;
}

static int hex_digit(char c)
{
    return c >= '0' && c <= '9' ? c - '0' : c >= 'A' && c <= 'F' ? c - 'A' + 10 : -1;
}

int byte_of_name(const char *name, size_t n)
{
    if (n != 6 || memcmp(name, "<0x", 3) != 0 || name[5] != '>')
        return -1;
    const int high = hex_digit(name[3]), low = hex_digit(name[4]);
    return high < 0 || low < 0 ? -1 : high * 16 + low;
}

/* ---- search ---- */

static uint64_t prefix_of(const char *text, size_t n)
{
    uint64_t prefix = 0;
    for (size_t i = 0; i < 8; i++)
        prefix = prefix << 8 | (i < n ? (unsigned char)text[i] : 0);
    return prefix;
}

static int compare_bytes(const char *a, size_t n_a, const char *b, size_t n_b)
{
    const int order = memcmp(a, b, n_a < n_b ? n_a : n_b);
    return order != 0 ? order : (n_a > n_b) - (n_a < n_b);
}

static const char *text_of(const vocabulary *v, int32_t id, size_t *n)
{
    const size_t begin = v->text.start[id];
    *n = v->text.start[(size_t)id + 1] - begin;
    return v->text.bytes + begin;
}

static int compare_with(const vocabulary *v, const vocabulary_entry *entry, uint64_t prefix, const char *text,
                        size_t n)
{
    if (entry->prefix != prefix)
        return entry->prefix < prefix ? -1 : 1;
    size_t n_own;
    const char *own = text_of(v, entry->id, &n_own);
    return compare_bytes(own, n_own, text, n);
}

int32_t vocabulary_find(const vocabulary *v, const char *text, size_t n)
{
    const uint64_t prefix = prefix_of(text, n);
    size_t low = 0, high = v->n_index; /* the first entry above text is in [low, high] */
    while (low < high) {
        const size_t middle = low + (high - low) / 2;
        if (compare_with(v, &v->index[middle], prefix, text, n) <= 0)
            low = middle + 1;
        else
            high = middle;
    }
    return low > 0 && compare_with(v, &v->index[low - 1], prefix, text, n) == 0 ? v->index[low - 1].id : -1;
}

/* Sorts by merging; qsort would need the vocabulary through a global variable. */
static void sort_index(const vocabulary *v, vocabulary_entry *entries, vocabulary_entry *other, size_t n)
{
    if (n < 2)
        return;
    const size_t half = n / 2;
    sort_index(v, entries, other, half);
    sort_index(v, entries + half, other, n - half);
    memcpy(other, entries, n * sizeof *entries);
    for (size_t i = 0, a = 0, b = half; i < n; i++) {
        bool take_b = a == half;
        if (!take_b && b < n) {
            size_t n_text;
            const char *text = text_of(v, other[b].id, &n_text);
            take_b = compare_with(v, &other[a], other[b].prefix, text, n_text) > 0;
        }
        entries[i] = take_b ? other[b++] : other[a++];
    }
}

/* ---- building ---- */

static bool table_allocate(string_table *table, size_t n, size_t n_bytes)
{
    table->start = calloc(n + 1, sizeof *table->start);
    table->bytes = malloc(n_bytes + 1);
    return table->start && table->bytes;
}

/* The text that a name of a vocabulary of characters decodes to; never longer than the name or 1. */
static size_t decode_name(const token_source *token, const char *space, char *out)
{
    const size_t n_space = strlen(space);
    const int byte = byte_of_name(token->name, token->n_name);
    size_t n = 0;
    if (byte >= 0 && !token->raw) {
        out[0] = (char)byte;
        return 1;
    }
    for (size_t i = 0; i < token->n_name;) {
        if (!token->raw && n_space > 0 && token->n_name - i >= n_space &&
            memcmp(token->name + i, space, n_space) == 0) {
            out[n++] = ' ';
            i += n_space;
        } else {
            out[n++] = token->name[i++];
        }
    }
    return n;
}

/* One token into the tables and, if the encoder may make it, into the index. */
static void add_token(vocabulary *v, size_t id, const token_source *token, const char *space)
{
    const size_t begin = v->text.start[id], n_name = token->name ? token->n_name : 0;
    bool by_hand = false;
    int byte = -1;
    v->text.start[id + 1] = begin;
    if (!v->byte_level)
        v->decoded.start[id + 1] = v->decoded.start[id];
    v->raw[id] = token->raw;
    if (n_name == 0)
        return;
    char *text = v->text.bytes + begin;
    size_t n_text = n_name;
    if (v->byte_level && !token->raw) {
        n_text = byte_level_bytes(token->name, n_name, text, &by_hand);
        byte = n_text == 1 && !by_hand ? (unsigned char)text[0] : -1;
    } else {
        memcpy(text, token->name, n_name);
        byte = v->byte_level ? -1 : byte_of_name(token->name, n_name);
    }
    v->text.start[id + 1] += n_text;
    if (!v->byte_level)
        v->decoded.start[id + 1] += decode_name(token, space, v->decoded.bytes + v->decoded.start[id]);
    if (!token->in_model || by_hand)
        return;
    v->index[v->n_index++] = (vocabulary_entry){prefix_of(text, n_text), (int32_t)id};
    if (byte >= 0)
        v->byte_token[byte] = (int32_t)id;
}

bool vocabulary_build(vocabulary *v, const char *file, const token_source *tokens, size_t n, bool byte_level,
                      const char *space, eval_error *e)
{
    size_t n_bytes = 0;
    for (size_t id = 0; id < n; id++)
        n_bytes += tokens[id].name ? tokens[id].n_name : 0;
    memset(v, 0, sizeof *v);
    v->n_tokens = n;
    v->byte_level = byte_level;
    for (size_t byte = 0; byte < 256; byte++)
        v->byte_token[byte] = -1;
    v->index = calloc(n + 1, sizeof *v->index);
    vocabulary_entry *other = calloc(n + 1, sizeof *other);
    v->raw = calloc(n + 1, sizeof *v->raw);
    bool ok = v->index && v->raw && other && table_allocate(&v->text, n, n_bytes) &&
              (byte_level || table_allocate(&v->decoded, n, n_bytes));
    if (ok) {
        for (size_t id = 0; id < n; id++)
            add_token(v, id, &tokens[id], space);
        sort_index(v, v->index, other, v->n_index);
        if (byte_level)
            v->decoded = v->text;
    }
    free(other);
    return ok || eval_fail(e, "%s: out of memory for %zu tokens", file, n);
}

void vocabulary_free(vocabulary *v)
{
    if (!v->byte_level) {
        free(v->decoded.start);
        free(v->decoded.bytes);
    }
    free(v->text.start);
    free(v->text.bytes);
    free(v->index);
    free(v->raw);
    memset(v, 0, sizeof *v);
}
