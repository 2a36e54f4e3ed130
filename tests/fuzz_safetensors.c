/* Fuzzes the safetensors parser: any bytes are either refused with a message or give tensors that are safe to
 * convert and lie in the file. */
#include "eval/model/safetensors.h"
#include "tests/fuzz_tensors.h"

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
    fuzz_read_tensors(safetensors_tensors(st), size);
    safetensors_close(st);
    return 0;
}
