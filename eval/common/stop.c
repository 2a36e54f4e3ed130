/* Signals that end the program or ask it to end (stop.h). */
#define _POSIX_C_SOURCE 200809L

#include "eval/common/stop.h"

#include "eval/common/output_file.h"

#include <signal.h>
#include <stdatomic.h>
#include <string.h>

/* Lock-free, so that a handler may use them. */
static atomic_int on_request, requested;

static void handle(int signal_number)
{
    int none = 0;
    if (atomic_load(&on_request) && signal_number != SIGHUP && /* a terminal that is gone shows no result */
        atomic_compare_exchange_strong(&requested, &none, signal_number))
        return;
    output_file_remove_temporaries();
    (void)signal(signal_number, SIG_DFL);
    (void)raise(signal_number); /* takes effect when this handler returns */
}

void stop_handle_signals(void)
{
    static const int deadly[] = {SIGINT, SIGTERM, SIGHUP};
    for (size_t i = 0; i < sizeof deadly / sizeof deadly[0]; i++) {
        struct sigaction action;
        if (sigaction(deadly[i], NULL, &action) == 0 &&
            action.sa_handler == SIG_DFL) { /* nohup ignores one */
            memset(&action, 0, sizeof action);
            action.sa_handler = handle;
            action.sa_flags = SA_RESTART; /* a noted signal must not fail a write */
            (void)sigemptyset(&action.sa_mask);
            (void)sigaction(deadly[i], &action, NULL);
        }
    }
    (void)signal(SIGXFSZ, SIG_IGN); /* the write fails with EFBIG instead, which gets a message */
}

void stop_on_request(bool on)
{
    atomic_store(&on_request, on);
}

int stop_requested(void)
{
    return atomic_load(&requested);
}
