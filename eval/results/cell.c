/* Cells (cell.h). */
#include "eval/results/cell.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

enum { BINS_PER_DECADE = 4 };
#define LEAST_KL 1e-8

void cell_clear(cell *c)
{
    free(c->scheme);
    free(c->blocks);
    free(c->heads);
    free(c->portrait.k);
    free(c->portrait.v);
    memset(c, 0, sizeof *c);
}

double cell_bin_edge(size_t b)
{
    return b == 0 ? 0.0 : LEAST_KL * pow(10.0, (double)(b - 1) / BINS_PER_DECADE);
}

size_t cell_bin(double kl)
{
    size_t b = 0; /* by the edges themselves, so that the two functions agree to the last bit */
    while (b + 1 < CELL_N_BINS && kl >= cell_bin_edge(b + 1))
        b++;
    return b;
}

uint64_t cell_n_steps(const cell *c)
{
    uint64_t n = 0;
    for (size_t i = 0; i < c->n_blocks; i++)
        n += c->blocks[i].n_steps;
    return n;
}
