/*
 * What the kernel tests share: buffers between unmapped pages, random lengths, layouts and superblocks. A
 * slot of kvq_kernels is tested by the function check_SLOT, declared below for every slot: one without a test
 * does not link.
 */
#ifndef KVQ_TESTS_KERNEL_CHECKS_H
#define KVQ_TESTS_KERNEL_CHECKS_H

#include <criterion/criterion.h>
#include <math.h>
#include <string.h>

#include "quant/codec.h"
#include "tests/check_words.h"
#include "tests/support.h"

#define DECLARE(slot) void check_##slot(const kvq_kernels *k);
KVQ_KERNEL_LIST(DECLARE)
#undef DECLARE

/* Every word that the kernels of this instruction set, which runs here, are written in. */
void check_words(const char *isa);

enum { LANES = 16, T = KVQ_SUPERBLOCK, MAX_SHORT = 3 * LANES + 1, MAX_LONG = 4000, CANARY = 0xa5 };

/* ---- Buffers between two unmapped pages ---- */

typedef struct guarded {
    uint8_t *begin, *end; /* of the mapped bytes */
    uint8_t *data;        /* the buffer inside them */
    size_t n_bytes;
} guarded;

/* Where a buffer lies: flush with either end, or some elements away from it. */
typedef struct placing {
    bool at_end;
    size_t offset; /* in elements */
} placing;

/* Buffers for all checks; each is used by one argument at a time. */
extern guarded in_a, in_b, out_a, out_b;
extern rng r;

/* The pages around the buffers cannot be touched; or, for emulators that read what a masked load should not,
 * can be read. */
void kernel_buffers_make(bool readable_ends);
placing random_placing(rng *generator);

/* Place n elements; everything mapped becomes canaries. */
void *place(guarded *g, placing at, size_t n, size_t element_bytes);
void check_canaries(const guarded *g, const char *what);

float *floats_in(guarded *g, fill_kind kind, size_t n, size_t dim);
uint16_t *halves_in(guarded *g, fill_kind kind, size_t n, size_t dim);

/* Lengths: all short ones, then random ones. */
enum { N_LENGTHS = MAX_SHORT + 1 + 30 };
size_t length_of(size_t i);
fill_kind random_fill(void);

/* Rows of dim values, stride apart. */
typedef struct rows_shape {
    size_t n, dim, stride;
    size_t n_q; /* that they meet, where a kernel takes several */
} rows_shape;

/* Elements from the first to the last one that belongs to a row. */
static inline size_t extent(rows_shape s)
{
    return s.n == 0 ? 0 : (s.n - 1) * s.stride + s.dim;
}

/* One rounding of float; double has more than twice the bits, so going through it does no harm. */
static inline float single(double x)
{
    return (float)x;
}

/* ---- Superblocks of the affine codec ---- */

enum { N_LAYOUTS = 7 * 9 * 4, MAX_DIM = 200 };

/* Every width and dimension with both roles and axes; group, arithmetic and data by chance. */
kvq_layout layout_number(size_t i);

/* A superblock, flush with the end or the beginning of the mapped bytes, which keeps its alignment. */
uint8_t *superblock_in(guarded *g, const kvq_layout *l);

/* A superblock of 128 tokens, in g. */
const uint8_t *encoded_in(guarded *g, const kvq_layout *l);

/* xhat of (t, c) by the formula; float keeps code * scale exactly. */
double value_at(const kvq_layout *l, const uint8_t *sb, size_t t, size_t c);

/* The sum of 16 lanes, halved by halves; every addition rounded to float. */
float sum_lanes_by_contract(float lane[LANES]);

#endif /* KVQ_TESTS_KERNEL_CHECKS_H */
