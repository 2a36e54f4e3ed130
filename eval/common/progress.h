/* One line of progress with the time left, on standard error when a person watches it. */
#ifndef KVQ_EVAL_COMMON_PROGRESS_H
#define KVQ_EVAL_COMMON_PROGRESS_H

#include <stdbool.h>

typedef struct progress {
    bool shown;         /* false: every call does nothing */
    bool drawn;         /* a line stands on the terminal and must be cleared */
    double start, last; /* seconds */
} progress;

/** Seconds of a clock that never goes back. */
double progress_now(void);

/** Start; shows nothing if `quiet` or if standard error is not a terminal. */
void progress_start(progress *p, bool quiet);

/** Say that `fraction` (0 to 1) of the work is done. Redraws at most ten times a second. */
void progress_update(progress *p, const char *what, double fraction);

/** Clear the line. */
void progress_end(progress *p);

#endif
