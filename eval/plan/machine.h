/* Machines on paper: how much memory, how fast it is read, how fast numbers are multiplied. */
#ifndef KVQ_EVAL_PLAN_MACHINE_H
#define KVQ_EVAL_PLAN_MACHINE_H

#include "eval/common/error.h"

#include <stddef.h>

typedef struct plan_machine {
    char name[64];
    double memory;    /* bytes */
    double bandwidth; /* bytes per second read from memory */
    double flops;     /* floating-point operations per second in matrix products */
} plan_machine;

/** Machine i of the table; NULL behind the last. */
const plan_machine *plan_machine_at(size_t i);

/** The names of the table, with commas between. */
void plan_machine_names(char *text, size_t size);

/**
 * A machine of the table, or of a JSON file {"name", "memory_bytes", "bandwidth_bytes_per_s", "flops_per_s"},
 * of which the name may be left out. Errors name the file, the field and what was expected.
 */
EVAL_MUST_CHECK bool plan_machine_find(plan_machine *m, const char *name, eval_error *e);

#endif
