/*
 * The codecs that are here to be compared with (quant/codec_ggml.c, codec_turbo.c, codec_kvarn.c,
 * codec_quarot.c, codec_nuq.c): golden blocks, their papers' formulas written again in double, bytes as their
 * authors count them. What holds for all of them: test_rivals_all.c.
 */
#include "tests/rivals.h"

static double y[T * MAX_DIM], wanted[T * MAX_DIM];

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
    float levels[16];
    memcpy(levels, s.own, sizeof levels);
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
    float level[16];
    memcpy(level, s.own, sizeof level);
    cr_assert(fabs((double)level[1] - 4 / (3 * 3.14159265358979)) < 1e-7 && level[0] == -level[1]);
    s = side_of("turbo:4", KVQ_KEYS, 3);
    memcpy(level, s.own, sizeof level);
    for (int i = 0; i < 16; i++)
        cr_assert(fabs((double)level[i] - ((2 * i + 1) / 16.0 - 1)) < 1e-6, "level %d is %g", i,
                  (double)level[i]);
    s = side_of("turbo:2", KVQ_KEYS, 1024); /* as good as normal: .4528 and 1.510 */
    memcpy(level, s.own, sizeof level);
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
