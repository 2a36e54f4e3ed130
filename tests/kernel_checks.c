#define _DEFAULT_SOURCE /* mmap's MAP_ANONYMOUS */

#include "tests/kernel_checks.h"

#include <sys/mman.h>
#include <unistd.h>

static void guarded_make(guarded *g, size_t capacity, bool readable_ends)
{
    size_t page = (size_t)sysconf(_SC_PAGESIZE), n = (capacity + page - 1) / page * page;
    int ends = readable_ends ? PROT_READ : PROT_NONE;
    uint8_t *map = mmap(NULL, n + 2 * page, ends, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    cr_assert(map != MAP_FAILED && mprotect(map + page, n, PROT_READ | PROT_WRITE) == 0, "no memory");
    *g = (guarded){.begin = map + page, .end = map + page + n};
}

placing random_placing(rng *generator)
{
    return (placing){.at_end = rng_u64(generator) & 1,
                     .offset = rng_u64(generator) & 1 ? 0 : rng_below(generator, LANES)};
}

void *place(guarded *g, placing at, size_t n, size_t element_bytes)
{
    g->n_bytes = n * element_bytes;
    cr_assert(g->n_bytes + LANES * element_bytes <= (size_t)(g->end - g->begin), "the buffer is too small");
    memset(g->begin, CANARY, (size_t)(g->end - g->begin));
    g->data = at.at_end ? g->end - (at.offset + n) * element_bytes : g->begin + at.offset * element_bytes;
    return g->data;
}

void check_canaries(const guarded *g, const char *what)
{
    for (const uint8_t *p = g->begin; p < g->end; p++)
        cr_assert((p >= g->data && p < g->data + g->n_bytes) || *p == CANARY,
                  "%s: a byte %td before or after the output was written (seed %llu)", what,
                  p < g->data ? g->data - p : p - g->data - (ptrdiff_t)g->n_bytes,
                  (unsigned long long)test_seed());
}

guarded in_a, in_b, out_a, out_b;
rng r;

void kernel_buffers_make(bool readable_ends)
{
    guarded_make(&in_a, sizeof(float) * (T * (MAX_DIM + 40)), readable_ends);
    guarded_make(&in_b, sizeof(float) * (KVQ_ROWS_MAX * KVQ_DIM_MAX + 64), readable_ends);
    guarded_make(&out_a, sizeof(float) * (T * (MAX_DIM + 40)), readable_ends);
    guarded_make(&out_b, sizeof(float) * (T * (MAX_DIM + 40)), readable_ends);
}

float *floats_in(guarded *g, fill_kind kind, size_t n, size_t dim)
{
    float *x = place(g, random_placing(&r), n * dim, sizeof *x);
    fill(&r, kind, x, n, dim);
    return x;
}

uint16_t *halves_in(guarded *g, fill_kind kind, size_t n, size_t dim)
{
    static float x[MAX_LONG + KVQ_DIM_MAX * 64];
    uint16_t *half = place(g, random_placing(&r), n * dim, sizeof *half);
    fill(&r, kind, x, n, dim);
    for (size_t i = 0; i < n * dim; i++)
        half[i] = kvq_f16_from_f32_saturating(x[i]);
    return half;
}

size_t length_of(size_t i)
{
    return i <= MAX_SHORT ? i : 1 + rng_below(&r, MAX_LONG);
}

fill_kind random_fill(void)
{
    return (fill_kind)rng_below(&r, N_FILLS);
}

static const struct {
    const char *isa;
    const word_check *words;
} vocabularies[] = {
    {"portable", NULL}, /* is plain C */
#ifdef KVQ_WORDS_AVX2
    {"avx2", words_avx2},
#endif
#ifdef KVQ_WORDS_AVXVNNI
    {"avxvnni", words_avxvnni},
#endif
#ifdef KVQ_WORDS_AVX512
    {"avx512", words_avx512},   {"avxvnni by avx512", words_avxvnni_by_avx512},
#endif
#ifdef KVQ_WORDS_NEON
    {"neon", words_neon},
#endif
};

void check_words(const char *isa)
{
    size_t i = 0;
    while (i < sizeof vocabularies / sizeof vocabularies[0] && strcmp(vocabularies[i].isa, isa) != 0)
        i++;
    cr_assert(i < sizeof vocabularies / sizeof vocabularies[0], "%s: nothing tests its words", isa);
    for (const word_check *word = vocabularies[i].words; word != NULL && word->word != NULL; word++)
        cr_assert(word->holds(&r), "%s: %s breaks its contract in quant/vector.h (seed %llu)", isa,
                  word->word, (unsigned long long)test_seed());
}

float sum_lanes_by_contract(float lane[LANES])
{
    for (size_t width = LANES / 2; width > 0; width /= 2)
        for (size_t j = 0; j < width; j++)
            lane[j] = single((double)lane[j] + (double)lane[j + width]);
    return lane[0];
}

/* ---- Superblocks ---- */

static const uint32_t all_bits[] = {1, 2, 3, 4, 5, 6, 8};
static const size_t all_groups[] = {16, 32, 64, 128, 0}, all_dims[] = {1, 15, 16, 17, 48, 64, 80, 128, 200};

kvq_layout layout_number(size_t i)
{
    kvq_layout l;
    bool per_channel = i & 1;
    kvq_layout_init(&l, &(kvq_layout_spec){.role = i & 2 ? KVQ_VALUES : KVQ_KEYS,
                                           .bits = all_bits[i / 4 % 7],
                                           .per_channel = per_channel,
                                           .half_arith = rng_u64(&r) & 1,
                                           .group = all_groups[rng_below(&r, per_channel ? 4 : 5)],
                                           .dim = all_dims[i / 28]});
    return l;
}

static fill_kind moderate_fill(void)
{
    return (fill_kind)rng_below(&r, FILL_HUGE);
}

uint8_t *superblock_in(guarded *g, const kvq_layout *l)
{
    uint8_t *sb = place(g, (placing){.at_end = rng_u64(&r) & 1}, l->bytes, 1);
    memset(sb, 0, l->bytes);
    return sb;
}

const uint8_t *encoded_in(guarded *g, const kvq_layout *l)
{
    static float x[T * MAX_DIM];
    uint8_t *sb = superblock_in(g, l);
    fill(&r, moderate_fill(), x, T, l->dim);
    const kvq_kernels *k = &kvq_kernels_portable;
    (l->per_channel ? k->encode_affine_channel : k->encode_affine_token)(l, sb, 0, T, x, l->dim);
    return sb;
}

double value_at(const kvq_layout *l, const uint8_t *sb, size_t t, size_t c)
{
    double scale = (double)kvq_scale_at(l, sb, t, c), min = (double)kvq_min_at(l, sb, t, c);
    double code = kvq_code_get(l, sb, t, c);
    if (!l->half_arith)
        return (double)single(code * scale + min);
    return (double)kvq_round_to_f16(single((double)kvq_round_to_f16(single(code * scale)) + min));
}
