/*
 * A codec for tests, written against quant/codec.h alone: whole pages of 128 tokens; per token a power of two
 * and int8 codes of the number's channels, moved round and with signs (its packed domain); and a record of
 * the evidence that it was given, so that any bit of it that differs shows. Everything that codecs may leave
 * out it leaves out.
 *
 *   toy       asks for energy and attention received
 *   toy:N     asks for the KVQ_EVIDENCE_... in N, 0 to 7
 *
 * Where attention received is known, tokens that have received less than the page's mean lose the last bit of
 * their codes.
 */
#ifndef KVQ_TESTS_TOY_CODEC_H
#define KVQ_TESTS_TOY_CODEC_H

#include "quant/codec.h"

/** Make schemes that name it valid; as often as you like, by one thread at a time. */
void toy_codec_register(void);

/** What it stores of a token's numbers x is off by at most this, element for element. */
float toy_error_bound(const float *x, size_t dim);

#endif /* KVQ_TESTS_TOY_CODEC_H */
