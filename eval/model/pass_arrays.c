/* The arrays of a forward pass (pass_arrays.h). */
#include "eval/model/pass_arrays.h"

#include <stdlib.h>

bool pass_arrays_allocate(pass_arrays *a, const model *m, size_t n, eval_error *e)
{
    const model_shape *s = &m->shape;
    const size_t q_width = s->n_head * s->head_dim, kv_width = s->n_kv_head * s->head_dim;
    *a = (pass_arrays){.x = calloc(n, s->n_embd * sizeof(float)),
                       .q = calloc(n, q_width * sizeof(float)),
                       .attn = calloc(n, q_width * sizeof(float)),
                       .k = calloc(n, kv_width * sizeof(float)),
                       .v = calloc(n, kv_width * sizeof(float)),
                       .scratch = calloc(model_scratch_floats(m, n), sizeof(float)),
                       .logits = calloc(s->vocab_size, sizeof(float))};
    return (a->x && a->q && a->attn && a->k && a->v && a->scratch && a->logits) ||
           eval_fail(e, "out of memory for %zu tokens", n);
}

void pass_arrays_free(pass_arrays *a)
{
    float *const arrays[] = {a->x, a->q, a->attn, a->k, a->v, a->scratch, a->logits};
    for (size_t i = 0; i < sizeof arrays / sizeof arrays[0]; i++)
        free(arrays[i]);
    *a = (pass_arrays){.x = NULL};
}
