/* The cells that are missing, in tasks that threads take one after the other (sweep.h).
 *
 * A task is one window with a few schemes, which share its fp32 pass. Tasks do not depend on each other: so
 * they run side by side, each on one thread, as windows do in evaluate, and a thread writes what its task
 * gave before it takes the next. Nothing is held back for an end that may not come.
 */
#define _POSIX_C_SOURCE 200809L

#include "eval/sweep/sweep.h"

#include "eval/measure/cells.h"
#include "eval/measure/memory.h"
#include "eval/sweep/append.h"

#include <assert.h>
#include <cblas.h>
#include <omp.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

/* ---- what there is to measure ---- */

static evaluate_config base_config(const sweep_config *c)
{
    return (evaluate_config){.model = c->in->model,
                             .recording = c->in->recording,
                             .ids = c->in->ids,
                             .n_windows = c->in->n_windows,
                             .n_tokens = c->in->n_tokens,
                             .n_prompt = c->in->n_prompt,
                             .precision = c->precision,
                             .append_only = c->append_only};
}

/* Can a cache of this model be had? A head dimension may not do for it, or a layer that is named not be
 * there. */
static bool is_suited(sweep_plan *plan, const model_shape *shape, const kvq_scheme *scheme)
{
    kvq_cache *cache = NULL;
    eval_error why = {""};
    const bool good = memory_make_cache(&cache, shape, shape->n_layer, scheme, &why);
    kvq_cache_free(cache);
    if (!good && plan->n_unsuited++ == 0)
        snprintf(plan->first_unsuited, sizeof plan->first_unsuited, "%.100s: %.100s", kvq_scheme_text(scheme),
                 why.text);
    return good;
}

bool sweep_plan_make(sweep_plan *out, const sweep_config *c, eval_error *e)
{
    const evaluate_config base = base_config(c);
    sweep_plan plan = {.n_windows = c->in->n_windows};
    plan.ids_checksums = calloc(plan.n_windows, sizeof plan.ids_checksums[0]);
    plan.schemes = calloc(c->list->n + 1, sizeof plan.schemes[0]);
    bool good = (plan.ids_checksums && plan.schemes) || eval_fail(e, "out of memory");
    good = good && evaluate_experiment(&plan.experiment, &base, c->in->model_name, c->in->text_name,
                                       c->in->bos_id, c->seed, e);
    if (!good) {
        sweep_plan_free(&plan);
        return false;
    }
    for (size_t w = 0; w < plan.n_windows; w++)
        plan.ids_checksums[w] = evaluate_ids_checksum(&base, w);
    plan.schemes[plan.n_schemes++] = "fp32";
    for (size_t i = 0; i < c->list->n; i++) {
        const char *text = kvq_scheme_text(c->list->schemes[i]);
        if (strcmp(text, "fp32") != 0 && is_suited(&plan, evaluate_shape(&base), c->list->schemes[i]))
            plan.schemes[plan.n_schemes++] = text;
    }
    if (plan.n_unsuited > 0 && plan.n_unsuited == c->list->n) {
        (void)eval_fail(e, "no scheme suits this model; %s", plan.first_unsuited);
        sweep_plan_free(&plan);
        return false;
    }
    *out = plan;
    return true;
}

void sweep_plan_free(sweep_plan *plan)
{
    free(plan->ids_checksums);
    free(plan->schemes);
    memset(plan, 0, sizeof *plan);
}

uint64_t sweep_key(const sweep_plan *plan, size_t scheme, size_t window)
{
    return results_key(&plan->experiment, plan->schemes[scheme], window, plan->ids_checksums[window]);
}

bool sweep_load(results *out, const char *path, eval_error *e)
{
    struct stat info;
    if (!append_check(path, e))
        return false;
    if (stat(path, &info) == 0)
        return results_load(out, &path, 1, e);
    memset(out, 0, sizeof *out);
    return true;
}

/* ---- tasks ---- */

typedef struct task {
    size_t window;
    bool fp32;       /* the cell of fp32, too */
    size_t first, n; /* schemes: places in sweep.order */
} task;

typedef struct sweep {
    const sweep_config *config;
    const sweep_plan *plan;
    kvq_scheme **order; /* the schemes of all tasks, one task's after the other's; the list's own */
    task *tasks;
    size_t n_tasks, next; /* that no thread has taken */
    int fd;
    bool failed; /* all work ends */
    eval_error why;
} sweep;

static kvq_scheme *scheme_of(const scheme_list *list, const char *text)
{
    for (size_t i = 0; i < list->n; i++)
        if (kvq_scheme_text(list->schemes[i]) == text)
            return list->schemes[i];
    return NULL;
}

/* Are cells of this scheme and window this process's, and missing? Cells are dealt out one by one, so that
 * each part gets some of every family, which differ in how long they take. */
static bool is_missing(const sweep *s, const results *there, size_t scheme, size_t window)
{
    const size_t place = window * s->plan->n_schemes + scheme;
    return place % s->config->shard.n == s->config->shard.index &&
           !results_find(there, sweep_key(s->plan, scheme, window));
}

/* The groups of one window. */
static void plan_window(sweep *s, const results *there, size_t window, size_t group, size_t *n_order)
{
    task t = {.window = window, .fp32 = is_missing(s, there, 0, window), .first = *n_order};
    for (size_t i = 1; i < s->plan->n_schemes; i++) {
        if (!is_missing(s, there, i, window))
            continue;
        s->order[(*n_order)++] = scheme_of(s->config->list, s->plan->schemes[i]);
        if (++t.n == group) {
            s->tasks[s->n_tasks++] = t;
            t = (task){.window = window, .first = *n_order};
        }
    }
    if (t.n > 0 || t.fp32)
        s->tasks[s->n_tasks++] = t;
}

static bool plan_tasks(sweep *s, const results *there, eval_error *e)
{
    const size_t n_windows = s->plan->n_windows, n_schemes = s->plan->n_schemes;
    const size_t n_threads = (size_t)s->config->n_threads;
    size_t n_cells = 0, n_order = 0;
    s->order = calloc(n_windows * n_schemes, sizeof(kvq_scheme *));
    s->tasks = calloc(n_windows * n_schemes, sizeof s->tasks[0]);
    if (!s->order || !s->tasks)
        return eval_fail(e, "out of memory for %zu cells", n_windows * n_schemes);
    for (size_t w = 0; w < n_windows; w++)
        for (size_t i = 0; i < n_schemes; i++)
            n_cells += is_missing(s, there, i, w) ? 1 : 0;
    /* Smaller groups where otherwise some threads would have none. */
    const size_t share = (n_cells + n_threads - 1) / n_threads;
    const size_t group = share < s->config->group && share > 0 ? share : s->config->group;
    for (size_t w = 0; w < n_windows; w++)
        plan_window(s, there, w, group, &n_order);
    atomic_store(&s->config->state->n_cells, n_cells);
    return true;
}

/* ---- one task ---- */

/* What a thread has told of its task so far. */
typedef struct teller {
    sweep *sweep;
    size_t n_cells, told; /* of the task; thousandths */
} teller;

static void tell_progress(const sweep *s)
{
    if (s->config->progress) {
#pragma omp critical(sweep_progress)
        s->config->progress(s->config->progress_ctx);
    }
}

static void tell(void *ctx, double fraction)
{
    teller *t = ctx;
    const size_t now = (size_t)(1000.0 * fraction * (double)t->n_cells);
    if (now > t->told) {
        atomic_fetch_add(&t->sweep->config->state->thousandths, now - t->told);
        t->told = now;
        tell_progress(t->sweep);
    }
}

static bool should_stop(void *ctx)
{
    sweep *s = ctx;
    bool failed;
#pragma omp atomic read
    failed = s->failed;
    return failed || (s->config->stop && s->config->stop(s->config->stop_ctx));
}

static void fail(sweep *s, const eval_error *e)
{
#pragma omp critical(sweep_failed)
    {
        if (!s->failed)
            s->why = *e;
#pragma omp atomic write
        s->failed = true;
    }
}

static bool write_cells(sweep *s, const task *t, const evaluation *ev, eval_error *e)
{
    const inputs *in = s->config->in;
    size_t n_lines = 0;
    char **lines = calloc(ev->n_runs, sizeof lines[0]);
    bool good = lines || eval_fail(e, "out of memory");
    for (size_t i = t->fp32 ? 0 : 1; good && i < ev->n_runs; i++) {
        cell *c = &ev->runs[i].cells[0];
        good = !in->ids || cells_add_text(c, in->tokenizer, in->ids + t->window * in->n_tokens, e);
        if (good) {
            lines[n_lines] = results_line(&s->plan->experiment, c);
            good = lines[n_lines++] != NULL || eval_fail(e, "out of memory");
        }
    }
    good = good && append_lines(s->fd, s->config->out, (const char *const *)lines, n_lines, e);
    for (size_t i = 0; lines && i < n_lines; i++)
        free(lines[i]);
    free(lines);
    if (good)
        atomic_fetch_add(&s->config->state->n_done, n_lines);
    return good;
}

/* False if it could not be measured; what could not be written ends all work instead. */
static bool run_group(sweep *s, const task *t, teller *told, eval_error *e)
{
    const sweep_config *c = s->config;
    evaluate_config config = base_config(c);
    evaluation ev = {0};
    eval_error why = {""};
    if (config.ids)
        config.ids += t->window * config.n_tokens;
    config.first_window = t->window;
    config.n_windows = 1;
    config.schemes = s->order + t->first;
    config.n_schemes = t->n;
    config.n_threads = s->n_tasks > 1 ? 1 : c->n_threads;
    config.progress = tell;
    config.progress_ctx = told;
    config.stop = should_stop;
    config.stop_ctx = s;
    if (!evaluate(&ev, &config, e))
        return false;
    if (!write_cells(s, t, &ev, &why))
        fail(s, &why);
    evaluation_free(&ev);
    return true;
}

static void say_failed(sweep *s, const task *t, const eval_error *why)
{
    const char *scheme = t->n > 0 ? kvq_scheme_text(s->order[t->first]) : "fp32";
    atomic_fetch_add(&s->config->state->n_failed, t->n + (t->fp32 ? 1 : 0));
    if (s->config->failed) {
#pragma omp critical(sweep_progress)
        s->config->failed(s->config->failed_ctx, scheme, t->window, why);
    }
}

/* A group that fails is run again scheme by scheme, to lose no more than those that are to blame. */
static void run_task(sweep *s, const task *t)
{
    eval_error e = {""};
    teller told = {.sweep = s, .n_cells = t->n + (t->fp32 ? 1 : 0)};
    const bool good = run_group(s, t, &told, &e);
    if (!good && !should_stop(s)) {
        task one = {.window = t->window, .fp32 = t->fp32, .first = t->first};
        teller none = {.sweep = s}; /* counts no cells */
        if (t->n + (t->fp32 ? 1 : 0) == 1) {
            say_failed(s, t, &e);
        } else {
            if (one.fp32 && !run_group(s, &one, &none, &e) && !should_stop(s))
                say_failed(s, &one, &e);
            one.fp32 = false;
            for (one.n = 1; one.first < t->first + t->n && !should_stop(s); one.first++)
                if (!run_group(s, &one, &none, &e) && !should_stop(s))
                    say_failed(s, &one, &e);
        }
    }
    if (!should_stop(s))
        tell(&told, 1.0);
}

static void run_tasks(sweep *s)
{
    const size_t n_threads = (size_t)s->config->n_threads;
    const int n = (int)(s->n_tasks < n_threads ? s->n_tasks : n_threads);
    (void)n; /* where OpenMP is left out, as static analysis does */
    /* A cell's matrix products are one thread's. Where one task is left they would be shared out among idle
     * threads and round otherwise, and what a cell says must not depend on who is beside it. Attention may
     * have the threads: its bits do not depend on them. */
    omp_set_num_threads(1);
    openblas_set_num_threads(1);
#pragma omp parallel num_threads(n)
    while (!should_stop(s)) {
        size_t mine;
#pragma omp atomic capture
        mine = s->next++;
        if (mine >= s->n_tasks)
            break;
        run_task(s, &s->tasks[mine]);
    }
}

bool sweep_run(const sweep_config *config, const sweep_plan *plan, eval_error *e)
{
    sweep s = {.config = config, .plan = plan, .fd = -1};
    results there = {0};
    assert(config->n_threads >= 1 && config->group >= 1 && config->shard.index < config->shard.n);
    bool good = sweep_load(&there, config->out, e) && plan_tasks(&s, &there, e);
    results_free(&there);
    if (good && s.n_tasks > 0) {
        s.fd = append_open(config->out, e);
        good = s.fd >= 0;
        if (good) {
            tell_progress(&s);
            run_tasks(&s);
            (void)close(s.fd); /* each group is on disk */
        }
        if (good && s.failed)
            *e = s.why;
        else if (good && should_stop(&s))
            (void)eval_fail(e, "stopped");
        good = good && !s.failed && !should_stop(&s);
    }
    free(s.order);
    free(s.tasks);
    return good;
}
