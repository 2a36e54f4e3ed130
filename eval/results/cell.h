/* A cell: what one scheme costs on one window, as sums from which every figure, its uncertainty and every
 * picture is made. Cells of the same experiment add up: windows can be measured in any order, on any machine.
 */
#ifndef KVQ_EVAL_RESULTS_CELL_H
#define KVQ_EVAL_RESULTS_CELL_H

#include "lib/kvq.h"

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

enum {
    CELL_BLOCK = 64,   /* consecutive counted steps that make a block; a window's last block may be shorter */
    CELL_N_WORST = 10, /* tokens with the largest divergence that a cell remembers */
    CELL_N_BINS = 40,  /* of the histogram of next-token divergences: four a decade from 1e-8 nats on */
    CELL_CONTEXT = 160,  /* bytes of text around a worst token */
    CELL_PORTRAIT = 128, /* rows that a portrait has at most */
};

/* What all cells that may be compared or added up have in common. Plain data. */
typedef struct experiment {
    char model[256]; /* name */
    char architecture[32];
    char weights[64];        /* types of the weights */
    uint64_t model_checksum; /* of the weights, or of a recording's file; 0 where there is none */
    uint64_t n_params;       /* 0: unknown */
    size_t n_layer, n_head, n_kv_head, head_dim, n_embd, n_ctx, vocab_size;
    size_t attn_window, n_layer_windowed; /* layers with sliding-window attention; 0 if none */
    char text[256];                       /* name */
    int32_t bos_id;                       /* what each window begins with; -1: with the text */
    size_t n_tokens, n_prompt;            /* of each window */
    bool append_only, has_quality, kv_only;
    char precision[8]; /* fast or exact */
    uint64_t seed;     /* of random weights; 0 otherwise */
    char version[16];  /* of the library */
} experiment;

/* Sums over a block of consecutive counted steps: block i holds steps n_prompt + i * CELL_BLOCK and on. */
typedef struct cell_block {
    uint32_t n_steps;
    uint32_t n_targets; /* of them, those whose next token lies in the window */
    uint32_t n_agree;   /* steps whose most likely token is fp32's */
    double kl;          /* KL(fp32 || scheme) of the next token, nats */
    double nll;         /* of the tokens that follow, nats */
    double nll_fp32;
    double attn_error, attn_reference; /* squared differences and squares of attention's output */
    double attn_kl;                    /* KL of the attention's probabilities */
    uint64_t n_attn;                   /* steps times layers times query heads that attn_kl sums over */
} cell_block;

/* Sums of one query head of one layer (keys and values are those of the KV head that serves it). */
typedef struct cell_head {
    double k_error, k_reference, v_error, v_reference, attn_error, attn_reference;
    double attn_kl;
    uint64_t n_steps;
} cell_head;

/* A token at whose place the distributions differ much. Text is UTF-8, "" where there is no tokenizer. */
typedef struct cell_worst {
    uint32_t position; /* of the last token seen, within the window */
    double kl;
    int32_t next, best_fp32, best; /* ids: what follows (-1: nothing), what both expect */
    char context[CELL_CONTEXT];    /* the text up to and with position */
    char next_text[32], best_fp32_text[32], best_text[32];
} cell_worst;

/* How large keys and values of one head are: for pictures. Largest absolute values over runs of tokens. */
typedef struct cell_portrait {
    size_t layer, kv_head;
    size_t n_rows, n_columns; /* runs of tokens, channels; 0: there is none */
    float *k, *v;             /* [n_rows][n_columns] */
} cell_portrait;

typedef struct cell {
    char *scheme; /* canonical text; owned */
    size_t window;
    uint64_t ids_checksum; /* XXH3-64 of the window's token ids as little-endian int32; 0 for a recording */
    size_t n_blocks;
    cell_block *blocks;             /* [n_blocks] */
    cell_head *heads;               /* [n_layer][n_head] */
    uint32_t bins[CELL_N_BINS];     /* counted steps by divergence; see cell_bin */
    double kld_p99, kld_max;        /* of the next token, over the window's steps */
    float attn_max_abs;             /* largest difference of an output of attention */
    cell_worst worst[CELL_N_WORST]; /* largest first */
    size_t n_worst;
    cell_portrait portrait;
    kvq_usage usage; /* of a cache of all layers at the window's end */
    double seconds;  /* the scheme's own work */
    char isa[16];    /* that measured it */
} cell;

/** Free what a cell owns, and make it all-zero; an all-zero one is fine. */
void cell_clear(cell *c);

/** The bin of a divergence of kl nats, 0 to CELL_N_BINS - 1: bin 0 is below 1e-8, bin b from
 * cell_bin_edge(b) on. */
size_t cell_bin(double kl);

/** Lower edge of bin b in nats; 0 for bin 0. */
double cell_bin_edge(size_t b);

/** Number of counted steps. */
uint64_t cell_n_steps(const cell *c);

#endif
