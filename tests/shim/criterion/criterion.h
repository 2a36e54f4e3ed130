/*
 * What the checks of kernels (check_*.c) need of Criterion, for crosscheck.c, which runs where there is none.
 */
#ifndef KVQ_TESTS_SHIM_CRITERION_H
#define KVQ_TESTS_SHIM_CRITERION_H

#include <stdio.h>
#include <stdlib.h>

/* cr_assert(condition) or cr_assert(condition, format, argument...). Ends the program if it does not hold. */
#define cr_assert(condition, ...)                                                                            \
    ((condition) ? (void)0                                                                                   \
                 : (fprintf(stderr, "%s:%d: %s:", __FILE__, __LINE__, #condition),                           \
                    fprintf(stderr, " " __VA_ARGS__), fprintf(stderr, "\n"), exit(1)))

#endif /* KVQ_TESTS_SHIM_CRITERION_H */
