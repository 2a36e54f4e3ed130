/* What is known of the terminal that standard output goes to. */
#ifndef KVQ_EVAL_COMMON_TERMINAL_H
#define KVQ_EVAL_COMMON_TERMINAL_H

#include <stddef.h>

enum { TERMINAL_WIDTH_ELSEWHERE = 100 };

/**
 * How many characters a line of standard output may have: the environment's COLUMNS if that is a number, else
 * the terminal's width, else, for files and pipes, TERMINAL_WIDTH_ELSEWHERE. At least 40.
 */
size_t terminal_width(void);

#endif
