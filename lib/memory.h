/*
 * Memory of a cache: an allocator that counts, and pools of equal slots in large chunks.
 *
 * Every byte is counted by purpose where it is handed out: chunks of pools, residual bytes outside pools
 * (sinks), and bookkeeping. That is what kvq_cache_usage reports.
 */
#ifndef KVQ_LIB_MEMORY_H
#define KVQ_LIB_MEMORY_H

#include "lib/kvq.h"

typedef struct kvq_memory {
    kvq_allocator allocator;
    uint64_t data_bytes;        /* handed out for tokens: chunks and sinks */
    uint64_t bookkeeping_bytes; /* handed out for everything else */
} kvq_memory;

typedef enum kvq_purpose {
    KVQ_FOR_DATA,
    KVQ_FOR_BOOKKEEPING,
} kvq_purpose;

enum { KVQ_HUGE_PAGE = 2 << 20 }; /* chunks of that and more are aligned to it and whole multiples of it */

/** What is used without an allocator of the caller's (allocator.c). */
extern const kvq_allocator kvq_default_allocator;

/** Start with the given allocator, or the default one for NULL. */
void kvq_memory_init(kvq_memory *memory, const kvq_allocator *allocator);

/** NULL if the allocator fails or n * size overflows; n = 0 counts as 1. Zeroed for bookkeeping only. */
void *kvq_memory_take(kvq_memory *memory, kvq_purpose purpose, size_t n, size_t size);

/** Give back what kvq_memory_take returned for the same purpose and sizes; NULL is fine. */
void kvq_memory_give(kvq_memory *memory, kvq_purpose purpose, void *ptr, size_t n, size_t size);

/** Grow a bookkeeping array so that it holds n; capacity at least doubles. False: nothing changed. */
bool kvq_memory_grow(kvq_memory *memory, void **array, size_t *capacity, size_t n, size_t size);

/* A chunk: slots side by side, the free ones linked through their first bytes. */
typedef struct kvq_chunk {
    uint8_t *base;
    size_t bytes;
    size_t n_slots, n_fresh; /* fresh slots were never taken; they come last and are not in the list */
    size_t n_used;
    void *free_list;
} kvq_chunk;

/* Units of one size. Chunks grow with the pool (an eighth of it), so that free slots never weigh much. */
typedef struct kvq_pool {
    size_t slot_bytes; /* a multiple of 64 */
    kvq_chunk *chunk;
    size_t n_chunks, chunk_capacity;
    size_t n_slots, n_used;
} kvq_pool;

/** A slot of zeros, aligned to 64 bytes, or NULL. */
void *kvq_pool_take(kvq_memory *memory, kvq_pool *pool);

/** Give a slot back; a chunk that is all free goes back to the allocator. */
void kvq_pool_give(kvq_memory *memory, kvq_pool *pool, void *slot);

/** Free the pool's own arrays; all slots must have come back. */
void kvq_pool_free(kvq_memory *memory, kvq_pool *pool);

#endif /* KVQ_LIB_MEMORY_H */
