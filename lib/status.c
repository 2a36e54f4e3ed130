/*
 * Names of statuses, and the version.
 */
#include "lib/internal.h"

#define TEXT_OF(x)  #x
#define VALUE_OF(x) TEXT_OF(x)

const char *kvq_status_string(kvq_status status)
{
    switch (status) {
    case KVQ_OK:
        return "no error";
    case KVQ_ERR_ARG:
        return "invalid argument";
    case KVQ_ERR_SCHEME:
        return "invalid scheme";
    case KVQ_ERR_NONFINITE:
        return "NaN or Inf in the input";
    case KVQ_ERR_NOMEM:
        return "out of memory";
    case KVQ_ERR_FULL:
        return "more tokens than the cache may hold";
    case KVQ_ERR_ISA:
        return "an instruction set (KVQ_ISA, or isa in a config or options) that is unknown or does not run "
               "here";
    case KVQ_ERR_IO:
        return "reading or writing failed";
    case KVQ_ERR_FORMAT:
        return "not a saved cache, or a damaged one";
    case KVQ_ERR_TRUNCATED:
        return "the saved cache ends early";
    case KVQ_ERR_CHECKSUM:
        return "stored bytes do not match their checksum";
    case KVQ_ERR_MISMATCH:
        return "the saved cache has other dimensions or schemes";
    }
    return "unknown status";
}

const char *kvq_version(void)
{
    return VALUE_OF(KVQ_VERSION_MAJOR) "." VALUE_OF(KVQ_VERSION_MINOR) "." VALUE_OF(KVQ_VERSION_PATCH);
}

uint32_t kvq_version_number(void)
{
    return KVQ_VERSION_NUMBER;
}
