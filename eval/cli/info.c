/* `kvq-eval info` (info.h). */
#define _GNU_SOURCE

#include "eval/cli/info.h"

#include "eval/common/arguments.h"
#include "eval/common/exit_status.h"
#include "eval/model/inputs.h"
#include "lib/kvq.h"

#include <cblas.h>
#include <omp.h>
#include <stdio.h>
#include <stdlib.h>

enum { KEY_THREADS = 0x300 };

const struct argp_option info_options_list[] = {
    {"threads", KEY_THREADS, "N", 0, "Threads (default: one per processor)", 0}, {0}};

static error_t parse_option(int key, char *arg, struct argp_state *state)
{
    if (key != KEY_THREADS)
        return ARGP_ERR_UNKNOWN;
    *(int *)state->input = (int)argument_number(state, "threads", arg, 1, 1024);
    return 0;
}

int info_main(const char *doc, int argc, char **argv)
{
    int threads = omp_get_max_threads();
    arguments_parse(info_options_list, parse_option, doc, "", argc, argv, &threads);
    const char *isa = kvq_isa(), *wanted = getenv("KVQ_ISA");
    if (!isa) {
        fprintf(stderr, "kvq-eval: KVQ_ISA=%s: no instruction set of that name runs here\n",
                wanted ? wanted : "");
        return STATUS_BAD_INPUT;
    }
    char data[4096];
    inputs_data_dir(data, sizeof data);
    printf("kvq-eval         %d.%d.%d\n", KVQ_VERSION_MAJOR, KVQ_VERSION_MINOR, KVQ_VERSION_PATCH);
    printf("libkvq           %s\n", kvq_version());
    printf("instruction set  %s\n", isa);
    printf("threads          %d\n", threads);
    printf("OpenBLAS         %s\n", openblas_get_config());
    printf("OpenBLAS kernels %s\n", openblas_get_corename());
    printf("data directory   %s\n", data);
    return STATUS_GOOD;
}
