/* One line of progress with the time left (progress.h). */
#define _POSIX_C_SOURCE 200809L

#include "eval/common/progress.h"

#include <stdarg.h>
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
    *p = (progress){.shown = !quiet && isatty(STDERR_FILENO) == 1, .start = progress_now()};
}

void progress_say(progress *p, const char *format, ...)
{
    if (!p->shown)
        return;
    va_list args;
    va_start(args, format);
    fputs("\r", stderr);
    vfprintf(stderr, format, args);
    fputs(" ...\033[K", stderr);
    va_end(args);
    fflush(stderr);
    p->drawn = true;
}

void progress_count(progress *p, double n_units, const char *unit)
{
    p->start = progress_now();
    p->n_units = n_units;
    p->unit = unit;
}

/* Counts up to a million million, with commas between thousands. */
static void count_text(char *text, size_t size, double x)
{
    const unsigned long long n = (unsigned long long)x;
    if (n < 1000)
        snprintf(text, size, "%llu", n);
    else if (n < 1000000)
        snprintf(text, size, "%llu,%03llu", n / 1000, n % 1000);
    else
        snprintf(text, size, "%llu,%03llu,%03llu", n / 1000000, n / 1000 % 1000, n % 1000);
}

void progress_update(progress *p, const char *what, double fraction)
{
    if (!p->shown)
        return;
    const double now = progress_now(), seconds = now - p->start;
    if (p->drawn && now - p->last < 0.1)
        return;
    p->last = now;
    p->drawn = true;
    fprintf(stderr, "\r%s: %3.0f %%", what, 100.0 * fraction);
    if (p->n_units > 0.0) {
        char done[40], all[40];
        count_text(done, sizeof done, p->n_units * fraction);
        count_text(all, sizeof all, p->n_units);
        fprintf(stderr, ", %s of %s %s", done, all, p->unit);
        if (seconds > 0.0)
            fprintf(stderr, ", %.*f %s/s", p->n_units * fraction < 10.0 * seconds ? 1 : 0,
                    p->n_units * fraction / seconds, p->unit);
    }
    /* The first few percent say too little about the rest. */
    if (fraction >= 0.03 && seconds >= 0.5) {
        const long left = (long)(seconds * (1.0 - fraction) / fraction + 0.5);
        fprintf(stderr, ", about %ld:%02ld left", left / 60, left % 60);
    }
    fputs(" \033[K", stderr);
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
