/*
 * The codecs (quant/codec_affine.c, quant/codec_float.c) for every width, group, axis, role and a range of
 * head dimensions: where every bit lies (quant/layout.h), arithmetic against formulas in double, error
 * bounds, streaming, clearing, validation.
 */
#include <criterion/criterion.h>
#include <criterion/parameterized.h>
#include <math.h>
#include <stdio.h>

#include "quant/codec.h"
#include "tests/support.h"

enum { N_BITS = 7, N_GROUPS = 5, N_DIMS = 9, MAX_DIM = 200, T = KVQ_SUPERBLOCK, MAX_BYTES = 128 * 1024 };

static const uint32_t all_bits[N_BITS] = {1, 2, 3, 4, 5, 6, 8};
static const size_t all_groups[N_GROUPS] = {16, 32, 64, 128, 0};
static const size_t all_dims[N_DIMS] = {1, 15, 16, 17, 64, 80, 96, 128, 200};

/* What a test runs over; the rest of the layout it goes through itself. */
typedef struct variant {
    uint32_t bits;
    bool half_arith, per_channel;
    kvq_role role;
} variant;

static _Alignas(KVQ_ALIGNMENT) uint8_t superblock[MAX_BYTES], other[MAX_BYTES];
static float x[T * MAX_DIM], xhat[T * MAX_DIM], bound[T * MAX_DIM];

/* The side under test, whose layout the checks go by. */
static kvq_side side;

/* Make it from what a scheme says of it. */
static void make_side(const char *text, kvq_role role, bool half_arith, size_t dim)
{
    kvq_text t = {.at = text};
    kvq_spec spec = {.codec = kvq_codec_for_text(text, &t.at)};
    cr_assert(spec.codec != NULL && spec.codec->parse(spec.codec, &t, role, spec.parameter) && *t.at == '\0',
              "%s", text);
    const char *problem = kvq_side_init(&side, &spec, &(kvq_common){.half_arith = half_arith}, role, dim);
    cr_assert(problem == NULL, "%s: %s", text, problem);
    cr_assert(side.bytes <= MAX_BYTES && side.bytes % KVQ_ALIGNMENT == 0, "%s, D = %zu: %zu bytes", text, dim,
              side.bytes);
}

static kvq_layout layout_of(const variant *v, size_t group, size_t dim)
{
    char text[KVQ_SIDE_TEXT_MAX];
    kvq_printer p = {.text = text, .size = sizeof text};
    kvq_put_number(&p, "", v->bits);
    kvq_put(&p, v->per_channel ? "@channel" : "@token");
    if (group == 0)
        kvq_put(&p, "/full");
    else
        kvq_put_number(&p, "/", (uint32_t)group);
    make_side(text, v->role, v->half_arith, dim);
    cr_assert_not_null(kvq_side_affine_layout(&side), "%s is the affine codec's", text);
    return *kvq_side_affine_layout(&side);
}

/* What a side says of itself is what its layout is. */
static void check_side(const kvq_layout *l)
{
    cr_assert(side.bytes == l->bytes && side.tokens_per_run == l->tokens_per_run &&
              side.payload_per_run == l->payload_per_token * l->tokens_per_run &&
              side.metadata_per_run == l->metadata_per_run && side.bits == l->bits && side.has_groups &&
              side.per_channel == l->per_channel && (side.group == 0 ? side.dim : side.group) == l->group &&
              side.sliding_step == (side.group == 0 ? KVQ_BLOCK : side.group) && side.evidence == 0 &&
              side.heavy_hitters == 0);
}

/* Call f for every layout of a variant; `index` counts them. */
static void for_each_layout(const variant *v, void (*f)(const kvq_layout *l, size_t index))
{
    for (size_t g = 0; g < N_GROUPS; g++)
        for (size_t d = 0; d < N_DIMS; d++)
            if (all_groups[g] != 0 || !v->per_channel) {
                kvq_layout l = layout_of(v, all_groups[g], all_dims[d]);
                f(&l, g + d);
            }
}

static struct criterion_test_params make_variants(void)
{
    static variant variants[N_BITS * 8];
    for (size_t i = 0; i < N_BITS * 8; i++)
        variants[i] = (variant){.bits = all_bits[i / 8],
                                .half_arith = i & 1,
                                .per_channel = i & 2,
                                .role = i & 4 ? KVQ_VALUES : KVQ_KEYS};
    return cr_make_param_array(variant, variants, N_BITS * 8);
}

static const char *name_of(const kvq_layout *l)
{
    static char name[128];
    (void)snprintf(name, sizeof name, "%s, %u bits, per %s, G = %zu, D = %zu, %s arithmetic",
                   l->role == KVQ_KEYS ? "keys" : "values", (unsigned)l->bits,
                   l->per_channel ? "channel" : "token", l->group, l->dim, l->half_arith ? "half" : "float");
    return name;
}

static void encode(uint8_t *sb, size_t t0, size_t n)
{
    side.codec->encode(&kvq_kernels_portable, &side, sb, t0, n, x + t0 * side.dim, side.dim, NULL);
}

static void encode_fresh(uint8_t *sb, size_t n)
{
    memset(sb, 0, side.bytes);
    encode(sb, 0, n);
}

/* ---- Where the bits lie: layout.h's first comment, written again as one address per bit ---- */

static size_t ceil_div(size_t a, size_t b)
{
    return (a + b - 1) / b;
}

/* Planes by width: {w of the low bits, w of the high bits}. */
static const size_t plane_widths[9][2] = {
    [1] = {1, 0}, [2] = {2, 0}, [3] = {2, 1}, [4] = {4, 0}, [5] = {4, 1}, [6] = {4, 2}, [8] = {8, 0}};

/* The sizes that follow from a variant; D is padded to Dp. */
typedef struct address_plan {
    size_t group, dim, dp, tile, code_bytes_of_plane[2], code_bytes, n_meta, meta_tile_bytes;
} address_plan;

static address_plan plan_of(const variant *v, size_t group, size_t dim)
{
    address_plan p = {.group = group == 0 ? dim : group, .dim = dim, .dp = ceil_div(dim, 16) * 16};
    p.tile = v->role == KVQ_VALUES ? 128 : v->per_channel && p.group > 32 ? p.group : 32;
    for (size_t i = 0; i < 2; i++) { /* of a block for keys, of the superblock for values */
        size_t w = plane_widths[v->bits][i];
        if (w > 0)
            p.code_bytes_of_plane[i] =
                v->role == KVQ_KEYS ? ceil_div(p.dp, 32 / w) * 32 * 4 : p.dp / 16 * 4 * w * 16 * 4;
    }
    p.code_bytes = p.code_bytes_of_plane[0] + p.code_bytes_of_plane[1];
    if (v->role == KVQ_KEYS)
        p.code_bytes *= p.tile / 32;
    p.n_meta = v->per_channel ? p.tile / p.group * p.dp : ceil_div(dim, p.group) * p.tile;
    p.meta_tile_bytes = p.code_bytes + 2 * 2 * p.n_meta;
    return p;
}

/* Bit address, in the superblock, of bit b of the code of (t, c). */
static size_t code_bit(const variant *v, const address_plan *p, size_t t, size_t c, size_t b)
{
    size_t low = plane_widths[v->bits][0], plane = b >= low, w = plane_widths[v->bits][plane], n = 32 / w;
    size_t dword, value, start = plane * p->code_bytes_of_plane[0];
    if (v->role == KVQ_KEYS) {
        dword = c / n * 32 + t % 32;
        value = c % n;
        start += t / p->tile * p->meta_tile_bytes +
                 t % p->tile / 32 * (p->code_bytes_of_plane[0] + p->code_bytes_of_plane[1]);
    } else {
        dword = ((c / 16 * 4 + t / 32) * w + t % 32 / n) * 16 + c % 16;
        value = t % 32 % n;
    }
    return (start + 4 * dword) * 8 + 8 * (value % 4) + w * (value / 4) + (plane ? b - low : b);
}

static size_t scale_byte(const variant *v, const address_plan *p, size_t t, size_t c)
{
    size_t index = v->per_channel ? t % p->tile / p->group * p->dp + c : c / p->group * p->tile + t % p->tile;
    return t / p->tile * p->meta_tile_bytes + p->code_bytes + 2 * index;
}

static void claim(const kvq_layout *l, uint8_t *taken, size_t bit)
{
    cr_assert(bit < 8 * l->bytes, "%s: bit %zu is outside", name_of(l), bit);
    cr_assert((taken[bit / 8] >> bit % 8 & 1) == 0, "%s: bit %zu is used twice", name_of(l), bit);
    taken[bit / 8] |= (uint8_t)(1u << bit % 8);
}

/* Every bit of every code, scale and minimum has its own place, and it is the documented one. */
static void check_places(const variant *v, const kvq_layout *l, const address_plan *p)
{
    uint8_t *taken = other;
    memset(taken, 0, l->bytes);
    for (size_t t = 0; t < T; t++)
        for (size_t c = 0; c < l->dim; c++) {
            for (size_t b = 0; b < l->bits; b++) {
                size_t bit = code_bit(v, p, t, c, b);
                claim(l, taken, bit);
                cr_assert((kvq_code_get(l, superblock, t, c) >> b & 1) ==
                              (superblock[bit / 8] >> bit % 8 & 1),
                          "%s: bit %zu of (%zu, %zu) is not at %zu", name_of(l), b, t, c, bit);
            }
            size_t at = scale_byte(v, p, t, c);
            bool first = (v->per_channel ? t : c) % l->group == 0;
            cr_assert(kvq_scale_offset(l, t, c) == at, "%s: scale of (%zu, %zu)", name_of(l), t, c);
            cr_assert(l->min_offset == 2 * p->n_meta, "%s: minimums", name_of(l));
            for (size_t b = 0; first && b < 16; b++) {
                claim(l, taken, 8 * at + b);
                claim(l, taken, 8 * (at + l->min_offset) + b);
            }
        }
}

static void check_layout(const variant *v, size_t group, size_t dim)
{
    kvq_layout l = layout_of(v, group, dim);
    address_plan p = plan_of(v, group, dim);
    size_t used = T / p.tile * p.meta_tile_bytes;
    cr_assert(l.bytes == ceil_div(used, 64) * 64, "%s: %zu bytes, %zu used", name_of(&l), l.bytes, used);
    cr_assert(T * l.payload_per_token + T / l.tokens_per_run * l.metadata_per_run == used,
              "%s: payload and metadata are not the %zu bytes used", name_of(&l), used);
    cr_assert(l.tokens_per_run == (v->per_channel ? group : 1), "%s: run", name_of(&l));
    check_side(&l);
    /* Reading through random bytes shows which bits a code is made of; writing must touch no other. */
    rng r = rng_make(800 + dim);
    for (size_t i = 0; i < l.bytes; i++)
        superblock[i] = (uint8_t)rng_u64(&r);
    check_places(v, &l, &p);
    memset(superblock, 0, l.bytes);
    static uint8_t codes[T * MAX_DIM];
    for (size_t i = 0; i < T * dim; i++) {
        codes[i] = (uint8_t)rng_below(&r, 1u << l.bits);
        kvq_code_put(&l, superblock, i / dim, i % dim, 0xff); /* must leave no trace */
        kvq_code_put(&l, superblock, i / dim, i % dim, codes[i]);
    }
    for (size_t i = 0; i < T * dim; i++)
        cr_assert(kvq_code_get(&l, superblock, i / dim, i % dim) == codes[i], "%s: put and get (%zu, %zu)",
                  name_of(&l), i / dim, i % dim);
    for (size_t t = 0; t < T; t++)
        for (size_t c = 0; c < dim; c++)
            cr_assert(kvq_load_u16(superblock + kvq_scale_offset(&l, t, c)) == 0 &&
                          kvq_load_u16(superblock + kvq_scale_offset(&l, t, c) + l.min_offset) == 0,
                      "%s: writing codes touched the scale or minimum of (%zu, %zu)", name_of(&l), t, c);
}

ParameterizedTestParameters(codec, every_bit_has_its_place)
{
    return make_variants();
}

ParameterizedTest(variant *v, codec, every_bit_has_its_place)
{
    for (size_t g = 0; g < N_GROUPS; g++)
        for (size_t d = 0; d < N_DIMS && !v->half_arith; d++) /* the arithmetic changes no layout */
            if (all_groups[g] != 0 || !v->per_channel)
                check_layout(v, all_groups[g], all_dims[d]);
}

/*
 * Two bits by hand, D = 16. The codes of a dword are these 16 numbers plus a shift, modulo 4:
 *   3 0 1 2  0 2 3 1  1 1 0 3  2 3 2 0
 * Value 4k + j lies at bits 8j + 2k, so byte j holds numbers j, 4 + j, 8 + j, 12 + j from its low bits up.
 * Shift 0, byte 0: 3, 0, 1, 2 = 3 + 0*4 + 1*16 + 2*64 = 0x93.  Byte 1: 0, 2, 1, 3 = 0xd8, and so on.
 */
static const uint8_t hand_numbers[16] = {3, 0, 1, 2, 0, 2, 3, 1, 1, 1, 0, 3, 2, 3, 2, 0};
static const uint8_t hand_dwords[4][4] = {{0x93, 0xd8, 0x8d, 0x36},  /* shift 0 */
                                          {0xe4, 0x2d, 0xd2, 0x4b},  /* shift 1 */
                                          {0x39, 0x72, 0x27, 0x9c},  /* shift 2 */
                                          {0x4e, 0x87, 0x78, 0xe1}}; /* shift 3 */

Test(codec, two_bit_keys_by_hand)
{
    /* Channel c holds c/4 - 1 + code/2: minimum c/4 - 1, scale 1/2. Token t has shift t. A block of 32 tokens
     * is dword (0, t) for t = 0..31, 16 scales, 16 minimums; a superblock is four of them. */
    static const uint16_t mins[16] = {0xbc00, 0xba00, 0xb800, 0xb400, 0x0000, 0x3400, 0x3800, 0x3a00,
                                      0x3c00, 0x3d00, 0x3e00, 0x3f00, 0x4000, 0x4080, 0x4100, 0x4180};
    const variant v = {.bits = 2, .per_channel = true, .role = KVQ_KEYS};
    for (int half_arith = 0; half_arith < 2; half_arith++) {
        kvq_layout l = layout_of(&(variant){2, half_arith, v.per_channel, v.role}, 32, 16);
        cr_assert(l.bytes == 48 * 16);
        for (size_t t = 0; t < T; t++)
            for (size_t c = 0; c < 16; c++)
                x[t * 16 + c] = (float)c / 4 - 1 + (float)((hand_numbers[c] + t) % 4) / 2;
        encode_fresh(superblock, T);
        for (size_t block = 0; block < 4; block++) {
            const uint8_t *at = superblock + block * (32 * 4 + 16 * 4);
            for (size_t t = 0; t < 32; t++, at += 4)
                cr_assert(memcmp(at, hand_dwords[t % 4], 4) == 0, "block %zu, token %zu", block, t);
            for (size_t c = 0; c < 16; c++, at += 2)
                cr_assert(at[0] == 0x00 && at[1] == 0x38, "block %zu, scale %zu", block, c);
            for (size_t c = 0; c < 16; c++, at += 2)
                cr_assert(at[0] == (mins[c] & 0xff) && at[1] == mins[c] >> 8, "block %zu, min %zu", block, c);
        }
    }
}

Test(codec, two_bit_values_by_hand)
{
    /* Token t holds s * code - s, where s = 1 for even t and 2 for odd t; the code is hand_numbers[t % 16]
     * plus shift c + t/16. Dword (0, block, h, lane) holds tokens 32 block + 16 h + 0..15 of channel `lane`:
     * shift lane + 2 block + h. Then 128 scales and 128 minimums. */
    const variant v = {.bits = 2, .per_channel = false, .role = KVQ_VALUES};
    kvq_layout l = layout_of(&v, 32, 16);
    cr_assert(l.bytes == 512 + 2 * 256);
    for (size_t t = 0; t < T; t++)
        for (size_t c = 0; c < 16; c++) {
            float s = t % 2 == 0 ? 1 : 2;
            x[t * 16 + c] = s * (float)((hand_numbers[t % 16] + c + t / 16) % 4) - s;
        }
    encode_fresh(superblock, T);
    const uint8_t *at = superblock;
    for (size_t block = 0; block < 4; block++)
        for (size_t h = 0; h < 2; h++)
            for (size_t lane = 0; lane < 16; lane++, at += 4)
                cr_assert(memcmp(at, hand_dwords[(lane + 2 * block + h) % 4], 4) == 0,
                          "dword (0, %zu, %zu, %zu)", block, h, lane);
    for (size_t t = 0; t < T; t++, at += 2)
        cr_assert(at[0] == 0x00 && at[1] == (t % 2 == 0 ? 0x3c : 0x40), "scale %zu", t);
    for (size_t t = 0; t < T; t++, at += 2)
        cr_assert(at[0] == 0x00 && at[1] == (t % 2 == 0 ? 0xbc : 0xc0), "min %zu", t);
}

/* ---- The arithmetic again, from the table in codec_affine.c, in double ---- */

/* Distance of the halves around y: 11 significant bits, but never finer than 2^-24. */
static double half_unit(double y)
{
    int exponent;
    (void)frexp(y, &exponent);
    return ldexp(1, exponent - 11 < -24 || y == 0 ? -24 : exponent - 11);
}

static double saturate(double y)
{
    return fmax(-65504, fmin(y, 65504));
}

static double half(double y)
{
    return saturate(rint(y / half_unit(y)) * half_unit(y));
}

static double half_down(double y)
{
    return saturate(floor(y / half_unit(y)) * half_unit(y));
}

static double half_up(double y)
{
    return saturate(ceil(y / half_unit(y)) * half_unit(y));
}

/* Single operations of float: double has more than twice its bits, so rounding twice does no harm. */
static double single(double y)
{
    return (double)(float)y;
}

typedef struct group_params {
    double scale, min;
} group_params;

static group_params params_of(const kvq_layout *l, double lo, double hi)
{
    double levels = ldexp(1, (int)l->bits) - 1;
    if (l->half_arith)
        return (group_params){.scale = half(half(half(hi) - half(lo)) / levels), .min = half(lo)};
    double min = half_down(lo);
    /* hi < min happens below -65504, where min saturates; a scale is never negative */
    return (group_params){.scale = half_up(fmax(0, single(single(hi - min) / levels))), .min = min};
}

/*
 * The codes that are right for a value: one, or in the default arithmetic two, if the value is too close to
 * the middle between them for float to see the side. Float takes t = (x - min) * (1/scale) in three
 * roundings, so it is off by at most (1 + 2^-24)^3 - 1 < 3.01 * 2^-24 of t.
 */
static void codes_of(const kvq_layout *l, group_params g, double value, double *low, double *high)
{
    double levels = ldexp(1, (int)l->bits) - 1;
    *low = *high = 0;
    if (g.scale == 0)
        return;
    double t = l->half_arith ? half(half(half(value) - g.min) / g.scale) : (value - g.min) / g.scale;
    double slack = l->half_arith ? 0 : 3.01 * 0x1p-24 * fabs(t);
    *low = rint(fmax(0, fmin(t - slack, levels)));
    *high = rint(fmax(0, fmin(t + slack, levels)));
}

static double value_of(const kvq_layout *l, group_params g, double code)
{
    return l->half_arith ? half(half(code * g.scale) + g.min) : single(code * g.scale + g.min);
}

/* The group that starts at (t, c): its tokens and channels. */
static void group_of(const kvq_layout *l, size_t t, size_t c, size_t *t_end, size_t *c_end)
{
    *t_end = l->per_channel ? t + l->group : t + 1;
    *c_end = l->per_channel ? c + 1 : c + l->group;
    *c_end = *c_end < l->dim ? *c_end : l->dim;
}

/* What was stored for one group of the data in x, against the formulas. */
static void check_group(const kvq_layout *l, const char *what, size_t t0, size_t c0)
{
    size_t t1, c1;
    double lo = INFINITY, hi = -INFINITY;
    group_of(l, t0, c0, &t1, &c1);
    for (size_t t = t0; t < t1; t++)
        for (size_t c = c0; c < c1; c++) {
            lo = fmin(lo, (double)x[t * l->dim + c]);
            hi = fmax(hi, (double)x[t * l->dim + c]);
        }
    group_params g = params_of(l, lo, hi);
    double scale = (double)kvq_scale_at(l, superblock, t0, c0),
           min = (double)kvq_min_at(l, superblock, t0, c0);
    cr_assert(scale == g.scale && min == g.min,
              "%s, %s: group (%zu, %zu) of [%a, %a]: scale %a, min %a, not %a, %a", name_of(l), what, t0, c0,
              lo, hi, scale, min, g.scale, g.min);
    for (size_t t = t0; t < t1; t++)
        for (size_t c = c0; c < c1; c++) {
            double value = (double)x[t * l->dim + c], low, high, code = kvq_code_get(l, superblock, t, c);
            double decoded = (double)xhat[t * l->dim + c], e = (double)bound[t * l->dim + c];
            codes_of(l, g, value, &low, &high);
            cr_assert(code == low || code == high, "%s, %s: (%zu, %zu) %a: code %g, not %g", name_of(l), what,
                      t, c, value, code, low);
            cr_assert(decoded == value_of(l, g, code), "%s, %s: (%zu, %zu) decodes to %a, not %a", name_of(l),
                      what, t, c, decoded, value_of(l, g, code));
            cr_assert(fabs(value - decoded) <= e, "%s, %s: (%zu, %zu) |%a - %a| > %a", name_of(l), what, t, c,
                      value, decoded, e);
            /* Something must be promised where half is far from its ends. */
            cr_assert(isfinite(e) || fmax(fabs(lo), fabs(hi)) > 16000, "%s, %s: (%zu, %zu) has no bound",
                      name_of(l), what, t, c);
        }
}

static void check_fill(const kvq_layout *l, fill_kind kind, uint64_t stream)
{
    rng r = rng_make(stream);
    fill(&r, kind, x, T, l->dim);
    encode_fresh(superblock, T);
    kvq_side_read(&kvq_kernels_portable, &side, superblock, 0, T, xhat, l->dim);
    kvq_side_error_bound(&side, superblock, 0, T, bound, l->dim);
    for (size_t t = 0; t < T; t += l->per_channel ? l->group : 1)
        for (size_t c = 0; c < l->dim; c += l->per_channel ? 1 : l->group)
            check_group(l, fill_names[kind], t, c);
    cr_assert(kvq_side_is_valid(&side, superblock, T), "%s, %s: an encoder wrote this", name_of(l),
              fill_names[kind]);
}

/* Two fills each: over the dimensions of a variant every fill has its turn with every group. */
static void check_arithmetic(const kvq_layout *l, size_t index)
{
    for (size_t i = 0; i < 2; i++)
        check_fill(l, (fill_kind)((2 * index + i) % N_FILLS), 100 + index);
}

ParameterizedTestParameters(codec, affine_follows_its_formulas_and_bound)
{
    return make_variants();
}

ParameterizedTest(variant *v, codec, affine_follows_its_formulas_and_bound)
{
    for_each_layout(v, check_arithmetic);
}

/* ---- Constant and saturated groups ---- */

static void check_constant(float value, bool half_arith, bool is_half)
{
    variant v = {.bits = 2, .half_arith = half_arith, .per_channel = true, .role = KVQ_KEYS};
    kvq_layout l = layout_of(&v, 32, 16);
    for (size_t i = 0; i < T * l.dim; i++)
        x[i] = value;
    encode_fresh(superblock, T);
    kvq_side_read(&kvq_kernels_portable, &side, superblock, 0, T, xhat, l.dim);
    kvq_side_error_bound(&side, superblock, 0, T, bound, l.dim);
    for (size_t t = 0; t < T; t++)
        for (size_t c = 0; c < l.dim; c++) {
            float min = kvq_min_at(&l, superblock, t, c), scale = kvq_scale_at(&l, superblock, t, c);
            float got = xhat[t * l.dim + c];
            if (is_half || half_arith) {
                cr_assert(scale == 0.0f && kvq_code_get(&l, superblock, t, c) == 0, "constant %a has a scale",
                          (double)value);
                cr_assert(got == min, "constant %a: %a is not the minimum %a", (double)value, (double)got,
                          (double)min);
            }
            cr_assert(!is_half || got == value, "constant half %a became %a", (double)value, (double)got);
            cr_assert(fabs((double)got - (double)value) <= (double)bound[t * l.dim + c],
                      "constant %a became %a, past its bound", (double)value, (double)got);
        }
}

Test(codec, constant_groups)
{
    const float halves[] = {0.0f, 1.0f, -0.25f, 0x1p-24f, -0x1.ff8p-15f, 1023.5f, 65504.0f};
    const float others[] = {0.1f, -0.1f, 1e-9f, -1e-9f, 1000.1f, -3.14159f, 65503.0f};
    for (size_t i = 0; i < 7; i++)
        for (int half_arith = 0; half_arith < 2; half_arith++) {
            check_constant(halves[i], half_arith, true);
            check_constant(others[i], half_arith, false);
        }
}

/* Groups with one end or both past the range of half: nothing becomes Inf, and what bound there is holds. */
static void check_beyond(uint32_t bits, bool half_arith, float lo, float hi)
{
    variant v = {.bits = bits, .half_arith = half_arith, .per_channel = true, .role = KVQ_KEYS};
    kvq_layout l = layout_of(&v, 16, 1);
    for (size_t t = 0; t < T; t++)
        x[t] = t % 16 == 0 ? lo : t % 16 == 1 ? hi : lo + (hi - lo) * (float)(t % 16) / 16;
    encode_fresh(superblock, T);
    kvq_side_read(&kvq_kernels_portable, &side, superblock, 0, T, xhat, 1);
    kvq_side_error_bound(&side, superblock, 0, T, bound, 1);
    cr_assert(kvq_side_is_valid(&side, superblock, T), "%s: in [%g, %g] wrote what is not valid", name_of(&l),
              (double)lo, (double)hi);
    for (size_t t = 0; t < T; t++) {
        cr_assert(isfinite(xhat[t]), "%s: %a became %a", name_of(&l), (double)x[t], (double)xhat[t]);
        cr_assert(fabs((double)x[t] - (double)xhat[t]) <= (double)bound[t],
                  "%s: in [%g, %g] %g became %g, past its bound %g", name_of(&l), (double)lo, (double)hi,
                  (double)x[t], (double)xhat[t], (double)bound[t]);
    }
}

static void check_all_beyond(bool half_arith)
{
    const float lows[] = {-3e38f, -131008, -70000, -65520, -65504, -40000, -16,
                          0,      10,      1000,   20000,  65504,  65520,  1e30f};
    const float highs[] = {-70000, 0,     100,   40000,  65503, 65504, 65519,
                           65520,  66000, 70000, 131008, 2e7f,  1e30f, 3e38f};
    for (size_t b = 0; b < N_BITS; b++)
        for (size_t i = 0; i < sizeof lows / sizeof lows[0]; i++)
            for (size_t j = 0; j < sizeof highs / sizeof highs[0]; j++)
                if (lows[i] <= highs[j] && highs[j] - lows[i] <= 3e38f)
                    check_beyond(all_bits[b], half_arith, lows[i], highs[j]);
    for (size_t b = 0; b < N_BITS; b++) /* the top saturates, but how far depends on how the scale rounds */
        for (float lo = 0; lo < 4096; lo += 4)
            check_beyond(all_bits[b], half_arith, lo, 70000);
}

Test(codec, groups_beyond_half)
{
    check_all_beyond(false);
}

Test(codec, groups_beyond_half_in_parity_arithmetic)
{
    check_all_beyond(true);
}

/* ---- Streaming, clearing, validating ---- */

static void check_streaming(const kvq_layout *l, size_t index)
{
    rng r = rng_make(200 + index);
    fill(&r, FILL_OFFSETS, x, T, l->dim);
    encode_fresh(superblock, T);
    memset(other, 0, l->bytes);
    size_t run = l->tokens_per_run;
    for (size_t n, t = 0; t < T; t += n) { /* runs of one, two and three */
        n = run * (1 + rng_below(&r, 3));
        n = n < T - t ? n : T - t;
        encode(other, t, n);
    }
    cr_assert(same_bits(name_of(l), other, superblock, l->bytes), "encoded piece by piece");
    for (size_t n = 0; n <= T; n += run * (1 + rng_below(&r, 96 / run + 1))) {
        memcpy(other, superblock, l->bytes);
        kvq_side_clear(&side, other, n);
        static _Alignas(KVQ_ALIGNMENT) uint8_t fresh[MAX_BYTES];
        encode_fresh(fresh, n);
        cr_assert(same_bits(name_of(l), other, fresh, l->bytes), "cleared from token %zu on", n);
        cr_assert(kvq_side_is_valid(&side, fresh, n), "%s: %zu tokens are valid", name_of(l), n);
    }
}

ParameterizedTestParameters(codec, streaming_equals_one_shot_and_clear_undoes)
{
    return make_variants();
}

ParameterizedTest(variant *v, codec, streaming_equals_one_shot_and_clear_undoes)
{
    for_each_layout(v, check_streaming);
}

/* Only the tokens named are written: encode into a superblock of ones and compare the rest. */
static void check_untouched(const kvq_layout *l, size_t index)
{
    rng r = rng_make(300 + index);
    fill(&r, FILL_NORMAL, x, T, l->dim);
    size_t run = l->tokens_per_run, t0 = rng_below(&r, T / run) * run, n = run;
    encode_fresh(other, T);
    memset(superblock, 0xff, l->bytes);
    encode(superblock, t0, n);
    for (size_t t = 0; t < T; t++)
        for (size_t c = 0; c < l->dim; c++) {
            bool written = t >= t0 && t < t0 + n;
            uint32_t wanted = written ? kvq_code_get(l, other, t, c) : (1u << l->bits) - 1;
            size_t at = kvq_scale_offset(l, t, c);
            uint16_t scale = written ? kvq_load_u16(other + at) : 0xffff;
            cr_assert(kvq_code_get(l, superblock, t, c) == wanted && kvq_load_u16(superblock + at) == scale,
                      "%s: encoding [%zu, +%zu) touched or missed (%zu, %zu)", name_of(l), t0, n, t, c);
        }
}

ParameterizedTestParameters(codec, encode_writes_its_tokens_only)
{
    return make_variants();
}

ParameterizedTest(variant *v, codec, encode_writes_its_tokens_only)
{
    for_each_layout(v, check_untouched);
}

static void expect_invalid(const kvq_layout *l, size_t n, const char *why)
{
    cr_assert(!kvq_side_is_valid(&side, superblock, n), "%s, %zu tokens: accepts %s", name_of(l), n, why);
}

static void check_validation(const kvq_layout *l, size_t index)
{
    static const uint16_t bad_scales[] = {0x7c00, 0x7e00, 0x7c01, 0xfc00, 0xffff, 0x8001, 0xbc00},
                          bad_mins[] = {0x7c00, 0x7c01, 0x7fff, 0xfc00, 0xfe00};
    rng r = rng_make(400 + index);
    fill(&r, FILL_NORMAL, x, T, l->dim);
    encode_fresh(superblock, T);
    size_t t = rng_below(&r, T), c = rng_below(&r, l->dim), at = kvq_scale_offset(l, t, c);
    uint16_t scale = kvq_load_u16(superblock + at), min = kvq_load_u16(superblock + at + l->min_offset);
    for (size_t i = 0; i < sizeof bad_scales / sizeof bad_scales[0]; i++) {
        kvq_store_u16(superblock + at, bad_scales[i]);
        expect_invalid(l, T, "a scale that is not finite or negative");
    }
    kvq_store_u16(superblock + at, scale);
    for (size_t i = 0; i < sizeof bad_mins / sizeof bad_mins[0]; i++) {
        kvq_store_u16(superblock + at + l->min_offset, bad_mins[i]);
        expect_invalid(l, T, "a minimum that is not finite");
    }
    kvq_store_u16(superblock + at + l->min_offset, min);
    cr_assert(kvq_side_is_valid(&side, superblock, T), "%s: put back", name_of(l));

    size_t n = t / l->tokens_per_run * l->tokens_per_run; /* a count that leaves token t out */
    encode_fresh(superblock, n);
    cr_assert(kvq_side_is_valid(&side, superblock, n), "%s: %zu tokens", name_of(l), n);
    kvq_code_put(l, superblock, t, c, 1u << rng_below(&r, l->bits));
    expect_invalid(l, n, "a code past the last token");
    kvq_code_put(l, superblock, t, c, 0);
    kvq_store_u16(superblock + at, 1);
    expect_invalid(l, n, "a scale past the last token");
    kvq_store_u16(superblock + at, 0);
    kvq_store_u16(superblock + at + l->min_offset, 1);
    expect_invalid(l, n, "a minimum past the last token");
}

ParameterizedTestParameters(codec, validation_finds_what_no_encoder_writes)
{
    return make_variants();
}

ParameterizedTest(variant *v, codec, validation_finds_what_no_encoder_writes)
{
    for_each_layout(v, check_validation);
}

/* ---- f32 and f16 ---- */

static void check_plain(const char *codec, size_t element_bytes, size_t dim, fill_kind kind)
{
    rng r = rng_make(500 + dim);
    make_side(codec, KVQ_KEYS, false, dim);
    cr_assert(side.bytes == T * dim * element_bytes && side.payload_per_run == dim * element_bytes &&
                  side.metadata_per_run == 0 && side.tokens_per_run == 1 && side.sliding_step == 1 &&
                  side.bits == 8 * element_bytes && !side.has_groups && !side.folds && side.evidence == 0,
              "%s, D = %zu: sizes", codec, dim);
    cr_assert(kvq_side_affine_layout(&side) == NULL);
    fill(&r, kind, x, T, dim);
    encode_fresh(superblock, T);
    memset(other, 0, side.bytes);
    for (size_t t = 0; t < T; t++)
        encode(other, t, 1);
    cr_assert(same_bits(codec, other, superblock, side.bytes), "D = %zu: token by token", dim);
    kvq_side_read(&kvq_kernels_portable, &side, superblock, 0, T, xhat, dim);
    kvq_side_error_bound(&side, superblock, 0, T, bound, dim);
    for (size_t i = 0; i < T * dim; i++) {
        double value = (double)x[i], got = (double)xhat[i], wanted = element_bytes == 4 ? value : half(value);
        cr_assert(got == wanted, "%s, %s: %a became %a, not %a", codec, fill_names[kind], value, got, wanted);
        cr_assert(fabs(value - got) <= (double)bound[i], "%s, %s: |%a - %a| > %a", codec, fill_names[kind],
                  value, got, (double)bound[i]);
        cr_assert(isfinite(bound[i]) || fabs(value) >= 65488, "%s, %s: %a has no bound", codec,
                  fill_names[kind], value);
    }
    size_t n = rng_below(&r, T);
    cr_assert(kvq_side_is_valid(&side, superblock, T), "%s: an encoder wrote this", codec);
    kvq_side_clear(&side, superblock, n);
    encode_fresh(other, n);
    cr_assert(same_bits(codec, superblock, other, side.bytes), "D = %zu: cleared from %zu on", dim, n);
    cr_assert(kvq_side_is_valid(&side, superblock, n), "%s: %zu tokens", codec, n);
}

Test(codec, plain_codecs_keep_values)
{
    for (size_t d = 0; d < N_DIMS; d++)
        for (fill_kind kind = 0; kind < N_FILLS; kind++) {
            check_plain("f32", 4, all_dims[d], kind);
            check_plain("f16", 2, all_dims[d], kind);
        }
}

Test(codec, plain_validation_finds_what_no_encoder_writes)
{
    rng r = rng_make(600);
    for (size_t d = 0; d < N_DIMS; d++)
        for (size_t element_bytes = 2; element_bytes <= 4; element_bytes += 2) {
            make_side(element_bytes == 4 ? "f32" : "f16", KVQ_VALUES, false, all_dims[d]);
            size_t n = 1 + rng_below(&r, T - 1);
            fill(&r, FILL_NORMAL, x, T, side.dim);
            encode_fresh(superblock, n);
            size_t last_byte = rng_below(&r, n * side.dim) * element_bytes + element_bytes - 1;
            uint8_t kept[2] = {superblock[last_byte - 1], superblock[last_byte]};
            for (int sign = 0; sign < 2; sign++) { /* all exponent bits of either type set: Inf or NaN */
                superblock[last_byte] = (uint8_t)(0x7f | sign << 7);
                superblock[last_byte - 1] |= 0x80;
                cr_assert(!kvq_side_is_valid(&side, superblock, n), "%s: accepts Inf or NaN",
                          side.codec->name);
            }
            memcpy(superblock + last_byte - 1, kept, 2);
            cr_assert(kvq_side_is_valid(&side, superblock, n), "%s: put back", side.codec->name);
            superblock[n * side.payload_per_run + rng_below(&r, (T - n) * side.payload_per_run)] = 1;
            cr_assert(!kvq_side_is_valid(&side, superblock, n), "%s: accepts bytes past the last token",
                      side.codec->name);
        }
}

/*
 * score and accumulate through the codec, which picks kernels and strides. A float sum of n products has an
 * error of at most (n + 1) 2^-24 of the sum of magnitudes in any order, first order; 2^-23 leaves room.
 */
static void check_plain_attention(const char *codec, size_t dim)
{
    enum { N_Q = 3 };
    rng r = rng_make(700 + dim);
    static float q[N_Q * MAX_DIM], scores[N_Q * T], p[N_Q * T], acc[N_Q * MAX_DIM];
    make_side(codec, KVQ_KEYS, false, dim);
    size_t n = 1 + rng_below(&r, T);
    kvq_tokens tokens = {.superblock = superblock, .n = n, .sums = (kvq_sums)rng_below(&r, 3)};
    fill(&r, FILL_OFFSETS, x, T, dim);
    fill(&r, FILL_NORMAL, q, N_Q, dim);
    fill(&r, FILL_NORMAL, p, N_Q, T);
    float score_rms_error[N_Q], error[N_Q] = {0};
    kvq_score_counts counts = {0};
    memset(acc, 0, sizeof acc);
    encode_fresh(superblock, T);
    kvq_side_read(&kvq_kernels_portable, &side, superblock, 0, T, xhat, dim);
    kvq_side_score(&kvq_kernels_portable, &side, &tokens, q, N_Q, scores, score_rms_error, &counts);
    kvq_side_accumulate(&kvq_kernels_portable, &side, &tokens, p, N_Q, score_rms_error,
                        &(kvq_sum_rows){.plain = acc, .packed = acc, .error = error});
    for (size_t i = 0; i < N_Q; i++) {
        for (size_t j = 0; j < n; j++) {
            double sum = 0, magnitude = 0;
            for (size_t c = 0; c < dim; c++) {
                double term = (double)q[i * dim + c] * (double)xhat[j * dim + c];
                sum += term;
                magnitude += fabs(term);
            }
            cr_assert(fabs((double)scores[i * T + j] - sum) <= (double)(dim + 1) * 0x1p-23 * magnitude,
                      "%s, D = %zu: score of query %zu, token %zu", codec, dim, i, j);
        }
        for (size_t c = 0; c < dim; c++) {
            double sum = 0, magnitude = 0;
            for (size_t j = 0; j < n; j++) {
                double term = (double)p[i * T + j] * (double)xhat[j * dim + c];
                sum += term;
                magnitude += fabs(term);
            }
            cr_assert(fabs((double)acc[i * dim + c] - sum) <= (double)(n + 1) * 0x1p-23 * magnitude,
                      "%s, D = %zu: output %zu, channel %zu", codec, dim, i, c);
        }
    }
}

Test(codec, plain_codecs_score_and_accumulate)
{
    for (size_t d = 0; d < N_DIMS; d++) {
        check_plain_attention("f32", all_dims[d]);
        check_plain_attention("f16", all_dims[d]);
    }
}
