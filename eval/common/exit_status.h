/* The exit statuses of kvq-eval; kvq-eval.1 lists them. */
#ifndef KVQ_EVAL_COMMON_EXIT_STATUS_H
#define KVQ_EVAL_COMMON_EXIT_STATUS_H

enum {
    STATUS_GOOD = 0,
    STATUS_BAD_INPUT = 1,
    STATUS_BAD_USAGE = 2,
    STATUS_LIMIT_VIOLATED = 3,
    STATUS_SIGNAL = 128, /* plus the number of the signal that ended the work early */
};

#endif
