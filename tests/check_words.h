/*
 * The words of vector.h against their contracts, one vocabulary at a time: check_words.c, compiled once for
 * each with the flags of its instruction set, may only run where that does.
 */
#ifndef KVQ_TESTS_CHECK_WORDS_H
#define KVQ_TESTS_CHECK_WORDS_H

#include <stdbool.h>

#include "tests/support.h"

typedef struct word_check {
    const char *word; /* NULL behind the last */
    bool (*holds)(rng *r);
} word_check;

extern const word_check words_avx2[], words_avxvnni[], words_avxvnni_by_avx512[], words_avx512[],
    words_neon[];

#endif /* KVQ_TESTS_CHECK_WORDS_H */
