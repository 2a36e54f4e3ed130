/*
 * Reading and writing the texts of schemes: a cursor that keeps the first problem it met, and a buffer that
 * never overflows. Shared by lib/scheme_text.c and the codecs, each of which reads its own part.
 */
#ifndef KVQ_QUANT_TEXT_H
#define KVQ_QUANT_TEXT_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <string.h>

/** The rest of a text, and the first problem met. */
typedef struct kvq_text {
    const char *at;
    const char *problem; /* static; NULL if none */
    const char *problem_at;
} kvq_text;

/** Note a problem at a place; returns false. */
static inline bool kvq_text_fail(kvq_text *t, const char *at, const char *problem)
{
    if (t->problem == NULL) {
        t->problem = problem;
        t->problem_at = at;
    }
    return false;
}

/** Take `word` if the text goes on with it. */
static inline bool kvq_text_accept(kvq_text *t, const char *word)
{
    size_t n = strlen(word);
    if (strncmp(t->at, word, n) != 0)
        return false;
    t->at += n;
    return true;
}

/** Is this the end, of the text or of a part of it? (A scheme's parts are joined by "+".) */
static inline bool kvq_text_ends(const kvq_text *t)
{
    return *t->at == '\0' || *t->at == '+';
}

/** Take `word` if the text goes on with it and what follows ends a word. */
static inline bool kvq_text_accept_word(kvq_text *t, const char *word)
{
    size_t n = strlen(word);
    if (strncmp(t->at, word, n) != 0 || (t->at[n] != '\0' && strchr(",@/-:+", t->at[n]) == NULL))
        return false;
    t->at += n;
    return true;
}

/** A whole number of at most `limit`. */
static inline bool kvq_text_number(kvq_text *t, uint32_t limit, uint32_t *out)
{
    const char *start = t->at;
    uint64_t value = 0;
    *out = 0;
    while (*t->at >= '0' && *t->at <= '9' && value <= limit)
        value = value * 10 + (uint64_t)(*t->at++ - '0');
    if (t->at == start)
        return kvq_text_fail(t, start, "a number is expected here");
    if (value > limit)
        return kvq_text_fail(t, start, "the number is too large");
    *out = (uint32_t)value;
    return true;
}

/** A number of halves: "2" is 4, "1.5" is 3. */
static inline bool kvq_text_halves(kvq_text *t, uint32_t limit, uint32_t *out)
{
    if (!kvq_text_number(t, limit / 2, out))
        return false;
    *out *= 2;
    if (kvq_text_accept(t, ".5"))
        *out += 1;
    return true;
}

/** What is being printed; n may pass size, and then nothing more was written. */
typedef struct kvq_printer {
    char *text;
    size_t size, n;
} kvq_printer;

static inline void kvq_put(kvq_printer *p, const char *word)
{
    size_t n = strlen(word);
    if (p->n + n < p->size)
        memcpy(p->text + p->n, word, n + 1);
    p->n += n;
}

static inline void kvq_put_number(kvq_printer *p, const char *before, uint32_t number)
{
    char digits[16];
    (void)snprintf(digits, sizeof digits, "%lu", (unsigned long)number);
    kvq_put(p, before);
    kvq_put(p, digits);
}

static inline void kvq_put_halves(kvq_printer *p, const char *before, uint32_t halves)
{
    kvq_put_number(p, before, halves / 2);
    if (halves % 2 != 0)
        kvq_put(p, ".5");
}

#endif /* KVQ_QUANT_TEXT_H */
