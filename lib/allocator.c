/*
 * The default allocator: malloc for what is small, the system's pages for what is large.
 *
 * malloc may keep a large block that was freed: glibc raises its threshold for mmap to the largest block that
 * has come back, and blocks aligned to huge pages leave holes in its heap. A cache that has shrunk would keep
 * its memory. So what is large comes by mmap and goes back by munmap.
 */
#define _DEFAULT_SOURCE /* MAP_ANONYMOUS, madvise */

#include "lib/memory.h"

#include <stdlib.h>
#include <sys/mman.h>
#include <unistd.h>

enum { LARGE = 256 << 10 }; /* bytes, from which on a system call costs little beside touching them */

static size_t system_page(void)
{
    return (size_t)sysconf(_SC_PAGESIZE);
}

/* Whole pages of the system; 0 if there is no such number. */
static size_t whole_pages(size_t size)
{
    size_t page = system_page();
    return size > SIZE_MAX - page ? 0 : (size + page - 1) / page * page;
}

/* Aligned pages. What was mapped before and behind them for the sake of alignment goes back at once. */
static void *map_pages(size_t size, size_t align)
{
    size = whole_pages(size);
    size_t extra = align > system_page() ? align : 0;
    if (size == 0 || size > SIZE_MAX - extra)
        return NULL;
    uint8_t *base = mmap(NULL, size + extra, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    if (base == MAP_FAILED)
        return NULL;
    size_t before = extra == 0 ? 0 : (align - (uintptr_t)base % align) % align;
    if (before > 0)
        (void)munmap(base, before);
    if (extra > before)
        (void)munmap(base + before + size, extra - before);
    return base + before;
}

static void *default_alloc(void *ctx, size_t size, size_t align)
{
    (void)ctx;
    void *ptr = NULL;
    if (size < LARGE)
        return posix_memalign(&ptr, align < sizeof(void *) ? sizeof(void *) : align, size) == 0 ? ptr : NULL;
    ptr = map_pages(size, align);
#ifdef MADV_HUGEPAGE
    /* Scanning a long cache with 4 KB pages costs 15 to 25 % in address translation. Advice may be
     * refused. */
    if (ptr != NULL && align >= KVQ_HUGE_PAGE)
        (void)madvise(ptr, size, MADV_HUGEPAGE);
#endif
    return ptr;
}

static void default_free(void *ctx, void *ptr, size_t size)
{
    (void)ctx;
    if (size < LARGE)
        free(ptr);
    else
        (void)munmap(ptr, whole_pages(size));
}

const kvq_allocator kvq_default_allocator = {.alloc = default_alloc, .free = default_free};
