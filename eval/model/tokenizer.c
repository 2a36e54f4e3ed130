/* Byte-level byte pair encoding as GPT-2 does it.
 *
 * A text is split into words by a fixed pattern. Each word starts as one token per byte; then, again and
 * again, the adjacent pair with the lowest rank (its line in merges.txt; the leftmost of equals) is merged
 * into one token, until no pair of neighbours is in the list.
 *
 * vocab.json and merges.txt write each byte of a token as one printable Unicode character: the printable ones
 * of Latin-1 stand for themselves, the others are U+0100, U+0101, ... in order (so a space is U+0120).
 *
 * Source: Sennrich et al., arXiv 1508.07909, and Radford et al., 2019, section 2.2.
 */
#define _POSIX_C_SOURCE 200809L

#include "eval/model/tokenizer.h"

#include "eval/common/input_file.h"
#include "eval/common/json_util.h"

#include <assert.h>
#include <stdlib.h>
#include <string.h>

#define PCRE2_CODE_UNIT_WIDTH 8
#include <pcre2.h>

#define MAX_TOKENS (1u << 24)

/* Unicode's White_Space, spelt out: PCRE2's own \s also takes U+180E, which left that property in
 * Unicode 6.3. */
#define SPACE                                                                                                \
    "\\x{9}-\\x{d}\\x{20}\\x{85}\\x{a0}\\x{1680}\\x{2000}-\\x{200a}\\x{2028}\\x{2029}\\x{202f}\\x{205f}\\x{" \
    "3000}"

/* 's|'t|'re|'ve|'m|'ll|'d| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)|\s+  -- some alternative matches at
 * every character, so the words cover the text. */
static const char word_pattern[] = "'s|'t|'re|'ve|'m|'ll|'d"
                                   "| ?\\p{L}+| ?\\p{N}+| ?[^" SPACE "\\p{L}\\p{N}]+"
                                   "|[" SPACE "]+(?![^" SPACE "])|[" SPACE "]+";

/* Two neighbours that may be merged. Slots of an open-addressing hash table; rank NO_MERGE marks an empty
 * one. */
typedef struct merge {
    int32_t left, right;
    int32_t result;
    uint32_t rank;
} merge;

#define NO_MERGE UINT32_MAX

struct tokenizer {
    size_t n_tokens;
    size_t *token_start; /* [n_tokens + 1], into bytes */
    char *bytes;         /* all tokens, one after the other */
    int32_t byte_token[256];
    int32_t eos_id;
    merge *merges; /* [merge_mask + 1], a power of two at least twice the number of merges */
    size_t merge_mask;
    pcre2_code *pattern;
};

/* ---- UTF-8 ---- */

/* Decodes the character at text[0]; 0 if it is not valid UTF-8, else its length in bytes. */
static size_t decode_utf8(const char *text, size_t n, uint32_t *character)
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

size_t utf8_valid_prefix(const char *text, size_t n_bytes)
{
    size_t i = 0, length;
    uint32_t character;
    while ((length = decode_utf8(text + i, n_bytes - i, &character)) > 0)
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

/* ---- vocabulary ---- */

/* The byte that a character of vocab.json stands for, or -1. */
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

/* Writes the bytes of a token and returns how many. A name with a character that stands for no byte was added
 * by hand and means itself. `out` has room for strlen(name) bytes. */
static size_t token_bytes(const char *name, char *out)
{
    const size_t n = strlen(name);
    size_t n_out = 0, length;
    for (size_t i = 0; i < n; i += length) {
        uint32_t c;
        length = decode_utf8(name + i, n - i, &c);
        int byte = length > 0 ? byte_of_character(c) : -1;
        if (byte < 0) {
            memcpy(out, name, n);
            return n;
        }
        out[n_out++] = (char)byte;
    }
    return n_out;
}

/* Says what is wrong with an id: what it is, and which one no token has, if that is the reason. */
static bool wrong_id(const json_t *vocab, const char *file, const char *name, const json_t *value, size_t n,
                     eval_error *e)
{
    const char *other;
    const json_t *other_value;
    bool *seen = calloc(n, sizeof *seen);
    if (!seen)
        return eval_fail(e, "%s: out of memory for %zu tokens", file, n);
    json_object_foreach((json_t *)vocab, other, other_value)
    {
        size_t id;
        if (json_to_size(other_value, n - 1, &id))
            seen[id] = true;
    }
    size_t missing = 0;
    while (seen[missing]) /* ends: this token's id is none of the n */
        missing++;
    free(seen);
    char *found = json_dumps(value, JSON_ENCODE_ANY);
    eval_fail(e, "%s: token '%.100s' has id %.40s, but %zu tokens need the ids 0 to %zu; no token has id %zu",
              file, name, found ? found : "?", n, n - 1, missing);
    free(found);
    return false;
}

/* Fills names[id], which point into the JSON, and returns their total length in *n_bytes. */
static bool order_tokens(const json_t *vocab, const char *file, const char **names, size_t n, size_t *n_bytes,
                         eval_error *e)
{
    const char *name;
    const json_t *value;
    *n_bytes = 0;
    json_object_foreach((json_t *)vocab, name, value)
    {
        size_t id;
        if (!json_to_size(value, n - 1, &id))
            return wrong_id(vocab, file, name, value, n, e);
        if (names[id])
            return eval_fail(e, "%s: tokens '%.100s' and '%.100s' both have id %zu", file, names[id], name,
                             id);
        if (name[0] == '\0')
            return eval_fail(e, "%s: token %zu is empty", file, id);
        names[id] = name;
        *n_bytes += strlen(name);
    }
    return true;
}

static bool store_tokens(tokenizer *t, const char *file, const char **names, size_t n_bytes, eval_error *e)
{
    t->token_start = calloc(t->n_tokens + 1, sizeof *t->token_start);
    t->bytes = malloc(n_bytes);
    if (!t->token_start || !t->bytes)
        return eval_fail(e, "%s: out of memory", file);
    for (int byte = 0; byte < 256; byte++)
        t->byte_token[byte] = -1;
    t->eos_id = -1;
    for (size_t id = 0; id < t->n_tokens; id++) {
        char *bytes = t->bytes + t->token_start[id];
        size_t length = token_bytes(names[id], bytes);
        t->token_start[id + 1] = t->token_start[id] + length;
        uint32_t c;
        if (decode_utf8(names[id], strlen(names[id]), &c) == strlen(names[id]) && byte_of_character(c) >= 0)
            t->byte_token[byte_of_character(c)] = (int32_t)id;
        if (strcmp(names[id], "<|endoftext|>") == 0)
            t->eos_id = (int32_t)id;
    }
    for (int byte = 0; byte < 256; byte++)
        if (t->byte_token[byte] < 0)
            return eval_fail(e, "%s: no token for byte 0x%02x, expected one for each of the 256 bytes", file,
                             (unsigned)byte);
    return true;
}

static bool load_vocab(tokenizer *t, const char *file, const json_t *vocab, eval_error *e)
{
    t->n_tokens = json_object_size(vocab);
    if (t->n_tokens < 256 || t->n_tokens > MAX_TOKENS)
        return eval_fail(e, "%s: has %zu tokens, expected 256 to %u", file, t->n_tokens, MAX_TOKENS);
    const char **names = calloc(t->n_tokens, sizeof *names);
    if (!names)
        return eval_fail(e, "%s: out of memory for %zu tokens", file, t->n_tokens);
    size_t n_bytes;
    bool ok = order_tokens(vocab, file, names, t->n_tokens, &n_bytes, e) &&
              store_tokens(t, file, names, n_bytes, e);
    free(names);
    return ok;
}

/* ---- merges ---- */

/* The slot of a pair, or the empty slot where it would go. */
static merge *merge_slot(const tokenizer *t, int32_t left, int32_t right)
{
    uint64_t key = (uint64_t)(uint32_t)left << 32 | (uint32_t)right;
    size_t i = (size_t)(key * 0x9e3779b97f4a7c15u >> 32) & t->merge_mask;
    while (t->merges[i].rank != NO_MERGE && (t->merges[i].left != left || t->merges[i].right != right))
        i = (i + 1) & t->merge_mask;
    return &t->merges[i];
}

static bool allocate_merges(tokenizer *t, size_t n_lines)
{
    size_t n_slots = 16;
    while (n_slots < 2 * n_lines)
        n_slots *= 2;
    t->merges = malloc(n_slots * sizeof *t->merges);
    if (!t->merges)
        return false;
    for (size_t i = 0; i < n_slots; i++)
        t->merges[i] = (merge){.rank = NO_MERGE};
    t->merge_mask = n_slots - 1;
    return true;
}

/* The id of the token whose name is n bytes of text, or -1. */
static int32_t find_token(const json_t *vocab, const char *text, size_t n)
{
    const json_t *id = json_object_getn(vocab, text, n);
    return id ? (int32_t)json_integer_value(id) : -1;
}

/* Adds one line, `left right`. `joined` has room for n bytes. */
static bool add_merge(tokenizer *t, const json_t *vocab, const char *file, size_t line_number,
                      const char *line, size_t n, char *joined, uint32_t rank, eval_error *e)
{
    const char *space = memchr(line, ' ', n);
    const size_t n_left = space ? (size_t)(space - line) : 0, n_right = space ? n - n_left - 1 : 0;
    if (n_left == 0 || n_right == 0 || memchr(space + 1, ' ', n_right))
        return eval_fail(e, "%s: line %zu: expected two tokens with one space between them", file,
                         line_number);
    memcpy(joined, line, n_left);
    memcpy(joined + n_left, space + 1, n_right);
    const int32_t left = find_token(vocab, line, n_left), right = find_token(vocab, space + 1, n_right);
    const int32_t result = find_token(vocab, joined, n_left + n_right);
    if (left < 0 || right < 0 || result < 0) {
        const char *unknown = left < 0 ? line : right < 0 ? space + 1 : joined;
        const size_t length = left < 0 ? n_left : right < 0 ? n_right : n_left + n_right;
        return eval_fail(e, "%s: line %zu: token '%.*s' is not in the vocabulary", file, line_number,
                         (int)(length < 100 ? length : 100), unknown);
    }
    merge *slot = merge_slot(t, left, right);
    if (slot->rank != NO_MERGE)
        return eval_fail(e, "%s: line %zu: the same merge as that of rank %u", file, line_number, slot->rank);
    *slot = (merge){left, right, result, rank};
    return true;
}

/* Goes through the lines of merges.txt; the first may be a "#version" comment, empty ones count for nothing.
 * *n_merges is how many there were. */
static bool add_merges(tokenizer *t, const json_t *vocab, const char *file, const char *text, size_t size,
                       char *joined, uint32_t *n_merges, eval_error *e)
{
    uint32_t rank = 0;
    size_t start = 0;
    for (size_t line_number = 1; start < size; line_number++) {
        const char *line = text + start;
        const char *newline = memchr(line, '\n', size - start);
        size_t n = newline ? (size_t)(newline - line) : size - start;
        start += n + 1;
        if (n > 0 && line[n - 1] == '\r')
            n--;
        if (n == 0 || (line_number == 1 && n >= 8 && memcmp(line, "#version", 8) == 0))
            continue;
        if (!add_merge(t, vocab, file, line_number, line, n, joined, rank, e))
            return false;
        rank++;
    }
    *n_merges = rank;
    return true;
}

/* Tokens that no merge needs to make: single bytes, special ones such as <|endoftext|> or [PAD], and those
 * added by hand, whose characters stand for no bytes. */
static bool needs_merge(const char *name)
{
    const size_t n = strlen(name);
    const char first = name[0], last = name[n - 1];
    if ((first == '<' && last == '>') || (first == '[' && last == ']'))
        return false;
    size_t n_characters = 0, length;
    for (size_t i = 0; i < n; i += length, n_characters++) {
        uint32_t c;
        length = decode_utf8(name + i, n - i, &c);
        if (length == 0 || byte_of_character(c) < 0)
            return false;
    }
    return n_characters > 1;
}

/* A merges.txt that was cut short would split the text into other tokens without any sign of it. */
static bool check_merges_complete(const tokenizer *t, const json_t *vocab, const char *file,
                                  uint32_t n_merges, eval_error *e)
{
    bool *made = calloc(t->n_tokens, sizeof *made);
    if (!made)
        return eval_fail(e, "%s: out of memory", file);
    for (size_t i = 0; i <= t->merge_mask; i++)
        if (t->merges[i].rank != NO_MERGE)
            made[t->merges[i].result] = true;
    const char *name, *unmade = NULL;
    const json_t *value;
    json_int_t first = 0;
    json_object_foreach((json_t *)vocab, name, value)
    {
        const json_int_t id = json_integer_value(value);
        if (!made[id] && needs_merge(name) && (!unmade || id < first)) {
            unmade = name;
            first = id;
        }
    }
    free(made);
    return !unmade ||
           eval_fail(e,
                     "%s: %u merges found, but none makes token %lld, '%.100s', of the vocabulary; "
                     "is the file cut short?",
                     file, (unsigned)n_merges, (long long)first, unmade);
}

static bool load_merges(tokenizer *t, const json_t *vocab, const char *file, const char *text, size_t size,
                        eval_error *e)
{
    size_t n_lines = 1;
    for (size_t i = 0; i < size; i++)
        n_lines += text[i] == '\n';
    uint32_t n_merges = 0;
    char *joined = malloc(size + 1);
    bool ok = joined && n_lines < NO_MERGE && allocate_merges(t, n_lines);
    ok = ok ? add_merges(t, vocab, file, text, size, joined, &n_merges, e)
            : eval_fail(e, "%s: out of memory", file);
    free(joined);
    return ok && check_merges_complete(t, vocab, file, n_merges, e);
}

/* ---- load and free ---- */

static bool compile_pattern(tokenizer *t, eval_error *e)
{
    int code;
    PCRE2_SIZE offset;
    t->pattern = pcre2_compile((PCRE2_SPTR)word_pattern, PCRE2_ZERO_TERMINATED,
                               PCRE2_UTF | PCRE2_UCP | PCRE2_ANCHORED, &code, &offset, NULL);
    if (!t->pattern)
        return eval_fail(e, "tokenizer: PCRE2 error %d in the word pattern; was it built with Unicode?",
                         code);
    pcre2_jit_compile(t->pattern, PCRE2_JIT_COMPLETE); /* if it fails, matching is only slower */
    return true;
}

void tokenizer_free(tokenizer *t)
{
    if (!t)
        return;
    pcre2_code_free(t->pattern);
    free(t->merges);
    free(t->bytes);
    free(t->token_start);
    free(t);
}

bool tokenizer_load_memory(tokenizer **out, const char *vocab_name, const void *vocab, size_t vocab_size,
                           const char *merges_name, const void *merges, size_t merges_size, eval_error *e)
{
    json_t *root = json_parse_object(vocab_name, vocab, vocab_size, 0, e);
    if (!root)
        return false;
    tokenizer *t = calloc(1, sizeof *t);
    bool ok = t ? load_vocab(t, vocab_name, root, e) : eval_fail(e, "%s: out of memory", vocab_name);
    ok = ok && load_merges(t, root, merges_name, merges, merges_size, e) && compile_pattern(t, e);
    json_decref(root);
    if (!ok) {
        tokenizer_free(t);
        return false;
    }
    *out = t;
    return true;
}

bool tokenizer_load(tokenizer **out, const char *dir, eval_error *e)
{
    input_file vocab, merges;
    if (!input_file_read(&vocab, dir, "vocab.json", e))
        return false;
    bool ok = input_file_read(&merges, dir, "merges.txt", e);
    if (ok) {
        ok = tokenizer_load_memory(out, vocab.path, vocab.data, vocab.size, merges.path, merges.data,
                                   merges.size, e);
        input_file_free(&merges);
    }
    input_file_free(&vocab);
    return ok;
}

size_t tokenizer_vocab_size(const tokenizer *t)
{
    return t->n_tokens;
}

int32_t tokenizer_eos_id(const tokenizer *t)
{
    return t->eos_id;
}

/* ---- encoding one word ---- */

/* A token of the word being merged, in a doubly linked list by index. A token merged into its left neighbour
 * has id DEAD. */
typedef struct symbol {
    int32_t id;
    uint32_t previous, next;
} symbol;

#define DEAD (-1)
#define NONE UINT32_MAX /* no neighbour */

/* A pair that could be merged when it was put into the heap; stale if its two tokens have changed since. */
typedef struct candidate {
    uint32_t rank, position;
    const merge *pair;
} candidate;

/* Memory that grows to the longest word and is used again for each. */
typedef struct encoder {
    const tokenizer *t;
    symbol *symbols;
    candidate *heap; /* binary heap, lowest rank first, then leftmost */
    size_t n_heap;
    size_t capacity; /* of symbols; the heap has twice that */
    int32_t *ids;
    size_t n_ids, ids_capacity;
} encoder;

static bool comes_before(candidate a, candidate b)
{
    return a.rank != b.rank ? a.rank < b.rank : a.position < b.position;
}

static void heap_push(encoder *enc, candidate c)
{
    size_t i = enc->n_heap++;
    for (; i > 0 && comes_before(c, enc->heap[(i - 1) / 2]); i = (i - 1) / 2)
        enc->heap[i] = enc->heap[(i - 1) / 2];
    enc->heap[i] = c;
}

static candidate heap_pop(encoder *enc)
{
    const candidate top = enc->heap[0], last = enc->heap[--enc->n_heap];
    size_t i = 0, child;
    while ((child = 2 * i + 1) < enc->n_heap) {
        if (child + 1 < enc->n_heap && comes_before(enc->heap[child + 1], enc->heap[child]))
            child++;
        if (!comes_before(enc->heap[child], last))
            break;
        enc->heap[i] = enc->heap[child];
        i = child;
    }
    enc->heap[i] = last;
    return top;
}

/* Puts the pair that begins at `position` into the heap, if it is in the list of merges. */
static void push_pair(encoder *enc, uint32_t position)
{
    const symbol *s = enc->symbols;
    if (position == NONE || s[position].next == NONE)
        return;
    const merge *pair = merge_slot(enc->t, s[position].id, s[s[position].next].id);
    if (pair->rank != NO_MERGE)
        heap_push(enc, (candidate){pair->rank, position, pair});
}

/* Room for a word of n bytes. Each merge takes one candidate out and puts at most two in, and there are at
 * most n - 1 merges, so the heap never holds more than 2 n. */
static bool reserve_word(encoder *enc, size_t n)
{
    if (n <= enc->capacity)
        return true;
    size_t capacity = n < 64 ? 64 : n + n / 2;
    if (n >= NONE || capacity > SIZE_MAX / (2 * sizeof *enc->heap))
        return false;
    free(enc->symbols);
    free(enc->heap);
    enc->symbols = malloc(capacity * sizeof *enc->symbols);
    enc->heap = malloc(2 * capacity * sizeof *enc->heap);
    enc->capacity = enc->symbols && enc->heap ? capacity : 0;
    return enc->capacity > 0;
}

static bool reserve_ids(encoder *enc, size_t n)
{
    if (n <= enc->ids_capacity - enc->n_ids)
        return true;
    size_t capacity = enc->ids_capacity + enc->ids_capacity / 2 + n;
    int32_t *ids = realloc(enc->ids, capacity * sizeof *ids);
    if (!ids)
        return false;
    enc->ids = ids;
    enc->ids_capacity = capacity;
    return true;
}

/* Appends the ids of one word of n >= 1 bytes; false if memory ran out. */
static bool encode_word(encoder *enc, const char *word, size_t n)
{
    if (!reserve_word(enc, n) || !reserve_ids(enc, n))
        return false;
    symbol *s = enc->symbols;
    for (size_t i = 0; i < n; i++)
        s[i] = (symbol){enc->t->byte_token[(unsigned char)word[i]], i > 0 ? (uint32_t)(i - 1) : NONE,
                        i + 1 < n ? (uint32_t)(i + 1) : NONE};
    enc->n_heap = 0;
    for (size_t i = 0; i < n; i++)
        push_pair(enc, (uint32_t)i);
    while (enc->n_heap > 0) {
        const candidate c = heap_pop(enc);
        symbol *left = &s[c.position];
        if (left->id != c.pair->left || left->next == NONE || s[left->next].id != c.pair->right)
            continue; /* stale */
        symbol *right = &s[left->next];
        left->id = c.pair->result;
        left->next = right->next;
        right->id = DEAD;
        if (left->next != NONE)
            s[left->next].previous = c.position;
        push_pair(enc, left->previous);
        push_pair(enc, c.position);
    }
    for (uint32_t i = 0; i != NONE; i = s[i].next)
        enc->ids[enc->n_ids++] = s[i].id;
    return true;
}

/* ---- encoding a text ---- */

/* Splits n bytes of valid UTF-8 into words. */
static bool encode_utf8(encoder *enc, pcre2_match_data *match, const char *text, size_t n, eval_error *e)
{
    const PCRE2_SIZE *span = pcre2_get_ovector_pointer(match);
    for (size_t at = 0; at < n; at = span[1]) {
        int found = pcre2_match(enc->t->pattern, (PCRE2_SPTR)text, n, at, PCRE2_NO_UTF_CHECK, match, NULL);
        if (found < 1 || span[1] <= at)
            return eval_fail(e, "tokenizer: PCRE2 error %d while splitting the text", found);
        if (!encode_word(enc, text + at, span[1] - at))
            return eval_fail(e, "tokenizer: out of memory for a word of %zu bytes", span[1] - at);
    }
    return true;
}

static bool encode_all(encoder *enc, pcre2_match_data *match, const char *text, size_t n, eval_error *e)
{
    size_t at = 0;
    while (at < n) {
        size_t valid = utf8_valid_prefix(text + at, n - at);
        if (!encode_utf8(enc, match, text + at, valid, e))
            return false;
        at += valid;
        size_t invalid = 0;
        uint32_t character;
        while (at + invalid < n && decode_utf8(text + at + invalid, n - at - invalid, &character) == 0)
            invalid++;
        if (invalid > 0 && !encode_word(enc, text + at, invalid))
            return eval_fail(e, "tokenizer: out of memory for a word of %zu bytes", invalid);
        at += invalid;
    }
    return true;
}

bool tokenizer_encode(const tokenizer *t, const char *text, size_t n_bytes, int32_t **ids, size_t *n_ids,
                      eval_error *e)
{
    encoder enc = {.t = t};
    pcre2_match_data *match = pcre2_match_data_create(1, NULL);
    bool ok = match ? encode_all(&enc, match, text, n_bytes, e) : eval_fail(e, "tokenizer: out of memory");
    pcre2_match_data_free(match);
    free(enc.symbols);
    free(enc.heap);
    if (!ok) {
        free(enc.ids);
        return false;
    }
    *ids = enc.ids;
    *n_ids = enc.n_ids;
    return true;
}

/* ---- decoding ---- */

const char *tokenizer_token(const tokenizer *t, int32_t id, size_t *n_bytes)
{
    assert(id >= 0 && (size_t)id < t->n_tokens);
    *n_bytes = t->token_start[id + 1] - t->token_start[id];
    return t->bytes + t->token_start[id];
}

bool tokenizer_decode(const tokenizer *t, const int32_t *ids, size_t n_ids, char **text, size_t *n_bytes,
                      eval_error *e)
{
    size_t total = 0, length;
    for (size_t i = 0; i < n_ids; i++) {
        if (ids[i] < 0 || (size_t)ids[i] >= t->n_tokens)
            return eval_fail(e, "tokenizer: token id %d is out of range, expected 0 to %zu", (int)ids[i],
                             t->n_tokens - 1);
        tokenizer_token(t, ids[i], &length);
        total += length;
    }
    char *out = malloc(total + 1);
    if (!out)
        return eval_fail(e, "tokenizer: out of memory for %zu bytes", total);
    char *end = out;
    for (size_t i = 0; i < n_ids; i++) {
        const char *bytes = tokenizer_token(t, ids[i], &length);
        memcpy(end, bytes, length);
        end += length;
    }
    *end = '\0';
    *text = out;
    *n_bytes = total;
    return true;
}
