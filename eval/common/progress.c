/* One line of progress with the time left (progress.h). */
#define _POSIX_C_SOURCE 200809L

#include "eval/common/progress.h"

#include <stdio.h>
#include <time.h>
#include <unistd.h>

double progress_now(void)
{
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return (double)t.tv_sec + 1e-9 * (double)t.tv_nsec;
}

void progress_start(progress *p, bool quiet)
{
    p->shown = !quiet && isatty(STDERR_FILENO) == 1;
    p->drawn = false;
    p->start = progress_now();
    p->last = 0.0;
}

void progress_update(progress *p, const char *what, double fraction)
{
    if (!p->shown)
        return;
    const double now = progress_now();
    if (p->drawn && now - p->last < 0.1)
        return;
    p->last = now;
    p->drawn = true;
    fprintf(stderr, "\r%s: %3.0f %%", what, 100.0 * fraction);
    /* The first few percent say too little about the rest. */
    if (fraction >= 0.03 && now - p->start >= 0.5) {
        const double left = (now - p->start) * (1.0 - fraction) / fraction;
        const long seconds = (long)(left + 0.5);
        fprintf(stderr, ", about %ld:%02ld left ", seconds / 60, seconds % 60);
    }
    fputs("\033[K", stderr);
    fflush(stderr);
}

void progress_end(progress *p)
{
    if (p->drawn) {
        fputs("\r\033[K", stderr);
        fflush(stderr);
    }
    p->drawn = false;
    p->shown = false;
}
