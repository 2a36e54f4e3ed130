/* Fuzzes the tokenizers of files. The first byte of the input chooses:
 *   0 mod 3: the rest is tokenizer.json, a zero byte, a text that what loads must encode and decode;
 *   1 mod 3: tokenizer_config.json, a zero byte, and the same;
 *   2 mod 3: a GGUF file, which is also the text. */
#include "eval/model/gguf.h"
#include "eval/model/tokenizer.h"

#include <stdlib.h>
#include <string.h>

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

/* Any text encodes, unless a pattern takes too long for it, and what it encodes to decodes. */
static void check_text(const tokenizer *t, const char *text, size_t n)
{
    int32_t *ids;
    char *decoded;
    size_t n_ids, n_decoded;
    eval_error e = {""};
    if (tokenizer_bos_id(t) >= (int64_t)tokenizer_vocab_size(t) ||
        tokenizer_eos_id(t) >= (int64_t)tokenizer_vocab_size(t))
        abort();
    if (!tokenizer_encode(t, text, n, &ids, &n_ids, &e)) {
        if (e.text[0] == '\0')
            abort();
        return;
    }
    if (!tokenizer_decode(t, ids, n_ids, &decoded, &n_decoded, &e))
        abort();
    free(decoded);
    free(ids);
}

static void check_loaded(bool loaded, tokenizer *const *t, const eval_error *e, const char *text, size_t n)
{
    if (loaded) {
        check_text(*t, text, n);
        tokenizer_free(*t);
    } else if (e->text[0] == '\0') {
        abort();
    }
}

/* The part of the rest before a zero byte, which is taken off with it. */
static const char *part(const char **rest, size_t *n_rest, size_t *n)
{
    const char *begin = *rest, *zero = memchr(begin, '\0', *n_rest);
    *n = zero ? (size_t)(zero - begin) : *n_rest;
    *rest = begin + *n + (zero != NULL);
    *n_rest -= *n + (zero != NULL);
    return begin;
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    tokenizer *t = NULL;
    eval_error e = {""};
    if (size < 2)
        return 0;
    const char *rest = (const char *)data + 1, *config = NULL;
    size_t n_rest = size - 1, n_config = 0, n;
    if (data[0] % 3 == 2) {
        gguf *g;
        if (gguf_open_memory(&g, "gguf", rest, n_rest, &e)) {
            check_loaded(tokenizer_load_gguf(&t, g, &e), &t, &e, rest, n_rest);
            gguf_close(g);
        }
        return 0;
    }
    if (data[0] % 3 == 1)
        config = part(&rest, &n_rest, &n_config);
    const char *file = part(&rest, &n_rest, &n);
    check_loaded(tokenizer_load_json(&t, "json", file, n, "config", config, n_config, &e), &t, &e, rest,
                 n_rest);
    return 0;
}
