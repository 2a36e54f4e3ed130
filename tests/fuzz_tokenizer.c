/* Fuzzes the tokenizer. The first byte of the input chooses:
 *   even: the rest is vocab.json, a zero byte, merges.txt; what loads must encode and decode the merges;
 *   odd:  the rest is text for a fixed small vocabulary; decoding must give it back. */
#include "eval/model/tokenizer.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

static void check_round_trip(const tokenizer *t, const char *text, size_t n)
{
    int32_t *ids;
    char *decoded;
    size_t n_ids, n_decoded;
    eval_error e;
    if (!tokenizer_encode(t, text, n, &ids, &n_ids, &e))
        return; /* out of memory */
    if (n_ids > n)
        abort();
    if (tokenizer_decode(t, ids, n_ids, &decoded, &n_decoded, &e)) {
        if (n_decoded != n || (n > 0 && memcmp(decoded, text, n) != 0))
            abort();
        free(decoded);
    }
    free(ids);
}

/* The 256 byte tokens and a few merges, some of which overlap in their ranks. */
static tokenizer *make_small(void)
{
    static char vocab[16384];
    static const char merges[] = "#version: 0.2\nb c\na a\na bc\naa aa\n\xc4\xa0 a\nabc abc\n";
    size_t n = 0;
    unsigned beyond = 0x100;
    for (unsigned byte = 0; byte < 256; byte++) {
        int printable = (byte > 0x20 && byte < 0x7f) || (byte > 0xa0 && byte != 0xad);
        n += (size_t)sprintf(vocab + n, "%c\"\\u%04x\":%u", byte ? ',' : '{', printable ? byte : beyond++,
                             byte);
    }
    n += (size_t)sprintf(vocab + n,
                         ",\"bc\":256,\"aa\":257,\"abc\":258,\"aaaa\":259,\"\\u0120a\":260,\"abcabc\":261}");
    tokenizer *t;
    eval_error e;
    if (!tokenizer_load_memory(&t, "vocab", vocab, n, "merges", merges, sizeof merges - 1, &e))
        abort();
    return t;
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    static tokenizer *small;
    if (!small)
        small = make_small();
    if (size == 0)
        return 0;
    const char *rest = (const char *)data + 1;
    size--;
    if (data[0] % 2 == 1) {
        check_round_trip(small, rest, size);
        return 0;
    }
    const char *zero = size > 0 ? memchr(rest, '\0', size) : NULL;
    const size_t n_vocab = zero ? (size_t)(zero - rest) : size;
    const char *merges = zero ? zero + 1 : rest + size;
    const size_t n_merges = zero ? size - n_vocab - 1 : 0;
    tokenizer *t;
    eval_error e = {""};
    if (tokenizer_load_memory(&t, "vocab", rest, n_vocab, "merges", merges, n_merges, &e)) {
        check_round_trip(t, merges, n_merges);
        tokenizer_free(t);
    } else if (e.text[0] == '\0') {
        abort();
    }
    return 0;
}
