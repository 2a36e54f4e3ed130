/* What fuzz targets ask of every tensor of a file that was opened. */
#ifndef KVQ_TESTS_FUZZ_TENSORS_H
#define KVQ_TESTS_FUZZ_TENSORS_H

#include "eval/model/tensor.h"

#include <stdlib.h>

/* Each is found by its name, lies in the file and can be read. */
static inline void fuzz_read_tensors(const tensor_list *list, size_t size)
{
    eval_error e = {""};
    for (size_t i = 0; i < list->n; i++) {
        const tensor *t = &list->tensors[i];
        if (tensor_find(list, t->name) != t || t->file_offset > size || t->n_bytes > size - t->file_offset)
            abort();
        if (t->type == TENSOR_UNREADABLE)
            continue;
        float *values = malloc(t->n_elems * sizeof *values + 1);
        if (values && !tensor_read_f32(t, 0, t->n_elems, values, &e))
            abort(); /* open has checked that all of it is there */
        free(values);
    }
}

#endif
