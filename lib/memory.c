/*
 * The counting allocator and the pools of memory.h.
 */
#include "lib/memory.h"

#include <string.h>

enum { SLOT_ALIGNMENT = 64 };

void kvq_memory_init(kvq_memory *memory, const kvq_allocator *allocator)
{
    *memory = (kvq_memory){.allocator = allocator != NULL ? *allocator : kvq_default_allocator};
}

static uint64_t *counter(kvq_memory *memory, kvq_purpose purpose)
{
    return purpose == KVQ_FOR_DATA ? &memory->data_bytes : &memory->bookkeeping_bytes;
}

static void *take_bytes(kvq_memory *memory, kvq_purpose purpose, size_t bytes, size_t align)
{
    void *ptr = memory->allocator.alloc(memory->allocator.ctx, bytes, align);
    if (ptr != NULL)
        *counter(memory, purpose) += bytes;
    return ptr;
}

static void give_bytes(kvq_memory *memory, kvq_purpose purpose, void *ptr, size_t bytes)
{
    memory->allocator.free(memory->allocator.ctx, ptr, bytes);
    *counter(memory, purpose) -= bytes;
}

void *kvq_memory_take(kvq_memory *memory, kvq_purpose purpose, size_t n, size_t size)
{
    n = n == 0 ? 1 : n;
    if (n > SIZE_MAX / size)
        return NULL;
    void *ptr = take_bytes(memory, purpose, n * size, SLOT_ALIGNMENT);
    if (ptr != NULL && purpose == KVQ_FOR_BOOKKEEPING)
        memset(ptr, 0, n * size);
    return ptr;
}

void kvq_memory_give(kvq_memory *memory, kvq_purpose purpose, void *ptr, size_t n, size_t size)
{
    if (ptr != NULL)
        give_bytes(memory, purpose, ptr, (n == 0 ? 1 : n) * size);
}

bool kvq_memory_grow(kvq_memory *memory, void **array, size_t *capacity, size_t n, size_t size)
{
    if (n <= *capacity)
        return true;
    size_t wanted = 2 * *capacity > n ? 2 * *capacity : n;
    void *grown = kvq_memory_take(memory, KVQ_FOR_BOOKKEEPING, wanted, size);
    if (grown == NULL)
        return false;
    if (*array != NULL) {
        memcpy(grown, *array, *capacity * size);
        kvq_memory_give(memory, KVQ_FOR_BOOKKEEPING, *array, *capacity, size);
    }
    *array = grown;
    *capacity = wanted;
    return true;
}

static kvq_chunk *add_chunk(kvq_memory *memory, kvq_pool *pool)
{
    void *chunks = pool->chunk;
    if (!kvq_memory_grow(memory, &chunks, &pool->chunk_capacity, pool->n_chunks + 1, sizeof *pool->chunk))
        return NULL;
    pool->chunk = chunks;
    size_t n_slots = pool->n_slots / 8 + 1;
    if (n_slots > SIZE_MAX / 2 / pool->slot_bytes)
        return NULL;
    size_t bytes = n_slots * pool->slot_bytes, align = SLOT_ALIGNMENT;
    if (bytes >= KVQ_HUGE_PAGE) {
        align = KVQ_HUGE_PAGE;
        bytes = (bytes + align - 1) / align * align;
    }
    uint8_t *base = take_bytes(memory, KVQ_FOR_DATA, bytes, align);
    if (base == NULL)
        return NULL;
    kvq_chunk *chunk = &pool->chunk[pool->n_chunks++];
    *chunk = (kvq_chunk){.base = base, .bytes = bytes, .n_slots = bytes / pool->slot_bytes};
    chunk->n_fresh = chunk->n_slots;
    pool->n_slots += chunk->n_slots;
    return chunk;
}

void *kvq_pool_take(kvq_memory *memory, kvq_pool *pool)
{
    kvq_chunk *chunk = NULL;
    if (pool->n_used < pool->n_slots) /* the oldest chunk with room, so that the youngest can empty and go */
        for (size_t i = 0; chunk == NULL; i++)
            chunk = pool->chunk[i].n_used < pool->chunk[i].n_slots ? &pool->chunk[i] : NULL;
    else
        chunk = add_chunk(memory, pool);
    if (chunk == NULL)
        return NULL;
    void *slot = chunk->free_list;
    if (slot != NULL)
        memcpy(&chunk->free_list, slot, sizeof chunk->free_list);
    else
        slot = chunk->base + (chunk->n_slots - chunk->n_fresh--) * pool->slot_bytes;
    chunk->n_used++;
    pool->n_used++;
    memset(slot, 0, pool->slot_bytes);
    return slot;
}

void kvq_pool_give(kvq_memory *memory, kvq_pool *pool, void *slot)
{
    size_t i = 0;
    while ((uint8_t *)slot < pool->chunk[i].base ||
           (uint8_t *)slot >= pool->chunk[i].base + pool->chunk[i].bytes)
        i++;
    kvq_chunk *chunk = &pool->chunk[i];
    memcpy(slot, &chunk->free_list, sizeof chunk->free_list);
    chunk->free_list = slot;
    chunk->n_used--;
    pool->n_used--;
    if (chunk->n_used == 0) {
        pool->n_slots -= chunk->n_slots;
        give_bytes(memory, KVQ_FOR_DATA, chunk->base, chunk->bytes);
        memmove(chunk, chunk + 1, (--pool->n_chunks - i) * sizeof *chunk);
    }
}

void kvq_pool_free(kvq_memory *memory, kvq_pool *pool)
{
    kvq_memory_give(memory, KVQ_FOR_BOOKKEEPING, pool->chunk, pool->chunk_capacity, sizeof *pool->chunk);
    *pool = (kvq_pool){.slot_bytes = pool->slot_bytes};
}
