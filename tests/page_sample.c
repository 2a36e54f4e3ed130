/* Prints made-up results (page_data.h), for tests of pages that run other programs. An argument: number
 * of windows. */
#define _POSIX_C_SOURCE 200809L

#include "tests/page_data.h"

int main(int argc, char **argv)
{
    const experiment x = page_experiment();
    page_write_lines(stdout, &x, argc > 1 ? (size_t)strtoul(argv[1], NULL, 10) : 4, 1);
    return 0;
}
