/* Processes that work on one sweep (jobs.h). */
#define _GNU_SOURCE

#include "eval/sweep/jobs.h"

#include <errno.h>
#include <signal.h>
#include <stdio.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>
#ifdef __linux__
#include <sys/prctl.h>
#endif

static size_t shared_bytes(size_t n)
{
    return n * sizeof(job) + sizeof(atomic_bool);
}

/* What a copy does first. One whose parent is gone would work on unseen. */
static void begin_copy(pid_t parent)
{
#ifdef __linux__
    (void)prctl(PR_SET_PDEATHSIG, SIGTERM);
#endif
    if (getppid() != parent)
        (void)raise(SIGTERM);
}

bool jobs_start(jobs *out, size_t n, eval_error *e)
{
    memset(out, 0, sizeof *out);
    void *shared = mmap(NULL, shared_bytes(n), PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
    if (shared == MAP_FAILED)
        return eval_fail(e, "out of memory for %zu processes", n);
    out->all = shared; /* all zero */
    out->n = n;
    out->stop = (atomic_bool *)(out->all + n);
    const pid_t parent = getpid();
    for (size_t i = 1; i < n; i++) {
        out->pids[i] = fork();
        if (out->pids[i] == 0) {
            begin_copy(parent);
            out->mine = i;
            return true;
        }
        if (out->pids[i] < 0) {
            const int reason = errno;
            eval_error ignored = {""};
            atomic_store(out->stop, true);
            out->n = i;
            if (!jobs_wait(out, NULL, NULL, &ignored))
                ignored.text[0] = '\0'; /* they were told to end */
            jobs_free(out);
            return eval_fail(e, "--jobs %zu: cannot start a process: %s", n, strerror(reason));
        }
    }
    return true;
}

/* What a process left behind, as the first failure's message. */
static void judge(const jobs *j, size_t i, int status, bool *good, eval_error *e)
{
    if (!*good || (WIFEXITED(status) && WEXITSTATUS(status) == 0))
        return;
    *good = false;
    const char *why = j->all[i].error;
    if (why[0] != '\0')
        (void)eval_fail(e, "%s", why);
    else if (WIFSIGNALED(status))
        (void)eval_fail(e, "process %zu of --jobs %zu was ended by signal %d (%s)", i + 1, j->n,
                        WTERMSIG(status), strsignal(WTERMSIG(status)));
    else
        (void)eval_fail(e, "process %zu of --jobs %zu ended with status %d", i + 1, j->n,
                        WEXITSTATUS(status));
}

bool jobs_wait(jobs *j, void (*tick)(void *ctx), void *ctx, eval_error *e)
{
    bool good = true;
    for (size_t i = 1; i < j->n; i++) {
        int status = 0;
        pid_t ended = 0;
        while ((ended = waitpid(j->pids[i], &status, WNOHANG)) == 0 || (ended < 0 && errno == EINTR)) {
            if (tick)
                tick(ctx);
            (void)nanosleep(&(struct timespec){.tv_nsec = 50000000}, NULL);
        }
        if (ended > 0)
            judge(j, i, status, &good, e);
    }
    return good;
}

void jobs_sum(const jobs *j, sweep_state *out)
{
    memset(out, 0, sizeof *out);
    for (size_t i = 0; i < j->n; i++) {
        const sweep_state *s = &j->all[i].state;
        out->n_cells += atomic_load(&s->n_cells);
        out->n_done += atomic_load(&s->n_done);
        out->n_failed += atomic_load(&s->n_failed);
        out->thousandths += atomic_load(&s->thousandths);
    }
}

void jobs_free(jobs *j)
{
    if (j->all)
        (void)munmap(j->all, shared_bytes(j->n));
    memset(j, 0, sizeof *j);
}
