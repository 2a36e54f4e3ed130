/*
 * Public structs that grow: how a program's older or newer idea of one meets ours (kvq.h, rules for every
 * call).
 *
 * Each begins with size_t struct_size, which the program's compiler has filled. `least` is the size that the
 * struct had when it first was public.
 */
#ifndef KVQ_LIB_SIZED_H
#define KVQ_LIB_SIZED_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <string.h>

enum { KVQ_SIZE_LIMIT = 4096 }; /* larger ones are garbage, not structs of ours */

/** Bytes up to the end of a field, for `least`. */
#define KVQ_SIZE_THROUGH(type, field) (offsetof(type, field) + sizeof(((type *)0)->field))

static inline size_t kvq_sized_common(size_t a, size_t b)
{
    return a < b ? a : b;
}

/** Copy a struct that a program filled over our defaults. False if it was never initialised, or says more
 * than we understand. */
static inline bool kvq_sized_read(void *ours, size_t size, const void *theirs, size_t least)
{
    size_t their_size;
    memcpy(&their_size, theirs, sizeof their_size);
    if (their_size < least || their_size > KVQ_SIZE_LIMIT)
        return false;
    for (size_t i = size; i < their_size; i++)
        if (((const uint8_t *)theirs)[i] != 0)
            return false;
    memcpy(ours, theirs, kvq_sized_common(size, their_size));
    memcpy(ours, &size, sizeof size);
    return true;
}

/** Hand a struct of ours to a program whose idea of it is their_size bytes: zeros where it is larger. For
 * what a program will fill and hand in, struct_size becomes its own size; `filled` makes it what was filled.
 * False for a size that no such struct has; nothing is written then. */
static inline bool kvq_sized_write(void *theirs, size_t their_size, const void *ours, size_t size,
                                   bool filled)
{
    size_t common = kvq_sized_common(size, their_size), says = filled ? common : their_size;
    if (their_size < sizeof says || their_size > KVQ_SIZE_LIMIT)
        return false;
    memset(theirs, 0, their_size);
    memcpy(theirs, ours, common);
    memcpy(theirs, &says, sizeof says);
    return true;
}

#endif /* KVQ_LIB_SIZED_H */
