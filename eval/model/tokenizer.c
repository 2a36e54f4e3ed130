/* Encoding and decoding (tokenizer.h).
 *
 * A text is cut at its added tokens; what is between them is normalized, cut at the added tokens that are
 * looked for in normalized text, split into words, and each word merged (bpe.h). Bytes that are not valid
 * UTF-8 go through none of this but are words of their own.
 */
#include "eval/model/tokenizer.h"

#include "eval/model/tokenizer_parts.h"

#include <assert.h>
#include <stdlib.h>
#include <string.h>

tokenizer *tokenizer_new(void)
{
    tokenizer *t = calloc(1, sizeof *t);
    if (t) {
        t->unk_id = t->bos_id = t->eos_id = -1;
        t->prepended = PREPEND_NEVER;
    }
    return t;
}

void tokenizer_free(tokenizer *t)
{
    if (!t)
        return;
    vocabulary_free(&t->vocab);
    merge_table_free(&t->merges);
    added_tokens_free(&t->plain);
    added_tokens_free(&t->normalized);
    splitter_free(&t->splitter);
    free(t);
}

size_t tokenizer_vocab_size(const tokenizer *t)
{
    return t->vocab.n_tokens;
}

const char *tokenizer_note(const tokenizer *t)
{
    return t->note;
}

int32_t tokenizer_eos_id(const tokenizer *t)
{
    return t->eos_id;
}

int32_t tokenizer_bos_id(const tokenizer *t)
{
    return t->bos_id;
}

/* ---- words ---- */

typedef struct encoder {
    const tokenizer *t;
    bpe_encoder bpe;
    split_work split;
    text_buffer buffers[2]; /* of the normalizers */
} encoder;

/* *pending: unknown characters came before that are not yet written. */
static void add_unknown(encoder *enc, bool *pending)
{
    const tokenizer *t = enc->t;
    if (t->unk_id < 0)
        return;
    if (*pending && !t->fuse_unk)
        bpe_add(&enc->bpe, t->unk_id);
    *pending = true;
}

static void flush_unknown(encoder *enc, bool *pending)
{
    if (*pending)
        bpe_add(&enc->bpe, enc->t->unk_id);
    *pending = false;
}

/* Adds the tokens of n bytes, each by itself; false, and nothing added, if one has none. */
static bool add_bytes(encoder *enc, const char *bytes, size_t n)
{
    const int32_t *token = enc->t->vocab.byte_token;
    for (size_t i = 0; i < n; i++)
        if (token[(unsigned char)bytes[i]] < 0)
            return false;
    for (size_t i = 0; i < n; i++)
        bpe_add(&enc->bpe, token[(unsigned char)bytes[i]]);
    return true;
}

/* One word of n >= 1 bytes. If it is not valid UTF-8 every byte of it is a character. */
static bool encode_word(encoder *enc, const char *word, size_t n, bool valid, eval_error *e)
{
    const vocabulary *v = &enc->t->vocab;
    bool pending = false;
    size_t length;
    if (!bpe_begin(&enc->bpe, n))
        return eval_fail(e, "tokenizer: out of memory for a word of %zu bytes", n);
    if (enc->t->ignore_merges && valid) {
        const int32_t whole = vocabulary_find(v, word, n);
        if (whole >= 0) {
            bpe_add(&enc->bpe, whole);
            bpe_end(&enc->bpe);
            return true;
        }
    }
    for (size_t i = 0; i < n; i += length) {
        uint32_t c;
        length = v->byte_level || !valid ? 1 : utf8_decode(word + i, n - i, &c);
        if (length == 0)
            length = 1; /* cannot be: the text is valid */
        const int32_t id = v->byte_level ? v->byte_token[(unsigned char)word[i]]
                           : valid       ? vocabulary_find(v, word + i, length)
                                         : -1;
        if (id >= 0) {
            flush_unknown(enc, &pending);
            bpe_add(&enc->bpe, id);
        } else if (!enc->t->byte_fallback || !add_bytes(enc, word + i, length)) {
            add_unknown(enc, &pending);
        }
    }
    flush_unknown(enc, &pending);
    bpe_end(&enc->bpe);
    return true;
}

/* ---- text between added tokens ---- */

static bool emit(encoder *enc, int32_t id, eval_error *e)
{
    if (!bpe_begin(&enc->bpe, 1))
        return eval_fail(e, "tokenizer: out of memory");
    enc->bpe.ids[enc->bpe.n_ids++] = id;
    return true;
}

static bool encode_words(encoder *enc, const char *text, size_t n, bool first, bool prepend, eval_error *e)
{
    split_work *w = &enc->split;
    if (!split_text(&enc->t->splitter, w, text, n, first, prepend, e))
        return false;
    for (size_t i = 0; i < w->words->n; i++) {
        const text_span word = w->words->spans[i];
        if (!encode_word(enc, w->text + word.begin, word.end - word.begin, true, e))
            return false;
    }
    return true;
}

/* Valid UTF-8. `first`: the whole text begins here; `prepend`: something may be put before it. */
static bool encode_valid(encoder *enc, const char *text, size_t n, bool first, bool prepend, eval_error *e)
{
    if (!normalize(&enc->t->normalizer, prepend, enc->buffers, &text, &n, e))
        return false;
    size_t taken = 0, from = 0, begin, end;
    int32_t id;
    while ((id = added_tokens_find(&enc->t->normalized, text, n, from, taken, &begin, &end, &from)) >= 0) {
        if ((begin > taken &&
             !encode_words(enc, text + taken, begin - taken, first && taken == 0, prepend || taken > 0, e)) ||
            !emit(enc, id, e))
            return false;
        taken = end;
    }
    return taken >= n ||
           encode_words(enc, text + taken, n - taken, first && taken == 0, prepend || taken > 0, e);
}

/* Any bytes between two added tokens. Something is put before them only if they begin with valid UTF-8. */
static bool encode_segment(encoder *enc, const char *text, size_t n, bool first, eval_error *e)
{
    size_t at = 0;
    while (at < n) {
        const size_t valid = utf8_valid_prefix(text + at, n - at);
        if (valid > 0 && !encode_valid(enc, text + at, valid, first && at == 0, at == 0, e))
            return false;
        at += valid;
        size_t invalid = 0;
        uint32_t character;
        while (at + invalid < n && utf8_decode(text + at + invalid, n - at - invalid, &character) == 0)
            invalid++;
        if (invalid > 0 && !encode_word(enc, text + at, invalid, false, e))
            return false;
        at += invalid;
    }
    return true;
}

static bool encode_all(encoder *enc, const char *text, size_t n, eval_error *e)
{
    size_t taken = 0, from = 0, begin, end;
    int32_t id;
    while ((id = added_tokens_find(&enc->t->plain, text, n, from, taken, &begin, &end, &from)) >= 0) {
        if ((begin > taken && !encode_segment(enc, text + taken, begin - taken, taken == 0, e)) ||
            !emit(enc, id, e))
            return false;
        taken = end;
    }
    return taken >= n || encode_segment(enc, text + taken, n - taken, taken == 0, e);
}

bool tokenizer_encode(const tokenizer *t, const char *text, size_t n_bytes, int32_t **ids, size_t *n_ids,
                      eval_error *e)
{
    encoder enc = {.t = t, .bpe = {.merges = &t->merges}, .split = {.match = regex_match_create()}};
    const bool ok =
        enc.split.match ? encode_all(&enc, text, n_bytes, e) : eval_fail(e, "tokenizer: out of memory");
    split_work_free(&enc.split);
    text_buffer_free(&enc.buffers[0]);
    text_buffer_free(&enc.buffers[1]);
    bpe_free(&enc.bpe);
    if (!ok) {
        free(enc.bpe.ids);
        return false;
    }
    *ids = enc.bpe.ids;
    *n_ids = enc.bpe.n_ids;
    return true;
}

/* ---- decoding ---- */

const char *tokenizer_token(const tokenizer *t, int32_t id, size_t *n_bytes)
{
    const string_table *table = &t->vocab.decoded;
    assert(id >= 0 && (size_t)id < t->vocab.n_tokens);
    *n_bytes = table->start[id + 1] - table->start[id];
    return table->bytes + table->start[id];
}

bool tokenizer_decode(const tokenizer *t, const int32_t *ids, size_t n_ids, char **text, size_t *n_bytes,
                      eval_error *e)
{
    size_t total = 0, length;
    for (size_t i = 0; i < n_ids; i++) {
        if (ids[i] < 0 || (size_t)ids[i] >= t->vocab.n_tokens)
            return eval_fail(e, "tokenizer: token id %d is out of range, expected 0 to %zu", (int)ids[i],
                             t->vocab.n_tokens - 1);
        tokenizer_token(t, ids[i], &length);
        total += length;
    }
    char *out = malloc(total + 1);
    if (!out)
        return eval_fail(e, "tokenizer: out of memory for %zu bytes", total);
    char *end = out;
    bool after_prepended =
        t->prepended != PREPEND_NEVER; /* may a space here be one that encoding put there? */
    for (size_t i = 0; i < n_ids; i++) {
        const char *bytes = tokenizer_token(t, ids[i], &length);
        const bool added = t->vocab.raw[ids[i]];
        if (after_prepended && !added && length > 0 && bytes[0] == ' ') {
            bytes++;
            length--;
        }
        const bool bos = i == 0 && ids[i] == t->bos_id;
        after_prepended = added && (t->prepended == PREPEND_ALWAYS || (t->prepended == PREPEND_FIRST && bos));
        memcpy(end, bytes, length);
        end += length;
    }
    *end = '\0';
    *text = out;
    *n_bytes = (size_t)(end - out);
    return true;
}
