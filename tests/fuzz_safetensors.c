/* Fuzzes the safetensors parser: any bytes are either refused with a message or give tensors that are safe to
 * convert and lie in the file. */
#include "eval/model/safetensors.h"

#include <stdlib.h>

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    safetensors *st;
    eval_error e = {""};
    if (!safetensors_open_memory(&st, "input", data, size, &e)) {
        if (e.text[0] == '\0')
            abort();
        return 0;
    }
    const tensor_list *list = safetensors_tensors(st);
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
    safetensors_close(st);
    return 0;
}
