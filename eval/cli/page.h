/* `kvq-eval report`: a page, figures and tables from results files. */
#ifndef KVQ_EVAL_CLI_PAGE_H
#define KVQ_EVAL_CLI_PAGE_H

#include <argp.h>

extern const struct argp_option page_options_list[];

/** Parse, run, write; gives the exit status. */
int page_main(const char *doc, int argc, char **argv);

#endif
