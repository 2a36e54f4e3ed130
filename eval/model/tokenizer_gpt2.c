/* GPT-2's files: vocab.json and merges.txt. */
#include "eval/model/tokenizer_parts.h"

#include "eval/common/json_util.h"
#include "eval/model/utf8.h"

#include <stdlib.h>
#include <string.h>

/* ---- vocabulary ---- */

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
    (void)eval_fail(
        e, "%s: token '%.100s' has id %.40s, but %zu tokens need the ids 0 to %zu; no token has id %zu", file,
        name, found ? found : "?", n, n - 1, missing);
    free(found);
    return false;
}

/* Fills tokens[id], which point into the JSON. */
static bool order_tokens(const json_t *vocab, const char *file, token_source *tokens, size_t n, eval_error *e)
{
    const char *name;
    const json_t *value;
    json_object_foreach((json_t *)vocab, name, value)
    {
        size_t id;
        if (!json_to_size(value, n - 1, &id))
            return wrong_id(vocab, file, name, value, n, e);
        if (tokens[id].name)
            return eval_fail(e, "%s: tokens '%.100s' and '%.100s' both have id %zu", file, tokens[id].name,
                             name, id);
        if (name[0] == '\0')
            return eval_fail(e, "%s: token %zu is empty", file, id);
        tokens[id] = (token_source){.name = name, .n_name = strlen(name), .in_model = true};
    }
    return true;
}

static bool load_vocab(tokenizer *t, const char *file, const json_t *vocab, eval_error *e)
{
    const size_t n = json_object_size(vocab);
    if (n < 256 || n > MAX_TOKENS)
        return eval_fail(e, "%s: has %zu tokens, expected 256 to %u", file, n, (unsigned)MAX_TOKENS);
    token_source *tokens = calloc(n, sizeof *tokens);
    if (!tokens)
        return eval_fail(e, "%s: out of memory for %zu tokens", file, n);
    const bool ok =
        order_tokens(vocab, file, tokens, n, e) && vocabulary_build(&t->vocab, file, tokens, n, true, "", e);
    free(tokens);
    if (!ok)
        return false;
    t->eos_id = vocabulary_find(&t->vocab, "<|endoftext|>", strlen("<|endoftext|>"));
    for (unsigned byte = 0; byte < 256; byte++)
        if (t->vocab.byte_token[byte] < 0)
            return eval_fail(e, "%s: no token for byte 0x%02x, expected one for each of the 256 bytes", file,
                             byte);
    return true;
}

/* ---- merges ---- */

/* Adds one line, `left right`. */
static bool add_line(merge_list *list, const vocabulary *v, const char *file, uint32_t number,
                     const char *line, size_t n, eval_error *e)
{
    const char *space = memchr(line, ' ', n);
    const size_t n_left = space ? (size_t)(space - line) : 0, n_right = space ? n - n_left - 1 : 0;
    if (n_left == 0 || n_right == 0 || memchr(space + 1, ' ', n_right))
        return eval_fail(e, "%s: line %u: expected two tokens with one space between them", file,
                         (unsigned)number);
    return merge_list_add(list, v, file, "line", number, line, n_left, space + 1, n_right, e);
}

/* Goes through the lines of merges.txt; the first may be a "#version" comment, empty ones count for nothing.
 */
static bool add_lines(merge_list *list, const vocabulary *v, const char *file, const char *text, size_t size,
                      eval_error *e)
{
    size_t start = 0;
    for (uint32_t number = 1; start < size; number++) {
        const char *line = text + start;
        const char *newline = memchr(line, '\n', size - start);
        size_t n = newline ? (size_t)(newline - line) : size - start;
        start += n + 1;
        if (n > 0 && line[n - 1] == '\r')
            n--;
        if (n == 0 || (number == 1 && n >= 8 && memcmp(line, "#version", 8) == 0))
            continue;
        if (!add_line(list, v, file, number, line, n, e))
            return false;
    }
    return true;
}

/* Tokens that no merge needs to make: single bytes, special ones such as <|endoftext|> or [PAD], and those
 * added by hand, whose characters stand for no bytes. `bytes` has room for the name. */
static bool needs_merge(const char *name, char *bytes)
{
    const size_t n = strlen(name);
    const char first = name[0], last = name[n - 1];
    bool by_hand;
    if ((first == '<' && last == '>') || (first == '[' && last == ']'))
        return false;
    return byte_level_bytes(name, n, bytes, &by_hand) > 1 && !by_hand;
}

/* A merges.txt that was cut short would split the text into other tokens without any sign of it. */
static bool check_merges_complete(const tokenizer *t, const json_t *vocab, const char *file, eval_error *e)
{
    size_t longest = 0;
    const char *name, *unmade = NULL;
    const json_t *value;
    json_int_t first = 0;
    json_object_foreach((json_t *)vocab, name, value) longest =
        strlen(name) > longest ? strlen(name) : longest;
    bool *made = calloc(t->vocab.n_tokens, sizeof *made);
    char *bytes = malloc(longest + 1);
    if (!made || !bytes) {
        free(made);
        free(bytes);
        return eval_fail(e, "%s: out of memory", file);
    }
    for (size_t i = 0; i < t->merges.n; i++)
        made[t->merges.merges[i].result] = true;
    json_object_foreach((json_t *)vocab, name, value)
    {
        const json_int_t id = json_integer_value(value);
        if (!made[id] && needs_merge(name, bytes) && (!unmade || id < first)) {
            unmade = name;
            first = id;
        }
    }
    free(made);
    free(bytes);
    return !unmade ||
           eval_fail(e,
                     "%s: %zu merges found, but none makes token %lld, '%.100s', of the vocabulary; "
                     "is the file cut short?",
                     file, t->merges.n, (long long)first, unmade);
}

static bool load_merges(tokenizer *t, const json_t *vocab, const char *file, const char *text, size_t size,
                        eval_error *e)
{
    merge_list list = {0};
    if (size >= UINT32_MAX)
        return eval_fail(e, "%s: %zu bytes are too many", file, size);
    if (!add_lines(&list, &t->vocab, file, text, size, e)) {
        merge_list_free(&list);
        return false;
    }
    return merge_list_finish(&list, t, file, "line", e) && check_merges_complete(t, vocab, file, e);
}

bool tokenizer_load_memory(tokenizer **out, const char *vocab_name, const void *vocab, size_t vocab_size,
                           const char *merges_name, const void *merges, size_t merges_size, eval_error *e)
{
    json_t *root = json_parse_object(vocab_name, vocab, vocab_size, 0, e);
    if (!root)
        return false;
    tokenizer *t = tokenizer_new();
    bool ok = t ? load_vocab(t, vocab_name, root, e) : eval_fail(e, "%s: out of memory", vocab_name);
    ok = ok && load_merges(t, root, merges_name, merges, merges_size, e) &&
         tokenizer_add_gpt2_split(t, vocab_name, e);
    json_decref(root);
    if (!ok) {
        tokenizer_free(t);
        return false;
    }
    *out = t;
    return true;
}
