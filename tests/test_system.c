/*
 * What the library takes from the system and gives back: threads after fork(), memory of the default
 * allocator.
 */
#include <criterion/criterion.h>
#include <math.h>
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/wait.h>
#include <unistd.h>

#include "tests/support.h"

static const shape wide = {1, 8, 8, 64, 2};
enum { ROW = 8 * 64, MANY = 2048 };

static float *numbers(size_t n)
{
    float *x = malloc(n * sizeof *x);
    for (size_t i = 0; i < n; i++)
        x[i] = (float)(i * 2654435761u % 1024) / 256 - 2;
    return x;
}

/* Both calls are large enough for threads, and are asked for two. */
static bool append_and_attend(kvq_cache *cache, size_t sequence, const float *x, float *out)
{
    kvq_attend_options options;
    kvq_attend_options_init(&options);
    options.n_threads = 2;
    return kvq_cache_append(cache, 0, sequence, x, x, MANY) == KVQ_OK &&
           kvq_cache_attend(cache, 0, &sequence, 1, x, 1, 0.1f, &options, out) == KVQ_OK;
}

Test(system, a_forked_child_goes_on_with_one_thread)
{
    float *x = numbers(MANY * ROW), out[ROW], again[ROW];
    kvq_cache *cache = cache_of("kivi2", wide, NULL);
    cr_assert(append_and_attend(cache, 0, x, out)); /* OpenMP now has threads here */
    pid_t child = fork();
    if (child == 0) {
        alarm(20); /* ends a child that waits for threads it does not have */
        kvq_attend_options options;
        kvq_attend_options_init(&options);
        const size_t first = 0;
        bool ok = kvq_cache_attend(cache, 0, &first, 1, x, 1, 0.1f, NULL, again) == KVQ_OK &&
                  memcmp(again, out, sizeof out) == 0 && append_and_attend(cache, 1, x, again) &&
                  memcmp(again, out, sizeof out) == 0;
        _exit(ok ? 0 : 1);
    }
    int status = -1;
    cr_assert_eq(waitpid(child, &status, 0), child);
    cr_assert(WIFEXITED(status), "the child hung");
    cr_assert_eq(WEXITSTATUS(status), 0);
    cr_assert(append_and_attend(cache, 1, x, again), "the parent is as it was");
    cr_assert(same_bits("the parent's other sequence", again, out, sizeof out));
    kvq_cache_free(cache);
    free(x);
}

/* Resident bytes of this process. */
static size_t resident(void)
{
    size_t pages = 0;
    FILE *f = fopen("/proc/self/statm", "r");
    cr_assert_not_null(f);
    cr_assert_eq(fscanf(f, "%*s %zu", &pages), 1);
    fclose(f);
    return pages * (size_t)sysconf(_SC_PAGESIZE);
}

static void append_tokens(kvq_cache *cache, size_t sequence, const float *x, size_t n)
{
    for (size_t done = 0; done < n; done += MANY)
        cr_assert_eq(kvq_cache_append(cache, 0, sequence, x, x, MANY), KVQ_OK);
}

/* What the process holds beyond what the cache says it does. */
static size_t resident_beside(const kvq_cache *cache)
{
    kvq_usage usage;
    cr_assert_eq(kvq_cache_usage(cache, &usage), KVQ_OK);
    return resident() - (size_t)usage.total;
}

/* 200,000 tokens are some 80 MB. Beside what usage counts, malloc may keep some small blocks, half-used pages
 * of the system count whole, and a second thread has its stack: up to 3.6 MB seen (clang's OpenMP), the same
 * in every round, where a heap that is not given back keeps 34 to 44. */
Test(system, memory_goes_back, .disabled = SANITIZED)
{
    enum { N = 200000 / MANY * MANY };
    const size_t slack = 8 << 20;
    float *x = numbers(MANY * ROW);
    kvq_cache *cache = cache_of("kivi2", wide, NULL);
    append_tokens(cache, 1, x, MANY); /* a short sequence that stays */
    size_t before = resident_beside(cache), with_cache = resident();
    for (int round = 0; round < 3; round++) {
        append_tokens(cache, 0, x, N);
        cr_assert_gt(resident(), with_cache + (60 << 20));
        cr_assert_eq(kvq_cache_truncate(cache, 0, 128), KVQ_OK);
        cr_assert_lt(resident_beside(cache), before + slack, "round %d, truncated", round);
        append_tokens(cache, 0, x, N);
        cr_assert_eq(kvq_cache_truncate(cache, 0, 0), KVQ_OK);
        cr_assert_lt(resident_beside(cache), before + slack, "round %d, emptied", round);
    }
    append_tokens(cache, 0, x, N);
    kvq_cache_free(cache);
    cr_assert_lt(resident(), with_cache + slack, "freed");
    free(x);
}

/* ---- The stack: kvq.h promises what a call may use ---- */

enum { PROMISED_STACK = 640 << 10, FOR_THE_THREAD = 32 << 10, WIDEST = 1024 };

/* One cache of the largest head dimension through everything that takes stack. The status of what failed. */
static void *use_stack(void *text)
{
    static const shape s = {1, 8, 1, WIDEST, 1};
    static float x[8 * WIDEST], out[8 * WIDEST], bound[8];
    kvq_cache *cache = cache_of(text, s, NULL);
    kvq_attend_options options;
    kvq_attend_options_init(&options);
    options.n_threads = 1;
    kvq_status status = KVQ_OK;
    for (size_t t = 0; t < 270 && status == KVQ_OK; t++) {
        for (size_t i = 0; i < sizeof x / sizeof x[0]; i++)
            x[i] = (float)((i * 2654435761u + t * 40503u) % 1024) / 256 - 2;
        status = kvq_cache_step(cache, 0, NULL, 1, NULL, x, x, x, 0.03f, &options, out);
    }
    if (status == KVQ_OK) /* with scores of which no whole numbers would do */
        status = kvq_cache_attend(cache, 0, NULL, 1, x, 1, 1e9f, &options, out);
    options.bound = bound;
    if (status == KVQ_OK)
        status = kvq_cache_attend(cache, 0, NULL, 1, x, 1, 0.03f, &options, out);
    if (status == KVQ_OK)
        status = kvq_cache_truncate(cache, 0, 130);
    kvq_cache_free(cache);
    return status == KVQ_OK ? NULL : (void *)(uintptr_t)status;
}

Test(system, calls_keep_to_the_promised_stack)
{
    static const char *const schemes[] = {"kivi2",
                                          "kvq2",
                                          "k=tier:2:cert,v=rot:2,hh=8,mode=sliding",
                                          "kvq1.5",
                                          "kvq4",
                                          "kvarn2",
                                          "quarot2",
                                          "turbo4",
                                          "q4_0",
                                          "kivi2,rtype=i8,mode=sliding"};
    if (SANITIZED) /* frames are larger there */
        return;
    for (size_t i = 0; i < sizeof schemes / sizeof schemes[0]; i++) {
        pthread_attr_t attr;
        pthread_t thread;
        void *failed = NULL;
        char text[64];
        (void)snprintf(text, sizeof text, "%s", schemes[i]);
        cr_assert_eq(pthread_attr_init(&attr), 0);
        cr_assert_eq(pthread_attr_setstacksize(&attr, PROMISED_STACK + FOR_THE_THREAD), 0);
        cr_assert_eq(pthread_create(&thread, &attr, use_stack, text), 0);
        cr_assert_eq(pthread_join(thread, &failed), 0); /* a call that takes more ends the test here */
        cr_assert_null(failed, "%s: status %d", text, (int)(uintptr_t)failed);
    }
}
