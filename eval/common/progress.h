/* One line of progress with the time left, on standard error when a person watches it. */
#ifndef KVQ_EVAL_COMMON_PROGRESS_H
#define KVQ_EVAL_COMMON_PROGRESS_H

#include "eval/common/error.h"

#include <stdbool.h>

typedef struct progress {
    bool shown;         /* false: every call does nothing */
    bool drawn;         /* a line stands on the terminal and must be cleared */
    double start, last; /* seconds */
    double n_units;     /* of the work that updates tell of; 0: not counted */
    const char *unit;   /* plural */
} progress;

/** Seconds of a clock that never goes back. */
double progress_now(void);

/** Start; shows nothing if `quiet` or if standard error is not a terminal. */
void progress_start(progress *p, bool quiet);

/** Say what is being done, at once; for work without a measure. */
EVAL_PRINTF_LIKE(2, 3) void progress_say(progress *p, const char *format, ...);

/** From now on the work is n_units units, such as "steps", and updates tell how many are done and how many a
 * second. */
void progress_count(progress *p, double n_units, const char *unit);

/** Say that `fraction` (0 to 1) of the work is done. Redraws at most ten times a second. */
void progress_update(progress *p, const char *what, double fraction);

/** Clear the line. */
void progress_end(progress *p);

#endif
