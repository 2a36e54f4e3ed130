/* Made-up results for pages: about 60 schemes of ten families on a model of 6 layers, from a seed. The
 * figures follow a plain law (each bit quarters the divergence), so that charts look like charts. */
#ifndef KVQ_TESTS_PAGE_DATA_H
#define KVQ_TESTS_PAGE_DATA_H

#include "eval/common/splitmix.h"
#include "eval/results/results.h"

#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

enum {
    PAGE_LAYERS = 6,
    PAGE_HEADS = 8,
    PAGE_KV_HEADS = 4,
    PAGE_DIM = 32,
    PAGE_TOKENS = 1024,
    PAGE_BLOCKS = 15
};

typedef struct page_scheme {
    const char *text;
    double bits, factor; /* of the divergence, at equal bits */
} page_scheme;

static const page_scheme page_schemes[] = {
    {"fp16", 16.0, 0},
    {"kivi2", 5.1, 30},
    {"kivi3", 6.0, 30},
    {"kivi4", 7.0, 30},
    {"kivi8", 10.5, 20},
    {"kivi2-g64", 4.8, 40},
    {"kivi4-g64", 6.8, 35},
    {"kivi2,r=32", 3.4, 30},
    {"kivi3,r=32", 4.4, 30},
    {"kivi4,r=32", 5.4, 30},
    {"kivi2,r=64", 3.9, 32},
    {"kivi4,r=64", 5.9, 28},
    {"kivi2,s=4", 5.2, 20},
    {"kivi4,s=4", 7.1, 18},
    {"kivi4,s=4,mode=sliding,rtype=f16/i8", 5.6, 9},
    {"kivi2,s=4,mode=sliding,rtype=f16/i8", 3.6, 10},
    {"kvq1.5", 2.6, 1.2},
    {"kvq2", 3.3, 1},
    {"kvq2-fb", 3.35, 0.9},
    {"kvq2.5", 3.8, 0.9},
    {"kvq3", 4.1, 0.9},
    {"kvq4", 5.1, 1.1},
    {"kvq2,s=8", 3.36, 0.98},
    {"kvq2,s=16", 3.5, 0.97},
    {"kvq3,s=16", 4.3, 0.9},
    {"kvq2,r=256", 4.2, 0.95},
    {"kvq2,hh=0", 3.2, 1.5},
    {"kvq2,hh=4", 3.4, 0.95},
    {"kvq4,hh=8", 5.5, 1},
    {"k=tier:1.5,v=rot:2,s=4", 2.9, 1.3},
    {"k=tier:2.5,v=rot:2,s=4", 3.5, 1.1},
    {"k=tier:3,v=rot:3,s=4", 4.3, 1.2},
    {"k=tier:5,v=rot:4,s=4", 5.9, 1.2},
    {"q8_0", 8.9, 4},
    {"q4_0", 5.0, 12},
    {"q4_1", 5.4, 11},
    {"k=turbo:1,v=turbo:1", 2.1, 40},
    {"turbo2-nc", 3.0, 8},
    {"turbo3-nc", 3.9, 8},
    {"turbo4-nc", 4.8, 8},
    {"turbo2", 3.3, 9},
    {"turbo4", 5.2, 7},
    {"kvarn2", 3.1, 5},
    {"kvarn4", 5.0, 6},
    {"k=quarot:2,v=quarot:2", 2.7, 25},
    {"k=quarot:3,v=quarot:3", 3.6, 22},
    {"k=quarot:4,v=quarot:4", 4.7, 20},
    {"k=quarot:8,v=quarot:8", 8.6, 10},
    {"k=nuq:2,v=nuq:2", 2.9, 14},
    {"k=nuq:3,v=nuq:3", 3.9, 12},
    {"k=nuq:4,v=nuq:4", 4.9, 12},
    {"k=f16,v=4", 10.5, 3},
    {"k=4,v=f16", 10.4, 5},
    {"k=8,v=2", 6.6, 6},
    {"k=q8_0,v=q4_0", 6.9, 4},
    {"k=tier:2,v=4", 4.2, 2},
    {"mine:7", 4.6, 5},
    {"rotor-a", 5.7, 3},
    {"k=4@token,v=4@token", 5.1, 60},
};
enum { PAGE_N_SCHEMES = sizeof page_schemes / sizeof page_schemes[0] };

static inline experiment page_experiment(void)
{
    experiment x = {.model = "small-llama",
                    .architecture = "llama",
                    .weights = "q4_1",
                    .model_checksum = UINT64_C(0x123456789abcdef0),
                    .n_params = 134500000,
                    .n_layer = PAGE_LAYERS,
                    .n_head = PAGE_HEADS,
                    .n_kv_head = PAGE_KV_HEADS,
                    .head_dim = PAGE_DIM,
                    .n_embd = 512,
                    .n_ctx = 2048,
                    .vocab_size = 49152,
                    .text = "novel.txt",
                    .bos_id = 1,
                    .n_tokens = PAGE_TOKENS,
                    .n_prompt = PAGE_TOKENS - PAGE_BLOCKS * CELL_BLOCK,
                    .has_quality = true,
                    .precision = "fast",
                    .version = "2.0.0"};
    return x;
}

static inline double page_random(uint64_t *seed) /* about normal */
{
    double sum = -6;
    for (int i = 0; i < 12; i++)
        sum += (double)(splitmix64((*seed)++, 1) >> 11) * 0x1p-53;
    return sum;
}

/* The divergence that a scheme has by the law, before chance. */
static inline double page_law(const page_scheme *s)
{
    return s->factor * 2.0 * pow(4.0, -s->bits);
}

static inline void page_fill_blocks(cell *c, const page_scheme *s, double window, uint64_t *seed)
{
    c->n_blocks = PAGE_BLOCKS;
    c->blocks = calloc(PAGE_BLOCKS, sizeof *c->blocks);
    for (size_t b = 0; b < PAGE_BLOCKS; b++) {
        const double kl = page_law(s) * exp(window + 0.3 * page_random(seed)) * (0.5 + 0.06 * (double)b);
        cell_block *k = &c->blocks[b];
        k->n_steps = k->n_targets = CELL_BLOCK;
        k->n_agree = (uint32_t)(CELL_BLOCK * (1 - fmin(0.9, sqrt(kl) / 2)));
        k->kl = CELL_BLOCK * kl;
        k->nll_fp32 = CELL_BLOCK * 2.9;
        k->nll = k->nll_fp32 + CELL_BLOCK * kl * (0.7 + 0.2 * page_random(seed));
        k->attn_reference = 100;
        k->attn_error = 100 * fmin(kl, 1);
        k->attn_kl = kl * 50;
        k->n_attn = CELL_BLOCK * PAGE_LAYERS * PAGE_HEADS;
        for (int i = 0; i < CELL_BLOCK; i++)
            c->bins[cell_bin(kl * exp(2 * page_random(seed) - 2))]++;
    }
}

static inline void page_fill_heads(cell *c, const page_scheme *s, uint64_t *seed)
{
    c->heads = calloc(PAGE_LAYERS * PAGE_HEADS, sizeof *c->heads);
    for (size_t i = 0; i < PAGE_LAYERS * PAGE_HEADS; i++) {
        cell_head *h = &c->heads[i];
        const double law =
            fmin(page_law(s), 0.3) * exp(0.4 * page_random(seed)) * (1 + (double)(i / PAGE_HEADS));
        h->k_reference = h->attn_reference = 10;
        h->v_reference = 15;
        h->attn_error = law;
        h->n_steps = PAGE_BLOCKS * CELL_BLOCK;
        if (i % (PAGE_HEADS / PAGE_KV_HEADS) != 0) {
            h->k_error = h[-1].k_error;
            h->v_error = h[-1].v_error;
        } else {
            h->k_error = law * 2;
            h->v_error = law * 3;
        }
    }
}

static inline void page_fill_worst(cell *c, const page_scheme *s, size_t window)
{
    static const char *const next[] = {" the",     " <b>",  "\n",  " \"No", " river",
                                       "\xc3\xa9", " && x", "ing", ".",     ""};
    c->n_worst = CELL_N_WORST;
    for (size_t i = 0; i < CELL_N_WORST; i++) {
        cell_worst *w = &c->worst[i];
        w->position = (uint32_t)(100 + 37 * i + window);
        w->kl = page_law(s) * 40 / (double)(i + 1 + window);
        w->next = (int32_t)(1000 + i);
        w->best_fp32 = (int32_t)(1000 + i);
        w->best = (int32_t)(2000 + i);
        snprintf(
            w->context, sizeof w->context,
            "and then, <script>alert(%d)</script> she said & turned,\nwalking along the embankment towards",
            (int)i);
        snprintf(w->next_text, sizeof w->next_text, "%s", next[i]);
        snprintf(w->best_fp32_text, sizeof w->best_fp32_text, "%s", next[i]);
        snprintf(w->best_text, sizeof w->best_text, "%s", next[(i + 3) % 10]);
    }
    c->kld_max = c->worst[0].kl;
    c->kld_p99 = c->kld_max / 4;
}

static inline void page_fill_portrait(cell *c, uint64_t *seed)
{
    cell_portrait *p = &c->portrait;
    *p = (cell_portrait){.layer = 2, .kv_head = 1, .n_rows = CELL_PORTRAIT, .n_columns = PAGE_DIM};
    p->k = calloc(CELL_PORTRAIT * PAGE_DIM, sizeof(float));
    p->v = calloc(CELL_PORTRAIT * PAGE_DIM, sizeof(float));
    for (size_t i = 0; i < CELL_PORTRAIT * PAGE_DIM; i++) {
        const size_t channel = i % PAGE_DIM;
        const double large = channel == 5 || channel == 37 ? 12 : channel % 9 == 0 ? 4 : 1;
        p->k[i] = (float)(large * (1 + 0.2 * fabs(page_random(seed))));
        p->v[i] = (float)(0.3 + 0.3 * fabs(page_random(seed)));
    }
}

static inline cell page_cell(size_t scheme, size_t window, uint64_t seed)
{
    const page_scheme *s = &page_schemes[scheme];
    uint64_t state = seed * 1000003 + scheme * 1009 + window * 13;
    uint64_t shared = seed * 7919 + window; /* what all schemes find hard in this window */
    cell c = {.scheme = strdup(s->text),
              .window = window,
              .ids_checksum = 77 + window,
              .seconds = 1.5,
              .isa = "avx2"};
    page_fill_blocks(&c, s, 0.25 * page_random(&shared), &state);
    page_fill_heads(&c, s, &state);
    page_fill_worst(&c, s, window);
    if (window == 0)
        page_fill_portrait(&c, &state);
    const uint64_t n = (uint64_t)PAGE_TOKENS * 2 * PAGE_LAYERS * PAGE_KV_HEADS * PAGE_DIM;
    c.usage.struct_size = sizeof c.usage;
    c.usage.n_elements = n;
    c.usage.n_packed_elements = n * 3 / 4;
    c.usage.total = (uint64_t)((double)n * s->bits / 8);
    c.usage.payload = c.usage.total / 2;
    c.usage.metadata = c.usage.total / 8;
    c.usage.residual = c.usage.total - c.usage.payload - c.usage.metadata;
    return c;
}

/* Lines of a results file into `f`: every scheme on n_windows windows. */
static inline void page_write_lines(FILE *f, const experiment *x, size_t n_windows, uint64_t seed)
{
    for (size_t s = 0; s < PAGE_N_SCHEMES; s++) {
        for (size_t w = 0; w < n_windows; w++) {
            cell c = page_cell(s, w, seed);
            char *line = results_line(x, &c);
            if (line)
                fputs(line, f);
            free(line);
            cell_clear(&c);
        }
    }
}

#endif
