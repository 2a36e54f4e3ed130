/* Ctrl-C and its like: work that can end early with a result is asked to; everything else ends at once, and
 * leaves no temporary files. */
#ifndef KVQ_EVAL_COMMON_STOP_H
#define KVQ_EVAL_COMMON_STOP_H

#include <stdbool.h>

/**
 * Call once, before any file is opened. From then on SIGINT, SIGTERM and SIGHUP, unless ignored, remove the
 * temporary files before they end the process as they always do, and a file that outgrows the process's
 * limit is a failed write instead of SIGXFSZ.
 */
void stop_handle_signals(void);

/**
 * Between stop_on_request(true) and stop_on_request(false) the first SIGINT or SIGTERM is only noted, for
 * stop_requested; the second ends the process as above. One that was noted and not acted upon stays noted.
 */
void stop_on_request(bool on);

/** The signal that asked to stop, or 0. Any thread may call it. */
int stop_requested(void);

#endif
