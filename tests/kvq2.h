/*
 * What the tests of kvq2's codecs share: sides by text, pages that are hard to store, and the pages of
 * vectors/kvq2.
 */
#ifndef KVQ_TESTS_KVQ2_H
#define KVQ_TESTS_KVQ2_H

#include <criterion/criterion.h>
#include <float.h>
#include <math.h>
#include <stdio.h>
#include <string.h>

#include "quant/codec.h"
#include "quant/row8.h"
#include "tests/npy.h"
#include "tests/support.h"

enum { T = KVQ_SUPERBLOCK, MAX_BYTES = 1 << 20 };

static const size_t all_dims[] = {1, 3, 16, 24, 64, 80, 128, 1024};
enum { N_DIMS = sizeof all_dims / sizeof all_dims[0] };

static _Alignas(KVQ_ALIGNMENT) uint8_t superblock[MAX_BYTES], other[MAX_BYTES];
static float x[T * KVQ_DIM_MAX], xhat[T * KVQ_DIM_MAX], bound[T * KVQ_DIM_MAX];
static float energy[KVQ_DIM_MAX], received[T], moment[KVQ_DIM_MAX * (KVQ_DIM_MAX + 1) / 2];

/* Does a text name a codec and its parameters, to the end? */
static inline bool parses(const char *text, kvq_role role, kvq_spec *spec)
{
    const char *rest;
    *spec = (kvq_spec){.codec = kvq_codec_for_text(text, &rest)};
    kvq_text t = {.at = rest};
    return spec->codec != NULL && spec->codec->parse(spec->codec, &t, role, spec->parameter) && *t.at == '\0';
}

static inline kvq_side side_of(const char *text, kvq_role role, uint32_t m, size_t dim)
{
    kvq_side s;
    kvq_spec spec;
    kvq_common common = {.heavy_hitters = m};
    cr_assert(parses(text, role, &spec), "%s", text);
    const char *problem = kvq_side_init(&s, &spec, &common, role, dim);
    cr_assert(problem == NULL, "%s: %s", text, problem);
    cr_assert(s.bytes <= MAX_BYTES && s.bytes % KVQ_ALIGNMENT == 0);
    return s;
}

/* A text is printed as `printed`. */
static inline void check_text(const char *text, kvq_role role, const char *printed)
{
    kvq_spec spec;
    char got[KVQ_SIDE_TEXT_MAX];
    kvq_printer p = {.text = got, .size = sizeof got};
    cr_assert(parses(text, role, &spec), "%s", text);
    spec.codec->print(spec.codec, &p, role, spec.parameter);
    cr_assert(strcmp(got, printed) == 0, "%s is printed as %s, not %s", text, got, printed);
}

/* Fill kinds of support.h, then: the largest floats, the smallest, both together. */
enum { N_PAGES = N_FILLS + 3 };

static inline void make_page(rng *r, size_t kind, size_t dim)
{
    fill(r, (fill_kind)(kind < N_FILLS ? kind : FILL_NORMAL), x, T, dim);
    for (size_t i = 0; i < T * dim && kind >= N_FILLS; i++) {
        float sign = rng_u64(r) & 1 ? -1.0f : 1.0f;
        bool large = kind == N_FILLS || (kind == N_FILLS + 2 && rng_u64(r) & 1);
        x[i] = large ? sign * FLT_MAX : sign * 1e-45f * (float)rng_below(r, 9);
    }
}

static inline kvq_evidence make_evidence(rng *r, size_t dim)
{
    for (size_t c = 0; c < dim; c++)
        energy[c] = rng_uniform(r) * (float)(1 + rng_below(r, 9));
    for (size_t t = 0; t < T; t++)
        received[t] = rng_uniform(r) * rng_uniform(r);
    for (size_t i = 0, at = 0; i < dim; i++) /* small beside the diagonal: positive */
        for (size_t j = 0; j <= i; j++)
            moment[at++] = i == j ? energy[i] + 1.0f : 0.1f * rng_normal(r) / (float)dim;
    return (kvq_evidence){energy, received, moment};
}

/* Every instruction set stores the same bytes; all are valid, and so is what is never written. */
static inline void check_encoding(const kvq_side *s, const kvq_evidence *evidence, const char *what)
{
    memset(superblock, 0, s->bytes);
    cr_assert(kvq_side_is_valid(s, superblock, 0));
    memset(superblock, 0xa5, s->bytes);
    s->codec->encode(&kvq_kernels_portable, s, superblock, 0, T, x, s->dim, evidence);
    cr_assert(kvq_side_is_valid(s, superblock, T), "%s, D = %zu", what, s->dim);
    for (size_t i = 0; kvq_kernels_at(i) != NULL; i++) {
        memset(other, 0x5a, s->bytes);
        s->codec->encode(kvq_kernels_at(i), s, other, 0, T, x, s->dim, evidence);
        cr_assert(memcmp(superblock, other, s->bytes) == 0, "%s, D = %zu: %s stores other bytes", what,
                  s->dim, kvq_kernels_at(i)->isa);
    }
}

/* What is read is finite, the same in one piece and in several, and within the bound. */
static inline void check_reading(const kvq_side *s, const char *what)
{
    const kvq_kernels *k = kvq_kernels_get();
    static float again[T * KVQ_DIM_MAX];
    kvq_side_read(k, s, superblock, 0, T, xhat, s->dim);
    for (size_t t = 0, n; t < T; t += n) {
        n = t % 7 + 1 < T - t ? t % 7 + 1 : T - t;
        kvq_side_read(k, s, superblock, t, n, again + t * s->dim, s->dim);
    }
    cr_assert(memcmp(xhat, again, T * s->dim * sizeof *xhat) == 0, "%s, D = %zu: reading in pieces", what,
              s->dim);
    kvq_side_error_bound(s, superblock, 0, T, bound, s->dim);
    for (size_t i = 0; i < T * s->dim; i++) {
        cr_assert(isfinite(xhat[i]), "%s, D = %zu: %zu is not finite", what, s->dim, i);
        cr_assert(fabs((double)x[i] - (double)xhat[i]) <= (double)bound[i],
                  "%s, D = %zu: token %zu, channel %zu: %g became %g, off by more than %g", what, s->dim,
                  i / s->dim, i % s->dim, (double)x[i], (double)xhat[i], (double)bound[i]);
    }
}

/* A field that no encoder writes is noticed; `other` is changed. */
static inline void check_refused(const kvq_side *s, size_t at, uint8_t value, const char *what)
{
    memcpy(other, superblock, s->bytes);
    cr_assert(other[at] != value, "%s: nothing changes", what);
    other[at] = value;
    cr_assert(!kvq_side_is_valid(s, other, T), "%s at byte %zu is taken for valid", what, at);
}

static inline void *page_array(const char *page, const char *name)
{
    char path[512];
    npy_array a;
    (void)snprintf(path, sizeof path, "%s/tests/vectors/kvq2/%s/%s.npy", KVQ_SOURCE_DIR, page, name);
    cr_assert(npy_load(&a, path), "%s", path);
    return a.data; /* for the rest of the program */
}

/* The moments of a page, a full matrix, as a triangle. */
static inline kvq_evidence page_evidence(const char *page, size_t dim)
{
    const float *full = page_array(page, "moment");
    for (size_t i = 0, at = 0; i < dim; i++)
        for (size_t j = 0; j <= i; j++)
            moment[at++] = full[i * dim + j];
    return (kvq_evidence){page_array(page, "energy"), page_array(page, "received"), moment};
}

#endif /* KVQ_TESTS_KVQ2_H */
