/*
 * libkvq on a program's own threads: a plain pool of pthreads as kvq_config.parallel. It attends over the
 * same tokens with one thread, with OpenMP's and with the pool's, and says whether the bits are the same.
 *
 * Build it against the installed library:
 *   cc -O2 parallel.c $(pkg-config --cflags --libs kvq) -lm -lpthread -o parallel
 */
#include <kvq.h>

#include <math.h>
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

/* ---- A pool: threads that wait for work, and a parallel-for ---- */

enum { N_THREADS = 4 }; /* the calling one is one of them */

typedef struct {
    pthread_mutex_t lock;
    pthread_cond_t work, done;
    pthread_t thread[N_THREADS - 1];
    void (*task)(void *arg, size_t i);
    void *arg;
    size_t n, next, n_running; /* tasks of this loop: how many, the next one, in flight */
    bool stop;
} pool;

/* Run tasks until none is left. With the lock, which is free while a task runs. */
static void run_tasks(pool *p)
{
    while (p->next < p->n) {
        size_t i = p->next++;
        p->n_running++;
        pthread_mutex_unlock(&p->lock);
        p->task(p->arg, i);
        pthread_mutex_lock(&p->lock);
        p->n_running--;
    }
}

static void *worker(void *ctx)
{
    pool *p = ctx;
    pthread_mutex_lock(&p->lock);
    while (!p->stop) {
        run_tasks(p);
        if (p->n_running == 0)
            pthread_cond_signal(&p->done);
        pthread_cond_wait(&p->work, &p->lock);
    }
    pthread_mutex_unlock(&p->lock);
    return NULL;
}

/* kvq_parallel_fn. One loop at a time: this pool serves one caller. */
static void pool_run(void *ctx, void (*task)(void *arg, size_t i), void *arg, size_t n)
{
    pool *p = ctx;
    pthread_mutex_lock(&p->lock);
    p->task = task;
    p->arg = arg;
    p->n = n;
    p->next = 0;
    pthread_cond_broadcast(&p->work);
    run_tasks(p);
    while (p->n_running > 0)
        pthread_cond_wait(&p->done, &p->lock);
    pthread_mutex_unlock(&p->lock);
}

static void pool_start(pool *p)
{
    *p = (pool){.lock = PTHREAD_MUTEX_INITIALIZER,
                .work = PTHREAD_COND_INITIALIZER,
                .done = PTHREAD_COND_INITIALIZER};
    for (int i = 0; i < N_THREADS - 1; i++)
        if (pthread_create(&p->thread[i], NULL, worker, p) != 0) {
            fprintf(stderr, "parallel: cannot start a thread\n");
            exit(1);
        }
}

static void pool_stop(pool *p)
{
    pthread_mutex_lock(&p->lock);
    p->stop = true;
    pthread_cond_broadcast(&p->work);
    pthread_mutex_unlock(&p->lock);
    for (int i = 0; i < N_THREADS - 1; i++)
        pthread_join(p->thread[i], NULL);
}

/* ---- The same attention on it and without it ---- */

enum { H = 8, HKV = 2, D = 64, TOKENS = 3000 };

static void check(kvq_status status, const char *what)
{
    if (status != KVQ_OK) {
        fprintf(stderr, "parallel: %s: %s\n", what, kvq_status_string(status));
        exit(1);
    }
}

static float *numbers(size_t n, unsigned long long state)
{
    float *x = malloc(n * sizeof *x);
    if (x == NULL)
        exit(1);
    for (size_t i = 0; i < n; i++) {
        state = state * 6364136223846793005ULL + 1442695040888963407ULL;
        x[i] = (float)(state >> 40) * 0x1p-23f - 1.0f;
    }
    return x;
}

static void attend(pool *threads, int n_threads, float *out)
{
    kvq_config config;
    kvq_config_init(&config);
    config.n_layers = 1;
    config.n_heads = H;
    config.n_kv_heads = HKV;
    config.head_dim = D;
    config.n_threads = n_threads;
    if (threads != NULL) {
        config.parallel = pool_run;
        config.parallel_ctx = threads;
    }
    kvq_cache *cache;
    check(kvq_cache_create(&cache, &config), "create");
    float *k = numbers(TOKENS * HKV * D, 1), *v = numbers(TOKENS * HKV * D, 2), *q = numbers(H * D, 3);
    check(kvq_cache_append(cache, 0, 0, k, v, TOKENS), "append");
    check(kvq_cache_attend(cache, 0, NULL, 1, q, 1, 1 / sqrtf(D), NULL, out), "attend");
    kvq_cache_free(cache);
    free(k), free(v), free(q);
}

int main(void)
{
    static float one[H * D], openmp[H * D], own[H * D];
    pool threads;
    attend(NULL, 1, one);
    attend(NULL, 0, openmp);
    pool_start(&threads);
    attend(&threads, N_THREADS, own);
    pool_stop(&threads);
    bool same = memcmp(one, openmp, sizeof one) == 0 && memcmp(one, own, sizeof one) == 0;
    printf("%d tokens, one thread, OpenMP, %d threads of a pool: %s\n", TOKENS, N_THREADS,
           same ? "the same bits" : "DIFFERENT bits");
    return same ? 0 : 1;
}
