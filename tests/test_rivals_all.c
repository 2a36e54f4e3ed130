/* What holds for every rival's codec: extreme numbers, streams, attention, hostile bytes, bytes that stay. */
#include "tests/rivals.h"

static const size_t some_dims[] = {1, 2, 3, 5, 16, 31, 33, 64, 80, 96, 100, 128, 257, 512, 1024};
enum { N_DIMS = sizeof some_dims / sizeof some_dims[0] };

typedef void side_check(const char *text, const kvq_side *s);

static void for_all_sides(side_check *check, size_t most)
{
    for (size_t i = 0; i < N_ALL; i++)
        for (size_t d = 0; d < N_DIMS && some_dims[d] <= most; d++)
            for (kvq_role role = KVQ_KEYS; role <= KVQ_VALUES && takes(all[i], some_dims[d]); role++) {
                kvq_side s = side_of(all[i], role, some_dims[d]);
                check(all[i], &s);
            }
}

static void check_finite(const char *text, const char *what, const kvq_side *s)
{
    for (size_t i = 0; i < T * s->dim; i++)
        cr_assert(isfinite(xhat[i]), "%s, D = %zu, %s: number %zu is %g", text, s->dim, what, i,
                  (double)xhat[i]);
    cr_assert(kvq_side_is_valid(s, superblock, T), "%s, D = %zu, %s: not valid", text, s->dim, what);
}

static void check_extremes(const char *text, const kvq_side *s)
{
    static const char *const kinds[] = {"zero",     "constant",     "one constant token",
                                        "smallest", "tiny",         "largest of one sign",
                                        "largest",  "around 65504", "one largest"};
    for (size_t kind = 0; kind < 9; kind++) {
        random_state = 17;
        for (size_t i = 0; i < T * s->dim; i++) {
            double u = uniform() - 0.5;
            const double values[] = {0,
                                     0.1,
                                     i / s->dim == 5 ? 3.3 : u,
                                     u < 0 ? -1e-45 : 1e-45,
                                     u * 1e-38,
                                     (double)FLT_MAX,
                                     u < 0 ? -(double)FLT_MAX : (double)FLT_MAX,
                                     u * 2e5,
                                     i == 0 ? -(double)FLT_MAX : u};
            x[i] = (float)values[kind];
        }
        round_trip(s);
        check_finite(text, kinds[kind], s);
        for (size_t i = 0; i < T * s->dim && kind == 0; i++)
            cr_assert(xhat[i] == 0.0f, "%s: 0 became %g", text, (double)xhat[i]);
        bool rotated = s->codec->prepare != NULL; /* into one large number and zeros */
        for (size_t i = 0; i < T * s->dim && kind == 1 && !rotated; i++)
            cr_assert(fabs((double)xhat[i] - 0.1) < 0.001, "%s, D = %zu: 0.1 became %g", text, s->dim,
                      (double)xhat[i]);
    }
}

Test(rivals_all, extremes_stay_finite)
{
    for_all_sides(check_extremes, 1024);
}

/* Relative error over a page, no more than this for so many bits. */
static void check_error(const char *text, const kvq_side *s)
{
    static const double most[9] = {[1] = 0.75, [2] = 0.62, [3] = 0.3, [4] = 0.17, [8] = 0.02};
    double off = 0, norm = 0;
    fill(s->dim, 19);
    round_trip(s);
    for (size_t i = 0; i < T * s->dim; i++) {
        off += pow((double)x[i] - (double)xhat[i], 2);
        norm += pow((double)x[i], 2);
    }
    cr_assert(s->dim < 16 || sqrt(off / norm) < most[s->bits], "%s, D = %zu, role %d: off by %g", text,
              s->dim, s->role, sqrt(off / norm));
}

Test(rivals_all, round_trip_is_close)
{
    for_all_sides(check_error, 1024);
}

/* Tokens one by one give the same bytes as all at once; what is cleared is as never written; a part reads as
 * it does in the whole. */
static void check_streams(const char *text, const kvq_side *s)
{
    fill(s->dim, 23);
    round_trip(s);
    float row[MAX_DIM];
    kvq_side_read(k, s, superblock, 77, 1, row, s->dim);
    cr_assert(memcmp(row, xhat + 77 * s->dim, s->dim * sizeof *row) == 0, "%s: a row reads otherwise", text);
    if (s->tokens_per_run != 1) {
        kvq_side_clear(s, superblock, 0);
        cr_assert(kvq_side_is_valid(s, superblock, 0), "%s", text);
        return;
    }
    memset(other, 0, s->bytes);
    for (size_t t = 0; t < T; t++)
        s->codec->encode(k, s, other, t, 1, x + t * s->dim, s->dim, NULL);
    cr_assert(memcmp(superblock, other, s->bytes) == 0, "%s, D = %zu", text, s->dim);
    kvq_side_clear(s, superblock, 40);
    memset(other, 0, s->bytes);
    s->codec->encode(k, s, other, 0, 40, x, s->dim, NULL);
    cr_assert(memcmp(superblock, other, s->bytes) == 0, "%s, D = %zu: cleared", text, s->dim);
    cr_assert(kvq_side_is_valid(s, superblock, 40) && !kvq_side_is_valid(s, superblock, 39), "%s", text);
}

Test(rivals_all, streams)
{
    for_all_sides(check_streams, 257);
}

/* Scores of prepared queries are dot products with what is read, and so are finished sums. */
static void check_attention(const char *text, const kvq_side *s)
{
    float q[MAX_DIM], prepared[MAX_DIM], scores[T], error, p[T], packed[MAX_DIM] = {0}, plain[MAX_DIM] = {0};
    fill(s->dim, 29);
    round_trip(s);
    for (size_t c = 0; c < s->dim; c++)
        q[c] = prepared[c] = (float)normal();
    for (size_t t = 0; t < T; t++)
        p[t] = (float)uniform();
    if (s->codec->prepare != NULL)
        s->codec->prepare(k, s, q, prepared);
    kvq_tokens tokens = {.superblock = superblock, .n = T, .sums = KVQ_SUMS_WIDE};
    kvq_side_score(k, s, &tokens, prepared, 1, scores, &error, NULL);
    kvq_side_accumulate(k, s, &tokens, p, 1, &error, &(kvq_sum_rows){.plain = plain, .packed = packed});
    if (s->codec->finish != NULL)
        s->codec->finish(k, s, packed);
    double sum[MAX_DIM] = {0}, size = 0;
    for (size_t t = 0; t < T; t++) {
        double dot = 0, magnitude = 0;
        for (size_t c = 0; c < s->dim; c++) {
            double v = (double)xhat[t * s->dim + c];
            dot += (double)q[c] * v;
            magnitude += v * v;
            sum[c] += (double)p[t] * v;
        }
        size += sqrt(magnitude);
        cr_assert(fabs(dot - (double)scores[t]) < 1e-4 * (double)s->dim * (1 + sqrt(magnitude)),
                  "%s, D = %zu: score %g, not %g", text, s->dim, (double)scores[t], dot);
    }
    for (size_t c = 0; c < s->dim; c++)
        cr_assert(fabs(sum[c] - (double)packed[c]) < 1e-4 * size, "%s, D = %zu: sum %g, not %g", text, s->dim,
                  (double)packed[c], sum[c]);
}

Test(rivals_all, attention_is_over_what_is_read)
{
    for_all_sides(check_attention, 128);
}

/* Hostile bytes are refused, or read as finite numbers. */
static void check_hostile(const char *text, const kvq_side *s)
{
    fill(s->dim, 31);
    encode(s);
    memcpy(other, superblock, s->bytes);
    size_t n_refused = 0;
    for (size_t i = 0; i < 3000; i++) {
        size_t at = i < s->bytes && s->bytes < 3000 ? i : (size_t)(uniform() * (double)s->bytes);
        superblock[at] = (uint8_t)(i % 3 == 0 ? 0xffu : superblock[at] ^ 1u << i % 8);
        bool valid = kvq_side_is_valid(s, superblock, T);
        n_refused += !valid;
        if (valid && i % 8 == 0) {
            kvq_side_read(k, s, superblock, 0, T, xhat, s->dim);
            check_finite(text, "hostile", s);
        }
        superblock[at] = other[at];
    }
    cr_assert(n_refused > 0, "%s, D = %zu: nothing is refused", text, s->dim);
    kvq_side_clear(s, superblock, 0);
    cr_assert(kvq_side_is_valid(s, superblock, 0), "%s: nothing is valid", text);
    superblock[s->bytes - 1] = 1;
    cr_assert(!kvq_side_is_valid(s, superblock, 0), "%s: behind the last token", text);
}

Test(rivals_all, hostile_bytes)
{
    for_all_sides(check_hostile, 33);
}

Test(rivals_all, hostile_bytes_by_name)
{
    static const struct {
        const char *text;
        size_t dim, at;
        uint16_t bad;
    } cases[] = {
        {"q8_0", 32, 0, 0x7c00},
        {"q8_0", 32, 0, 0x8001},
        {"q8_0", 32, 2, 0x8080}, /* a code of -128 */
        {"q8_0", 33, 34 + 3, 1},
        {"q4_0", 32, 0, 0xfc00},
        {"q4_0", 33, 18 + 2, 0x0000},
        {"q4_1", 32, 2, 0x7e00},
        {"turbo:2", 64, 16, 0x7c00},
        {"turbo:2", 64, 16, 0xbc00},
        {"quarot:2", 64, 16, 0x7c00},
        {"quarot:2", 64, 18, 0xfc00},
        {"kvarn:2", 64, 128 * 16, 0x7c00},
        {"kvarn:2", 64, 128 * 16 + 2 * 64, 0x7e00},
        {"kvarn:2", 64, 128 * 16 + 4 * 64, 0xbc00},
        {"nuq:2", 64, 128 * 16, 0xbc00},
        {"nuq:2", 64, 128 * 16 + 2 * 64, 0x7c00},
        {"nuq:2", 64, 128 * 16 + 4 * 64 + 2 * 81, 128 * 64}, /* the last index: out of the page */
        {"nuq:2", 64, 128 * 16 + 4 * 64 + 2 * 81, 0},        /* not ascending */
        {"nuq:2", 64, 128 * 16 + 4 * 64 + 2 * 82, 0x7c00},
    };
    for (size_t i = 0; i < sizeof cases / sizeof cases[0]; i++) {
        kvq_side s = side_of(cases[i].text, KVQ_KEYS, cases[i].dim);
        fill(cases[i].dim, 37);
        encode(&s);
        cr_assert(kvq_side_is_valid(&s, superblock, T));
        kvq_store_u16(superblock + cases[i].at, cases[i].bad);
        cr_assert(!kvq_side_is_valid(&s, superblock, T), "%s, byte %zu: %04x is valid", cases[i].text,
                  cases[i].at, cases[i].bad);
    }
}

/* Two outliers at one place. */
Test(rivals_all, nuq_indices_ascend)
{
    enum { INDICES = 128 * 16 + 4 * 64 };
    kvq_side s = side_of("nuq:2", KVQ_KEYS, 64);
    fill(64, 43);
    encode(&s);
    kvq_store_u16(superblock + INDICES + 2, kvq_load_u16(superblock + INDICES));
    cr_assert(!kvq_side_is_valid(&s, superblock, T));
}

/* The bytes of a page are the same on every machine and in every run; FNV-1a of those of D = 80. */
Test(rivals_all, bytes_do_not_change)
{
    static const uint64_t hashes[N_ALL][2] = {
        {0x9e8b26efbe2493aeu, 0x9e8b26efbe2493aeu}, {0x81228cec16549a3fu, 0x81228cec16549a3fu},
        {0xe0c611b12ee5ff0fu, 0xe0c611b12ee5ff0fu}, {0xb5303edd62335bdcu, 0xb5303edd62335bdcu},
        {0x36ed3bf20ed1b3abu, 0x36ed3bf20ed1b3abu}, {0x5ddb77a100df5172u, 0x5ddb77a100df5172u},
        {0xf3034411b5815197u, 0xf3034411b5815197u}, {0xe06a2ac37392ef03u, 0xe06a2ac37392ef03u},
        {0x76034522955854f7u, 0x99c15ae269b13879u}, {0x77823f094ab34be0u, 0x10e26568bf985528u},
        {0x64c9118593b1ef8bu, 0x64c9118593b1ef8bu}, {0x2be3a1f229027b2cu, 0x2be3a1f229027b2cu},
        {0x6c08f51fdf1b7212u, 0x6c08f51fdf1b7212u}, {0xbeb854e342309075u, 0xbeb854e342309075u},
        {0x019d2118d36af556u, 0x019d2118d36af556u}, {0xc86baa1d3c787030u, 0xc86baa1d3c787030u},
        {0x66f1e0d5d0ddd6ebu, 0x0742b8968dfa37f9u}, {0xf1776afd033e1cacu, 0xc311f19b10583879u},
        {0x9dc85ca709e15554u, 0x58a4081b132ec633u}, {0x66f1e0d5d0ddd6ebu, 0x0742b8968dfa37f9u}};
    for (size_t i = 0; i < N_ALL; i++)
        for (kvq_role role = KVQ_KEYS; role <= KVQ_VALUES; role++) {
            kvq_side s = side_of(all[i], role, 80);
            uint64_t hash = 0xcbf29ce484222325u;
            fill(80, 41);
            encode(&s);
            for (size_t at = 0; at < s.bytes; at++)
                hash = (hash ^ superblock[at]) * 0x100000001b3u;
            cr_assert(hash == hashes[i][role], "%s, role %d: 0x%016llx", all[i], role,
                      (unsigned long long)hash);
        }
}
