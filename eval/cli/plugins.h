/* Codecs from shared objects: kvq-eval --plugin. */
#ifndef KVQ_EVAL_CLI_PLUGINS_H
#define KVQ_EVAL_CLI_PLUGINS_H

#include "eval/common/error.h"

#include <stdbool.h>

/** Load the shared object and register the codec it exports (lib/kvq_experimental.h). Errors: the file, what
 * it lacks, a name that is taken. */
EVAL_MUST_CHECK bool plugin_load(const char *path, eval_error *e);

#endif
