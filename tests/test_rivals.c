/*
 * The codecs that are here to be compared with (quant/codec_ggml.c, codec_turbo.c, codec_kvarn.c,
 * codec_quarot.c, codec_nuq.c): golden blocks, their papers' formulas written again in double, bytes as their
 * authors count them, extreme numbers, hostile bytes.
 */
#include <criterion/criterion.h>
#include <float.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>

#include "quant/codec.h"

enum { T = KVQ_SUPERBLOCK, MAX_DIM = KVQ_DIM_MAX, MAX_BYTES = 2 * T * MAX_DIM };

static _Alignas(KVQ_ALIGNMENT) uint8_t superblock[MAX_BYTES], other[MAX_BYTES];
static float x[T * MAX_DIM], xhat[T * MAX_DIM];
static double y[T * MAX_DIM], wanted[T * MAX_DIM];

static const kvq_kernels *const k = &kvq_kernels_portable;
static const char *const all[] = {"q8_0",        "q4_0",     "q4_1",       "turbo:1",  "turbo:2",
                                  "turbo:3",     "turbo:4",  "turbo:2:nc", "kvarn:2",  "kvarn:4",
                                  "quarot:2",    "quarot:3", "quarot:4",   "quarot:8", "quarot:4/32",
                                  "quarot:2/64", "nuq:2",    "nuq:3",      "nuq:4",    "nuq:2:qn"};
enum { N_ALL = sizeof all / sizeof all[0] };

/* ---- Making sides and numbers ---- */

static const char *parse(const char *text, kvq_role role, kvq_spec *spec)
{
    const char *rest;
    *spec = (kvq_spec){.codec = kvq_codec_for_text(text, &rest)};
    if (spec->codec == NULL)
        return "no such codec";
    kvq_text t = {.at = rest};
    if (!spec->codec->parse(spec->codec, &t, role, spec->parameter))
        return t.problem;
    return *t.at == '\0' ? NULL : "something is left";
}

static const char *try_side(const char *text, kvq_role role, size_t dim, kvq_side *s)
{
    kvq_spec spec;
    const char *problem = parse(text, role, &spec);
    return problem != NULL ? problem : kvq_side_init(s, &spec, &(kvq_common){0}, role, dim);
}

static kvq_side side_of(const char *text, kvq_role role, size_t dim)
{
    kvq_side s;
    const char *problem = try_side(text, role, dim, &s);
    cr_assert(problem == NULL, "%s, D = %zu: %s", text, dim, problem);
    cr_assert(s.bytes <= MAX_BYTES && s.bytes % KVQ_ALIGNMENT == 0, "%s: %zu bytes", text, s.bytes);
    return s;
}

static bool takes(const char *text, size_t dim)
{
    return strncmp(text, "nuq", 3) != 0 || dim <= 512;
}

static uint32_t random_state;

static double uniform(void)
{
    random_state = random_state * 1664525u + 1013904223u;
    return (random_state >> 8) / 16777216.0;
}

static double normal(void)
{
    double sum = -6.0;
    for (int i = 0; i < 12; i++)
        sum += uniform();
    return sum;
}

/* Rows as keys look: an offset per channel, some tokens larger, some outliers. */
static void fill(size_t dim, uint32_t seed)
{
    random_state = seed;
    double offset[MAX_DIM];
    for (size_t c = 0; c < dim; c++)
        offset[c] = normal();
    for (size_t t = 0; t < T; t++) {
        double size = t % 9 == 4 ? 3.0 : 1.0;
        for (size_t c = 0; c < dim; c++)
            x[t * dim + c] = (float)(offset[c] + size * normal() * (uniform() < 0.01 ? 8.0 : 1.0));
    }
}

static void encode(const kvq_side *s)
{
    memset(superblock, 0xa5, sizeof superblock);
    if (s->tokens_per_run == 1)
        kvq_side_clear(s, superblock, 0);
    s->codec->encode(k, s, superblock, 0, T, x, s->dim, NULL);
}

static void round_trip(const kvq_side *s)
{
    encode(s);
    kvq_side_read(k, s, superblock, 0, T, xhat, s->dim);
}

/* Is what was read what `wanted` says, all but `n_off` numbers (codes at a tie) within `close` of the row? */
static void check_wanted(const char *what, const kvq_side *s, double close, size_t n_off)
{
    size_t n = 0;
    for (size_t t = 0; t < T; t++) {
        double norm = 0.0, off = 0.0;
        for (size_t c = 0; c < s->dim; c++) {
            norm += wanted[t * s->dim + c] * wanted[t * s->dim + c];
            off += pow(wanted[t * s->dim + c] - (double)xhat[t * s->dim + c], 2);
        }
        n += sqrt(off) > close * sqrt(norm);
    }
    cr_assert(n <= n_off, "%s, D = %zu, role %d: %zu rows are off", what, s->dim, s->role, n);
}

/* H x of a row in double, entry by entry: the sign is the parity of i & j. */
static void rotate(const double *row, size_t dim, double *out)
{
    for (size_t at = 0, n; at < dim; at += n) {
        for (n = 1; 2 * n <= dim - at; n *= 2)
            ;
        for (size_t i = 0; i < n; i++) {
            out[at + i] = 0.0;
            for (size_t j = 0; j < n; j++) {
                int sign = __builtin_parityll(i & j) ? -1 : 1;
                out[at + i] += sign * row[at + j] / sqrt((double)n);
            }
        }
    }
}

static void rotate_all(size_t dim, const double *from, double *to)
{
    double row[MAX_DIM];
    for (size_t t = 0; t < T; t++) {
        memcpy(row, from + t * dim, dim * sizeof *row);
        rotate(row, dim, to + t * dim);
    }
}

static void widen(size_t dim, double *out)
{
    for (size_t i = 0; i < T * dim; i++)
        out[i] = (double)x[i];
}

static double half(double v)
{
    return (double)kvq_f32_from_f16(kvq_f16_from_f32((float)v));
}

/* The affine grid of codec_affine.c's first comment, over n numbers `step` apart. */
static void grid(double *v, size_t n, size_t step, unsigned bits)
{
    double lo = INFINITY, hi = -INFINITY, most = (1u << bits) - 1u;
    for (size_t i = 0; i < n; i++) {
        lo = fmin(lo, v[i * step]);
        hi = fmax(hi, v[i * step]);
    }
    double min = (double)kvq_f32_from_f16(kvq_f16_round_down((float)lo));
    double scale = (double)kvq_f32_from_f16(kvq_f16_round_up((float)((hi - min) / most)));
    for (size_t i = 0; i < n; i++)
        v[i * step] =
            min + (scale > 0 ? nearbyint(fmin(fmax((v[i * step] - min) / scale, 0), most)) * scale : 0);
}

/* ---- What schemes say ---- */

Test(rivals, texts_parse_back)
{
    static const char *const also[][2] = {{"quarot:4/full", "quarot:4"},
                                          {"quarot:8/128", "quarot:8/128"},
                                          {"turbo:4:nc", "turbo:4:nc"},
                                          {"nuq:4:qn", "nuq:4:qn"}};
    for (size_t i = 0; i < N_ALL + 4; i++)
        for (kvq_role role = KVQ_KEYS; role <= KVQ_VALUES; role++) {
            const char *text = i < N_ALL ? all[i] : also[i - N_ALL][0],
                       *out = i < N_ALL ? text : also[i - N_ALL][1];
            kvq_spec spec;
            char printed[KVQ_SIDE_TEXT_MAX];
            kvq_printer p = {.text = printed, .size = sizeof printed};
            cr_assert(parse(text, role, &spec) == NULL, "%s does not parse", text);
            spec.codec->print(spec.codec, &p, role, spec.parameter);
            cr_assert(strcmp(printed, out) == 0, "%s prints as %s", text, printed);
        }
    static const char *const bad[] = {"q8_0:1",   "q4_0:",     "turbo",       "turbo:",    "turbo:0",
                                      "turbo:5",  "turbo:2:n", "turbo:2nc",   "kvarn:3",   "kvarn:1",
                                      "quarot:1", "quarot:5",  "quarot:4/16", "quarot:4/", "nuq:1",
                                      "nuq:5",    "nuq:2:nc",  "quarot:40"};
    for (size_t i = 0; i < sizeof bad / sizeof bad[0]; i++) {
        kvq_spec spec;
        cr_assert(parse(bad[i], KVQ_KEYS, &spec) != NULL, "%s parses", bad[i]);
    }
    kvq_side s;
    cr_assert(try_side("nuq:2", KVQ_KEYS, 513, &s) != NULL);
}

/* Bits per element as the authors count them, with what rounding pages up to 64 bytes adds at most. */
Test(rivals, bytes_are_those_of_the_papers)
{
    static const struct {
        const char *text;
        double bits, keys_per_token, per_token; /* and so many more bits for each token, spread over D */
    } rows[] = {
        {"q8_0", 8.5, 0, 0},
        {"q4_0", 4.5, 0, 0},
        {"q4_1", 5, 0, 0},
        {"turbo:1", 1, 16, 16},
        {"turbo:3", 3, 16, 16},
        {"turbo:4:nc", 4, 16, 16},
        {"kvarn:2", 2 + 16. / 128, 0, 0},
        {"quarot:2", 2, 32, 32},
        {"quarot:3/32", 4, 0, 0},
        {"quarot:4/64", 4.5, 0, 0},
        {"nuq:2", 2 + .32, 0, 32},
        {"nuq:4", 4 + .32, 0, 32},
    };
    for (size_t i = 0; i < sizeof rows / sizeof rows[0]; i++)
        for (size_t dim = 64; dim <= 128; dim += 64)
            for (kvq_role role = KVQ_KEYS; role <= KVQ_VALUES; role++) {
                kvq_side s = side_of(rows[i].text, role, dim);
                double d = (double)dim;
                double bits =
                    rows[i].bits + (role == KVQ_KEYS ? rows[i].keys_per_token : rows[i].per_token) / d;
                if (strncmp(rows[i].text, "kvarn", 5) == 0) /* two halves per group, one across */
                    bits = role == KVQ_KEYS ? 2 + 32. / 128 + 16 / d : 2 + 32 / d + 16. / 128;
                if (strncmp(rows[i].text, "nuq", 3) == 0 && role == KVQ_KEYS)
                    bits += 32. / 128;
                double got =
                    8.0 * (double)(s.payload_per_run + s.metadata_per_run) / ((double)s.tokens_per_run * d);
                double room = s.tokens_per_run == 1 ? 0 : (8 * 63 + 32) / (128 * d);
                cr_assert(got >= bits - 1e-9 && got <= bits + room + 1e-9, "%s, D = %zu: %g bits, not %g",
                          rows[i].text, dim, got, bits);
                cr_assert(s.bytes == (s.payload_per_run + s.metadata_per_run) * (T / s.tokens_per_run));
            }
}

/* ---- ggml: blocks worked out by hand ---- */

static void check_block(const char *text, const uint8_t *block, size_t n, const float *decoded,
                        size_t n_decoded)
{
    kvq_side s = side_of(text, KVQ_KEYS, 32);
    memset(superblock, 0xff, s.bytes);
    s.codec->encode(k, &s, superblock, 0, 1, x, 32, NULL);
    for (size_t i = 0; i < n; i++)
        cr_assert(superblock[i] == block[i], "%s: byte %zu is %02x, not %02x", text, i, superblock[i],
                  block[i]);
    kvq_side_read(k, &s, superblock, 0, 1, xhat, 32);
    for (size_t i = 0; i < n_decoded; i++)
        cr_assert(xhat[i] == decoded[i], "%s: number %zu is %g, not %g", text, i, (double)xhat[i],
                  (double)decoded[i]);
}

Test(rivals, q8_0_golden)
{
    memset(x, 0, sizeof x); /* amax 127, d = 1: codes are the numbers, halves away from zero */
    const float row[] = {127, 0.5f, -0.5f, 1.5f, 2.5f, -2.5f, 0.49f, -126.6f};
    const float out[] = {127, 1, -1, 2, 3, -3, 0, -127, 0};
    memcpy(x, row, sizeof row);
    check_block("q8_0", (const uint8_t[34]){0x00, 0x3c, 127, 1, 255, 2, 3, 253, 0, 129}, 34, out, 9);
    for (size_t i = 0; i < 32; i++)
        x[i] = 0; /* amax 12.7, d = 0.1, as half 0x2e66 = 0.0999756; 12.7 id = 127, -3.04 id = -30.4 */
    x[3] = 12.7f;
    x[31] = -3.04f;
    uint8_t block[34] = {0x66, 0x2e};
    block[2 + 3] = 127;
    block[2 + 31] = 226;
    const float second[] = {0, 0, 0, 127 * 0.0999755859375f};
    check_block("q8_0", block, 34, second, 4);
}

Test(rivals, q4_0_golden)
{
    memset(x, 0, sizeof x); /* the largest is -8: d = 1, codes trunc(x + 8.5), a 0 is 8 */
    const float row[] = {-8, 7, 7.9f, 0.5f, -0.5f, -0.51f, 3.49f};
    const float out[] = {-8, 7, 7, 1, 0, -1, 3, 0};
    memcpy(x, row, sizeof row);
    x[16] = 2; /* high half of the first byte: code 10 */
    x[17] = -7.6f;
    uint8_t block[18] = {0x00, 0x3c, 0xa0, 0x0f, 0x8f, 0x89, 0x88, 0x87, 0x8b};
    memset(block + 9, 0x88, 9);
    check_block("q4_0", block, 18, out, 8);
    memset(x, 0, sizeof x); /* the first of equal ones, 4: d = -0.5 = 0xb800, id = -2 */
    x[0] = 4;
    x[1] = -4;
    x[2] = 1;
    memset(block, 0x88, sizeof block);
    memcpy(block, (const uint8_t[]){0x00, 0xb8, 0x80, 0x8f, 0x86}, 5);
    const float second[] = {4, -3.5f, 1, 0};
    check_block("q4_0", block, 18, second, 4);
}

Test(rivals, q4_1_golden)
{
    for (size_t i = 0; i < 32; i++)
        x[i] = -3; /* -3 to 12: d = 1, min = -3 = 0xc200, code trunc(x + 3.5) */
    x[0] = 12;
    x[1] = -2.5f;
    x[2] = -2.51f;
    x[3] = 0;
    x[19] = 5.6f; /* 9, with channel 3 */
    uint8_t block[20] = {0x00, 0x3c, 0x00, 0xc2, 0x0f, 0x01, 0x00, 0x93};
    const float out[] = {12, -2, -3, 0, -3};
    check_block("q4_1", block, 20, out, 5);
}

/* 33 channels are two blocks, the second with 31 zeros. */
Test(rivals, ggml_pads_the_last_block)
{
    kvq_side s = side_of("q4_1", KVQ_VALUES, 33);
    cr_assert(s.payload_per_run + s.metadata_per_run == 40);
    for (size_t i = 0; i < T * 33; i++)
        x[i] = 15; /* the second block: 0 to 15, d = 1, min = 0 */
    round_trip(&s);
    const uint8_t block[5] = {0x00, 0x3c, 0x00, 0x00, 0x0f};
    cr_assert(memcmp(superblock + 20, block, 5) == 0);
    cr_assert(xhat[32] == 15.0f && xhat[0] == 15.0f);
}

/* ---- TurboQuant ---- */

/* Lloyd's algorithm again, for angles: t = sin(a) has the density cos(a)^(D - 2). Simpson's rule, cell by
 * cell. */
static void lloyd_levels(size_t dim, size_t n, double *level)
{
    for (size_t i = 0; i < n; i++)
        level[i] = ((2 * (double)i + 1) / (double)n - 1) * fmin(1, 2.5 / sqrt((double)dim));
    for (int step = 0; step < 1500; step++) {
        double next[16];
        for (size_t i = 0; i < n; i++) {
            double lo = i > 0 ? asin((level[i - 1] + level[i]) / 2) : -1.5707963267949;
            double hi = i + 1 < n ? asin((level[i] + level[i + 1]) / 2) : 1.5707963267949;
            double mass = 0, moment = 0;
            for (int j = 0; j <= 256; j++) {
                double a = lo + (hi - lo) * j / 256, w = j == 0 || j == 256 ? 1 : j % 2 != 0 ? 4 : 2;
                double p = w * pow(cos(a), (double)dim - 2);
                mass += p;
                moment += p * sin(a);
            }
            next[i] = moment / mass;
        }
        memcpy(level, next, n * sizeof *level);
    }
}

/* The top bits of the first numbers of splitmix64 from this seed, computed apart from the code. */
static const int turbo_signs[16] = {-1, 1, -1, -1, -1, 1, 1, -1, -1, 1, 1, -1, 1, -1, 1, 1};

static void check_turbo(const char *text, size_t dim, unsigned bits, bool corrected)
{
    kvq_side s = side_of(text, KVQ_VALUES, dim);
    double level[16], row[MAX_DIM];
    size_t n = (size_t)1 << bits;
    lloyd_levels(dim, n, level);
    const float *levels = (const float *)(const void *)s.own;
    for (size_t i = 0; i < n; i++)
        cr_assert(fabs((double)levels[i] - level[i]) < 1e-6 * level[n - 1],
                  "%s, D = %zu: level %zu is %g, not %g", text, dim, i, (double)levels[i], level[i]);
    fill(dim, 3);
    for (size_t t = 0; t < T; t++) {
        double norm = 0, of_levels = 0, rotated[MAX_DIM];
        for (size_t c = 0; c < dim; c++) {
            row[c] = turbo_signs[c] * (double)x[t * dim + c];
            norm += row[c] * row[c];
        }
        rotate(row, dim, rotated);
        for (size_t c = 0; c < dim; c++) {
            size_t best = 0;
            for (size_t i = 1; i < n; i++)
                if (fabs(rotated[c] / sqrt(norm) - (double)levels[i]) <
                    fabs(rotated[c] / sqrt(norm) - (double)levels[best]))
                    best = i;
            row[c] = (double)levels[best];
            of_levels += row[c] * row[c];
        }
        double scale = half(corrected ? sqrt(norm / of_levels) : sqrt(norm));
        rotate(row, dim, rotated);
        for (size_t c = 0; c < dim; c++)
            wanted[t * dim + c] = turbo_signs[c] * scale * rotated[c];
    }
    round_trip(&s);
    check_wanted(text, &s, 1e-5, 0);
}

Test(rivals, turbo_is_the_formula)
{
    check_turbo("turbo:1", 16, 1, false);
    check_turbo("turbo:2", 16, 2, false);
    check_turbo("turbo:3", 12, 3, false);
    check_turbo("turbo:4", 4, 4, false);
    check_turbo("turbo:2:nc", 16, 2, true);
    check_turbo("turbo:4:nc", 13, 4, true);
}

/* D = 4: the density is sqrt(1 - t^2), and with one bit the level is its mean over [0, 1], 4 / (3 pi). At D =
 * 3 it is constant: levels are the middles of equal cells. */
Test(rivals, turbo_levels_by_hand)
{
    kvq_side s = side_of("turbo:1", KVQ_KEYS, 4);
    const float *level = (const float *)(const void *)s.own;
    cr_assert(fabs((double)level[1] - 4 / (3 * 3.14159265358979)) < 1e-7 && level[0] == -level[1]);
    s = side_of("turbo:4", KVQ_KEYS, 3);
    for (int i = 0; i < 16; i++)
        cr_assert(fabs((double)level[i] - ((2 * i + 1) / 16.0 - 1)) < 1e-6, "level %d is %g", i,
                  (double)level[i]);
    s = side_of("turbo:2", KVQ_KEYS, 1024); /* as good as normal: .4528 and 1.510 */
    cr_assert(fabs((double)level[2] * 32 - .4528) < 2e-4 && fabs((double)level[3] * 32 - 1.5104) < 1e-3);
}

/* ---- QuaRot ---- */

Test(rivals, quarot_is_the_formula)
{
    static const struct {
        const char *text;
        size_t dim, group;
        unsigned bits;
    } cases[] = {{"quarot:2", 64, 64, 2},
                 {"quarot:3", 80, 80, 3},
                 {"quarot:4/32", 100, 32, 4},
                 {"quarot:8/64", 128, 64, 8},
                 {"quarot:4/128", 1, 128, 4}};
    for (size_t i = 0; i < 5; i++) {
        size_t dim = cases[i].dim;
        kvq_side s = side_of(cases[i].text, KVQ_KEYS, dim);
        fill(dim, 5);
        widen(dim, y);
        rotate_all(dim, y, wanted);
        for (size_t t = 0; t < T; t++)
            for (size_t c = 0; c < dim; c += cases[i].group)
                grid(wanted + t * dim + c, dim - c < cases[i].group ? dim - c : cases[i].group, 1,
                     cases[i].bits);
        rotate_all(dim, wanted, wanted);
        round_trip(&s);
        check_wanted(cases[i].text, &s, 1e-5, 2);
    }
}

/* ---- KVarN ---- */

static double log_std(const double *v, size_t n, size_t step)
{
    double mean = 0, variance = 0;
    for (size_t i = 0; i < n; i++)
        mean += v[i * step] / (double)n;
    for (size_t i = 0; i < n; i++)
        variance += pow(v[i * step] - mean, 2) / (double)n;
    return variance > 1e-28 * (mean * mean + variance) ? 0.5 * log(variance) : 0;
}

/* The paper's steps: logarithms of factors that grow by the logarithm of what deviation is left. */
static void kvarn_reference(const kvq_side *s, unsigned bits)
{
    size_t dim = s->dim;
    double log_channel[MAX_DIM] = {0}, log_token[T] = {0};
    static double z[T * MAX_DIM];
    widen(dim, z);
    rotate_all(dim, z, y);
    for (int step = 0; step < 32; step++) {
        for (size_t i = 0; i < T * dim; i++)
            z[i] = y[i] / exp(log_token[i / dim] + log_channel[i % dim]);
        for (size_t c = 0; c < dim && step % 2 == 0; c++)
            log_channel[c] += log_std(z + c, T, dim);
        for (size_t t = 0; t < T && step % 2 != 0; t++)
            log_token[t] += log_std(z + t * dim, dim, 1);
    }
    bool keys = s->role == KVQ_KEYS;
    const double *logs = keys ? log_token : log_channel;
    size_t n = keys ? T : dim;
    double mean = 0, factor[MAX_DIM];
    for (size_t i = 0; i < n; i++)
        mean += exp(logs[i]) / (double)n;
    for (size_t i = 0; i < n; i++)
        factor[i] = half(exp(logs[i]) / mean);
    for (size_t i = 0; i < T * dim; i++)
        z[i] = y[i] / factor[keys ? i / dim : i % dim];
    for (size_t g = 0; g < (keys ? dim : T); g++)
        grid(z + (keys ? g : g * dim), n, keys ? dim : 1, bits);
    for (size_t i = 0; i < T * dim; i++)
        z[i] *= factor[keys ? i / dim : i % dim];
    rotate_all(dim, z, wanted);
}

Test(rivals, kvarn_is_the_formula)
{
    static const size_t dims[] = {8, 64, 96, 130};
    for (size_t d = 0; d < 4; d++)
        for (kvq_role role = KVQ_KEYS; role <= KVQ_VALUES; role++)
            for (unsigned bits = 2; bits <= 4; bits += 2) {
                kvq_side s = side_of(bits == 2 ? "kvarn:2" : "kvarn:4", role, dims[d]);
                fill(dims[d], 7);
                kvarn_reference(&s, bits);
                round_trip(&s);
                check_wanted("kvarn", &s, 1e-4, 3);
            }
}

/* After the normalization of a page without offsets all tokens and channels vary alike, so that a page whose
 * tokens differ in size by 1000 is as good as one of equal tokens, relative to each token. */
Test(rivals, kvarn_evens_out_tokens)
{
    kvq_side s = side_of("kvarn:4", KVQ_KEYS, 64);
    random_state = 9;
    for (size_t i = 0; i < T * 64; i++)
        x[i] = (float)(normal() * (i / 64 % 2 != 0 ? 1000.0 : 1.0));
    round_trip(&s);
    for (size_t t = 0; t < T; t++) {
        double off = 0, norm = 0;
        for (size_t c = 0; c < 64; c++) {
            off += pow((double)x[t * 64 + c] - (double)xhat[t * 64 + c], 2);
            norm += pow((double)x[t * 64 + c], 2);
        }
        cr_assert(off < 0.04 * norm, "token %zu is off by %g", t, sqrt(off / norm));
    }
}

/* ---- KVQuant ---- */

typedef struct ranked {
    double deviation;
    size_t index;
} ranked;

static int by_deviation(const void *a, const void *b)
{
    const ranked *l = a, *r = b;
    return l->deviation != r->deviation ? (l->deviation < r->deviation ? 1 : -1)
           : l->index > r->index        ? 1
                                        : -1;
}

/* Lloyd's algorithm for a normal density cut off at 2.5758, by its integrals. */
static void cut_normal_levels(size_t n, double *level)
{
    const double edge = 2.57582930354890;
    for (size_t i = 0; i < n; i++)
        level[i] = (2 * (double)i + 1) / (double)n - 1;
    for (int step = 0; step < 3000; step++) {
        double next[16];
        for (size_t i = 0; i < n; i++) {
            double lo = edge * (i > 0 ? (level[i - 1] + level[i]) / 2 : -1);
            double hi = edge * (i + 1 < n ? (level[i] + level[i + 1]) / 2 : 1);
            double mass = (erf(hi / sqrt(2)) - erf(lo / sqrt(2))) / 2;
            next[i] = (exp(-lo * lo / 2) - exp(-hi * hi / 2)) / sqrt(2 * 3.14159265358979) / mass / edge;
        }
        memcpy(level, next, n * sizeof *level);
    }
}

static void nuq_reference(const kvq_side *s, size_t n_levels)
{
    static ranked order[T * MAX_DIM];
    static bool is_outlier[T * MAX_DIM];
    size_t dim = s->dim, n_outliers = (size_t)ceil(0.01 * 128 * (double)dim);
    bool keys = s->role == KVQ_KEYS;
    size_t n_groups = keys ? dim : T, n = keys ? T : dim, step = keys ? dim : 1;
    double level[16];
    cut_normal_levels(n_levels, level);
    for (size_t g = 0; g < n_groups; g++) {
        const float *group = x + (keys ? g : g * dim);
        double mean = 0, variance = 0;
        for (size_t i = 0; i < n; i++)
            mean += (double)group[i * step] / (double)n;
        for (size_t i = 0; i < n; i++)
            variance += pow((double)group[i * step] - mean, 2) / (double)n;
        for (size_t i = 0; i < n; i++) {
            size_t index = keys ? i * dim + g : g * dim + i;
            order[index] = (ranked){fabs((double)x[index] - mean) / sqrt(variance), index};
        }
    }
    qsort(order, T * dim, sizeof *order, by_deviation);
    memset(is_outlier, 0, sizeof is_outlier);
    for (size_t i = 0; i < n_outliers; i++)
        is_outlier[order[i].index] = true;
    for (size_t g = 0; g < n_groups; g++) {
        double lo = INFINITY, hi = -INFINITY;
        for (size_t i = 0; i < n; i++) {
            size_t index = keys ? i * dim + g : g * dim + i;
            lo = is_outlier[index] ? lo : fmin(lo, (double)x[index]);
            hi = is_outlier[index] ? hi : fmax(hi, (double)x[index]);
        }
        double zero = half((lo + hi) / 2);
        double scale = (double)kvq_f32_from_f16(kvq_f16_round_up((float)fmax(hi - zero, zero - lo)));
        for (size_t i = 0; i < n; i++) {
            size_t index = keys ? i * dim + g : g * dim + i, best = 0;
            double z = ((double)x[index] - zero) / scale;
            for (size_t l = 1; l < n_levels; l++)
                best = fabs(z - level[l]) < fabs(z - level[best]) ? l : best;
            wanted[index] = is_outlier[index] ? half((double)x[index]) : zero + scale * level[best];
        }
    }
}

Test(rivals, nuq_is_the_formula)
{
    static const size_t dims[] = {8, 64, 100};
    static const char *const texts[] = {"nuq:2", "nuq:3", "nuq:4"};
    for (size_t d = 0; d < 3; d++)
        for (kvq_role role = KVQ_KEYS; role <= KVQ_VALUES; role++)
            for (size_t b = 0; b < 3; b++) {
                kvq_side s = side_of(texts[b], role, dims[d]);
                fill(dims[d], 11);
                nuq_reference(&s, (size_t)4 << b);
                round_trip(&s);
                check_wanted(texts[b], &s, 1e-5, 1);
            }
}

/* Q-Norm stretches levels around zero by the table's factor and leaves outliers alone. */
Test(rivals, nuq_q_norm)
{
    static float plain[T * 64];
    fill(64, 13);
    kvq_side s = side_of("nuq:2", KVQ_KEYS, 64), with = side_of("nuq:2:qn", KVQ_KEYS, 64);
    round_trip(&s);
    memcpy(plain, xhat, sizeof plain);
    memcpy(other, superblock, s.bytes);
    round_trip(&with);
    cr_assert(memcmp(other, superblock, s.bytes) == 0);
    size_t n_same = 0, zeros = T * 16 + 2 * 64;
    for (size_t i = 0; i < T * 64; i++) {
        double zero = (double)kvq_f32_from_f16(kvq_load_u16(superblock + zeros + 2 * (i % 64)));
        double stretch = ((double)xhat[i] - zero) / ((double)plain[i] - zero);
        n_same += xhat[i] == plain[i];
        cr_assert(xhat[i] == plain[i] || fabs(stretch - 1.0571890770) < 1e-4, "%zu by %g", i, stretch);
    }
    cr_assert(n_same == 82, "%zu outliers", n_same); /* ceil(81.92) */
}

/* ---- All of them ---- */

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

Test(rivals, extremes_stay_finite)
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

Test(rivals, round_trip_is_close)
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

Test(rivals, streams)
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
    kvq_tokens tokens = {.superblock = superblock, .n = T, .sums = KVQ_SUMS_EXACT};
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

Test(rivals, attention_is_over_what_is_read)
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
        superblock[at] = i % 3 == 0 ? 0xff : (uint8_t)(superblock[at] ^ 1u << i % 8);
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

Test(rivals, hostile_bytes)
{
    for_all_sides(check_hostile, 33);
}

Test(rivals, hostile_bytes_by_name)
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
Test(rivals, nuq_indices_ascend)
{
    enum { INDICES = 128 * 16 + 4 * 64 };
    kvq_side s = side_of("nuq:2", KVQ_KEYS, 64);
    fill(64, 43);
    encode(&s);
    kvq_store_u16(superblock + INDICES + 2, kvq_load_u16(superblock + INDICES));
    cr_assert(!kvq_side_is_valid(&s, superblock, T));
}

/* The bytes of a page are the same on every machine and in every run; FNV-1a of those of D = 80. */
Test(rivals, bytes_do_not_change)
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
