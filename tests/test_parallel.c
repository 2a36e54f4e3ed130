/*
 * A program's own parallel-for: whose threads do the work, how many, in which order, is nothing to a result.
 * And how the work of a call is cut up for threads.
 */
#include <criterion/criterion.h>
#include <dirent.h>
#include <math.h>
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/wait.h>
#include <unistd.h>

#include "lib/jobs.h"
#include "tests/script.h"

/* ---- Parallel-fors of all kinds ---- */

typedef enum order {
    FORWARD,  /* the calling thread alone, as a plain loop */
    BACKWARD, /* the same, the last task first */
    SPAWNED,  /* a thread for each */
} order;

enum { N_ORDERS = 3, MOST_TASKS = 16 };

typedef struct pool {
    order order;
    size_t n_calls, least, most; /* how often it was called, with how many tasks */
    void (*inside)(void *arg);   /* once in every call, from its first task: or NULL */
    void *inside_arg;
} pool;

typedef struct spawned {
    void (*task)(void *arg, size_t i);
    void *arg;
    size_t i;
    pthread_t thread;
} spawned;

static void *run_spawned(void *arg)
{
    spawned *s = arg;
    s->task(s->arg, s->i);
    return NULL;
}

static void run_all_spawned(void (*task)(void *arg, size_t i), void *arg, size_t n)
{
    spawned s[MOST_TASKS];
    for (size_t i = 0; i < n; i++) {
        s[i] = (spawned){.task = task, .arg = arg, .i = i};
        cr_assert_eq(pthread_create(&s[i].thread, NULL, run_spawned, &s[i]), 0);
    }
    for (size_t i = 0; i < n; i++)
        cr_assert_eq(pthread_join(s[i].thread, NULL), 0);
}

static void pool_run(void *ctx, void (*task)(void *arg, size_t i), void *arg, size_t n)
{
    pool *p = ctx;
    cr_assert_leq(n, MOST_TASKS);
    p->n_calls++;
    p->least = p->n_calls == 1 || n < p->least ? n : p->least;
    p->most = n > p->most ? n : p->most;
    if (p->order == SPAWNED) {
        run_all_spawned(task, arg, n);
        return;
    }
    for (size_t i = 0; i < n; i++) {
        if (i == 0 && p->inside != NULL) {
            void (*inside)(void *) = p->inside;
            p->inside = NULL; /* what it calls may come here again */
            inside(p->inside_arg);
            p->inside = inside;
        }
        task(arg, p->order == FORWARD ? i : n - 1 - i);
    }
}

static kvq_config config_for(const char *scheme, shape s, pool *p, int n_threads)
{
    kvq_config config;
    kvq_config_init(&config);
    config.n_layers = s.n_layers;
    config.n_heads = s.n_heads;
    config.n_kv_heads = s.n_kv_heads;
    config.head_dim = s.head_dim;
    config.n_sequences = s.n_sequences;
    config.scheme = scheme_of(scheme);
    config.n_threads = n_threads;
    if (p != NULL) {
        config.parallel = pool_run;
        config.parallel_ctx = p;
    }
    return config;
}

static kvq_cache *cache_on(const char *scheme, shape s, pool *p, int n_threads)
{
    kvq_cache *cache = NULL;
    kvq_config config = config_for(scheme, s, p, n_threads);
    cr_assert_eq(kvq_cache_create(&cache, &config), KVQ_OK);
    return cache;
}

/* ---- Results ---- */

enum { PROMPT = 700, LONG = 2700, N_QUERIES = 3 };

/* All that threads do: appends and steps of many tokens, attention of every size. Returns what came out. */
static float *run_everything(kvq_cache *cache, const script *d)
{
    static const size_t n_new[] = {PROMPT, 0, 1};
    size_t n_out = (PROMPT + 1 + 3 * N_QUERIES) * d->q_row;
    float *out = malloc(n_out * sizeof *out);
    script_append(cache, d, 0, 1);
    script_append(cache, d, 1, 950);
    script_append(cache, d, 1, d->n - 951); /* begins in the middle of a page */
    script_append(cache, d, 2, 300);
    float *step = script_step(cache, d, NULL, 3, n_new, NULL);
    memcpy(out, step, (PROMPT + 1) * d->q_row * sizeof *out);
    free(step);
    cr_assert_eq(
        kvq_cache_attend(cache, 0, NULL, 3, d->q, N_QUERIES, d->scale, NULL, out + (PROMPT + 1) * d->q_row),
        KVQ_OK);
    return out;
}

Test(parallel, results_do_not_depend_on_whose_threads)
{
    static const shape shapes[] = {{1, 6, 3, 40, 3}, {1, 2, 1, 40, 3}};
    for (size_t j = 0; j < 2; j++) {
        script d = make_script(1 + j, shapes[j], LONG);
        size_t n_bytes = (PROMPT + 1 + 3 * N_QUERIES) * d.q_row * sizeof(float);
        for (size_t i = j; i < N_FAMILIES; i += SANITIZED ? 12 : 2) {
            kvq_cache *alone = cache_on(families[i], d.s, NULL, 1);
            float *one = run_everything(alone, &d);
            for (int n_threads = 1; n_threads <= 5; n_threads += 2)
                for (size_t o = 0; o <= N_ORDERS; o++) {
                    pool p = {.order = (order)o};
                    kvq_cache *cache = cache_on(families[i], d.s, o == N_ORDERS ? NULL : &p, n_threads);
                    float *out = run_everything(cache, &d);
                    cr_assert(same_bits(families[i], out, one, n_bytes), "%d threads, order %zu", n_threads,
                              o);
                    cr_assert(same_caches(families[i], cache, alone), "%d threads, order %zu", n_threads, o);
                    cr_assert(o == N_ORDERS || (p.n_calls > 0) == (n_threads > 1));
                    free(out);
                    kvq_cache_free(cache);
                }
            free(one);
            kvq_cache_free(alone);
        }
        free_script(&d);
    }
}

/* More sequences than are dealt with at once without memory, one of them long. */
Test(parallel, ragged_batches_equal_each_sequence_alone)
{
    enum { N = 70 };
    script d = make_script(3, (shape){1, 2, 1, 32, N}, LONG);
    pool p = {.order = BACKWARD};
    kvq_cache *cache = cache_on("kivi2,r=32", d.s, &p, 4);
    for (size_t i = 0; i < N; i++)
        script_append(cache, &d, i, i == 40 ? LONG : 1 + i * 7 % 200);
    float *all = malloc(N * d.q_row * sizeof *all), one[64];
    cr_assert_eq(kvq_cache_attend(cache, 0, NULL, N, d.q, 1, d.scale, NULL, all), KVQ_OK);
    for (size_t i = 0; i < N; i++) {
        cr_assert_eq(kvq_cache_attend(cache, 0, &i, 1, d.q + i * d.q_row, 1, d.scale, NULL, one), KVQ_OK);
        cr_assert(same_bits("alone", all + i * d.q_row, one, sizeof one), "sequence %zu", i);
    }
    free(all);
    kvq_cache_free(cache);
    free_script(&d);
}

/* ---- What was agreed ---- */

static float *attend_with(const kvq_cache *cache, const script *d, size_t sequence, int n_threads)
{
    kvq_attend_options options;
    kvq_attend_options_init(&options);
    options.n_threads = n_threads;
    float *out = malloc(d->q_row * sizeof *out);
    cr_assert_eq(kvq_cache_attend(cache, 0, &sequence, 1, d->q, 1, d->scale, &options, out), KVQ_OK);
    return out;
}

Test(parallel, is_called_with_two_tasks_or_more_and_no_more_than_threads)
{
    script d = make_script(4, (shape){1, 8, 8, 64, 2}, LONG);
    pool p = {.order = FORWARD};
    kvq_cache *cache = cache_on("kivi2", d.s, &p, 4);
    script_append(cache, &d, 0, LONG);
    cr_assert(p.n_calls > 0 && p.least >= 2 && p.most <= 4, "%zu calls of %zu to %zu", p.n_calls, p.least,
              p.most);
    static const int wanted[] = {0, 1, 2, 3, 4, 5, 100};
    static const size_t given[] = {4, 0, 2, 3, 4, 4, 4};
    for (size_t i = 0; i < 7; i++) {
        p.n_calls = p.most = 0;
        free(attend_with(cache, &d, 0, wanted[i]));
        cr_assert_eq(p.n_calls, given[i] > 0, "%d wanted", wanted[i]);
        cr_assert_eq(p.most, given[i], "%d wanted", wanted[i]);
    }
    p.n_calls = 0;
    script_append(cache, &d, 1, 40);
    free(attend_with(cache, &d, 1, 0));
    cr_assert_eq(p.n_calls, 0, "nothing there is worth a thread");
    kvq_cache_free(cache);
    free_script(&d);
}

static size_t n_threads_here(void)
{
    size_t n = 0;
    DIR *dir = opendir("/proc/self/task");
    cr_assert_not_null(dir);
    while (readdir(dir) != NULL)
        n++;
    closedir(dir);
    return n;
}

Test(parallel, no_other_threads_are_started)
{
    script d = make_script(5, (shape){1, 6, 3, 40, 3}, LONG);
    pool p = {.order = BACKWARD};
    kvq_cache *cache = cache_on("kvq2", d.s, &p, 4), *openmp = cache_on("kvq2", d.s, NULL, 4);
    size_t before = n_threads_here();
    free(run_everything(cache, &d));
    cr_assert_gt(p.n_calls, 0);
    cr_assert_eq(n_threads_here(), before);
    free(run_everything(openmp, &d));
    cr_assert_gt(n_threads_here(), before, "this would have been seen");
    kvq_cache_free(cache), kvq_cache_free(openmp);
    free_script(&d);
}

typedef struct inner {
    const kvq_cache *cache;
    const script *d;
    const float *wanted;
    size_t n;
} inner;

static void attend_inside(void *arg)
{
    inner *x = arg;
    float *out = attend_with(x->cache, x->d, 0, 0);
    cr_assert(same_bits("inside", out, x->wanted, x->d->q_row * sizeof *out));
    x->n++;
    free(out);
}

Test(parallel, calls_may_come_from_its_tasks)
{
    script d = make_script(6, (shape){1, 4, 2, 64, 1}, LONG);
    pool p = {.order = FORWARD};
    kvq_cache *cache = cache_on("kvq2", d.s, &p, 3);
    script_append(cache, &d, 0, LONG);
    float *wanted = attend_with(cache, &d, 0, 1);
    inner x = {.cache = cache, .d = &d, .wanted = wanted};
    p.inside = attend_inside;
    p.inside_arg = &x;
    float *out = attend_with(cache, &d, 0, 0);
    cr_assert_eq(x.n, 1);
    cr_assert(same_bits("outside", out, wanted, d.q_row * sizeof *out));
    free(out), free(wanted);
    kvq_cache_free(cache);
    free_script(&d);
}

Test(parallel, belongs_to_loaded_caches_and_copies)
{
    script d = make_script(7, (shape){1, 4, 2, 64, 1}, LONG);
    pool p = {.order = FORWARD};
    kvq_cache *cache = cache_on("kivi2", d.s, NULL, 1), *loaded = NULL, *alike = NULL;
    script_append(cache, &d, 0, LONG);
    float *wanted = attend_with(cache, &d, 0, 0);
    buffer b = saved(cache);
    kvq_load_options options;
    kvq_load_options_init(&options);
    options.parallel = pool_run;
    options.parallel_ctx = &p;
    cr_assert_eq(kvq_cache_load(&loaded, &options, buffer_read, &b, NULL), KVQ_ERR_ARG, "how many threads?");
    options.n_threads = 2;
    b.at = 0;
    cr_assert_eq(kvq_cache_load(&loaded, &options, buffer_read, &b, NULL), KVQ_OK);
    float *out = attend_with(loaded, &d, 0, 0);
    cr_assert(p.n_calls == 1 && p.most == 2 && same_bits("loaded", out, wanted, d.q_row * sizeof *out));
    kvq_config config;
    kvq_cache_get_config(loaded, &config);
    cr_assert(config.parallel == pool_run && config.parallel_ctx == &p && config.n_threads == 2);
    cr_assert_eq(kvq_cache_create(&alike, &config), KVQ_OK);
    free(out), free(wanted), buffer_free(&b);
    kvq_cache_free(cache), kvq_cache_free(loaded), kvq_cache_free(alike);
    free_script(&d);
}

Test(parallel, configs_are_checked)
{
    pool p = {.order = FORWARD};
    kvq_cache *cache = NULL;
    kvq_config config = config_for("kivi2", (shape){1, 1, 1, 16, 1}, &p, 0);
    cr_assert_eq(kvq_cache_create(&cache, &config), KVQ_ERR_ARG, "how many threads?");
    config.n_threads = -1;
    cr_assert_eq(kvq_cache_create(&cache, &config), KVQ_ERR_ARG);
    config.parallel = NULL;
    cr_assert_eq(kvq_cache_create(&cache, &config), KVQ_ERR_ARG);
    config.n_threads = 3;
    cr_assert_eq(kvq_cache_create(&cache, &config), KVQ_OK);
    kvq_cache_free(cache);
}

/* OpenMP's threads are gone in a forked child; what a program's own parallel-for has left, it knows. */
Test(parallel, a_forked_child_is_trusted)
{
    script d = make_script(8, (shape){1, 4, 2, 64, 1}, LONG);
    pool p = {.order = SPAWNED};
    kvq_cache *cache = cache_on("kivi2", d.s, &p, 2);
    script_append(cache, &d, 0, LONG);
    p.n_calls = 0;
    pid_t child = fork();
    if (child == 0) {
        free(attend_with(cache, &d, 0, 0));
        _exit(p.n_calls == 1 ? 0 : 1);
    }
    int status = -1;
    cr_assert_eq(waitpid(child, &status, 0), child);
    cr_assert(WIFEXITED(status) && WEXITSTATUS(status) == 0);
    kvq_cache_free(cache);
    free_script(&d);
}

/* ---- Jobs: what each thread has to do, by the costs that the cutting goes by ---- */

enum { MOST_SPANS = 40, MOST_THREADS = 8 };

/* Spans of n_q new queries over sequences of these lengths, as if packed but for the newest 128. */
typedef struct work {
    kvq_attention_call call;
    kvq_attention_work a;
    kvq_layer layers[MOST_SPANS];
    kvq_span spans[MOST_SPANS];
    size_t n;
} work;

static void add_span(work *w, size_t n_tokens, size_t n_q)
{
    kvq_layer *layer = &w->layers[w->n];
    *layer = (kvq_layer){.n_tokens = n_tokens};
    layer->packed[KVQ_KEYS] = layer->packed[KVQ_VALUES] = n_tokens > 128 ? (n_tokens - 1) / 128 * 128 : 0;
    w->spans[w->n++] = (kvq_span){.view = {.cache = w->call.cache, .plan = w->call.plan, .layer = layer},
                                  .n_q = n_q,
                                  .n_before = n_tokens - n_q};
}

static work *make_work(const kvq_cache *cache)
{
    work *w = calloc(1, sizeof *w);
    w->call =
        (kvq_attention_call){.cache = cache, .plan = &cache->plan[0], .n_heads = cache->config.n_kv_heads};
    w->a = (kvq_attention_work){.call = &w->call,
                                .heads_per_kv = cache->config.n_heads / cache->config.n_kv_heads};
    return w;
}

/* How many times as fast as one thread so many are, if each takes the next job when it is free. */
static double speedup(const work *w, int n_threads)
{
    double ends[MOST_THREADS] = {0}, last = 0;
    size_t total = 0;
    kvq_job_list list;
    kvq_work_size size = kvq_work_size_of(&w->a, w->spans, w->n);
    cr_assert(kvq_jobs_make(&list, &w->a, w->spans, w->n, n_threads, size.cost));
    for (size_t i = 0; i < list.n_jobs; i++) {
        int first = 0;
        for (int t = 1; t < n_threads; t++)
            first = ends[t] < ends[first] ? t : first;
        ends[first] += (double)kvq_job_cost(&list.jobs[i]);
        total += kvq_job_cost(&list.jobs[i]);
        last = fmax(last, ends[first]);
    }
    cr_assert_eq(total, size.cost);
    kvq_jobs_free(&list);
    return (double)total / last;
}

/* Every segment of every tile is in one job, each cut tile counts its jobs, and none is empty. */
static void expect_whole(const work *w, int n_threads)
{
    kvq_job_list list;
    kvq_work_size size = kvq_work_size_of(&w->a, w->spans, w->n);
    cr_assert(kvq_jobs_make(&list, &w->a, w->spans, w->n, n_threads, size.cost));
    size_t n_segments = 0, n_left = 0, n_cut = 0;
    for (size_t i = 0; i < list.n_jobs; i++) {
        const kvq_job *job = &list.jobs[i];
        cr_assert(job->n_segments > 0 && job->segment + job->n_segments <= job->at.n_segments);
        cr_assert(job->cut != NULL || job->n_segments == job->at.n_segments);
        n_segments += job->n_segments;
        n_cut += job->cut != NULL;
    }
    for (size_t i = 0; i < list.n_cuts; i++)
        n_left += list.cuts[i].n_left;
    cr_assert_eq(n_segments, size.n_segments);
    cr_assert_eq(n_left, n_cut);
    kvq_jobs_free(&list);
}

/* One KV head has no more than four segments at 2,048 tokens, and five or six soon after: two threads then
 * get 3 : 2 of them. Everything else is nearly even. */
Test(parallel, two_threads_have_equal_work)
{
    static const shape shapes[] = {{1, 1, 1, 64, 1}, {1, 8, 1, 128, 1},  {1, 2, 2, 64, 1},
                                   {1, 3, 3, 64, 1}, {1, 12, 12, 64, 1}, {1, 32, 8, 128, 1},
                                   {1, 9, 9, 64, 1}, {1, 40, 4, 64, 1}};
    for (size_t i = 0; i < sizeof shapes / sizeof shapes[0]; i++) {
        kvq_cache *cache = cache_of("kivi2", shapes[i], NULL);
        for (size_t n = 2048; n <= 40000; n += n < 8192 ? 64 : 4097) {
            work *w = make_work(cache);
            add_span(w, n, 1);
            double got = speedup(w, 2);
            bool few = shapes[i].n_kv_heads == 1 && n < 4096;
            cr_assert_geq(got, few && n % 1024 != 0 ? 1.6 : 1.79, "shape %zu, %zu tokens: %g", i, n, got);
            expect_whole(w, 2);
            free(w);
        }
        kvq_cache_free(cache);
    }
}

Test(parallel, ragged_batches_are_shared_out_evenly)
{
    kvq_cache *cache = cache_of("kivi2", (shape){1, 2, 1, 64, 1}, NULL);
    for (size_t place = 0; place < 30; place += 29 / 2)
        for (int n_threads = 2; n_threads <= MOST_THREADS; n_threads++) {
            work *w = make_work(cache);
            for (size_t i = 0; i < 30; i++)
                add_span(w, i == place ? 60000 : 500 + 37 * i, i % 4);
            double got = speedup(w, n_threads);
            cr_assert_geq(got, 0.9 * n_threads, "the long one is number %zu, %d threads: %g", place,
                          n_threads, got);
            expect_whole(w, n_threads);
            free(w);
        }
    kvq_cache_free(cache);
}
