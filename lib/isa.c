/*
 * Names of the instruction sets that run here (quant/dispatch.c).
 */
#include "lib/internal.h"

const char *kvq_isa(void)
{
    const kvq_kernels *kernels = kvq_kernels_get();
    return kernels == NULL ? NULL : kernels->isa;
}

const char *kvq_isa_name(size_t i)
{
    const kvq_kernels *kernels = kvq_kernels_at(i);
    return kernels == NULL ? NULL : kernels->isa;
}
