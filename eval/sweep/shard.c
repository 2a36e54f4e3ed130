/* Shards (shard.h). */
#include "eval/sweep/shard.h"

#include <errno.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

static bool read_number(const char *text, size_t *out)
{
    char *end = NULL;
    errno = 0;
    const unsigned long long value = strtoull(text, &end, 10);
    *out = (size_t)value;
    return text[0] >= '0' && text[0] <= '9' && *end == '\0' && errno == 0 && value <= UINT32_MAX;
}

void shard_divide(shard *s, size_t index, size_t n)
{
    s->index = s->index * n + index;
    s->n *= n;
}

bool shard_parse(shard *out, const char *text, eval_error *e)
{
    char first[32];
    const char *slash = strchr(text, '/');
    size_t index = 0, n = 0;
    snprintf(first, sizeof first, "%.*s", slash ? (int)(slash - text < 31 ? slash - text : 31) : 0, text);
    if (!slash || !read_number(first, &index) || !read_number(slash + 1, &n) || index < 1 || index > n ||
        n > SHARD_MAX)
        return eval_fail(e, "--shard: expected I/N with I from 1 to N, such as 2/8, not '%.60s'", text);
    *out = (shard){.index = index - 1, .n = n};
    snprintf(out->source, sizeof out->source, "--shard");
    return true;
}

/* Variables that tell of a part; those of one level are tried in order, levels divide each other. */
static const struct source {
    int level;
    const char *index, *count, *least, *step;
} sources[] = {
    {0, "SLURM_ARRAY_TASK_ID", "SLURM_ARRAY_TASK_COUNT", "SLURM_ARRAY_TASK_MIN", "SLURM_ARRAY_TASK_STEP"},
    {1, "OMPI_COMM_WORLD_RANK", "OMPI_COMM_WORLD_SIZE", NULL, NULL},
    {1, "PMI_RANK", "PMI_SIZE", NULL, NULL},
    {1, "PMIX_RANK", "SLURM_STEP_NUM_TASKS", NULL, NULL},
};

/* The value of a variable that may be absent; false if it is there and no number. */
static bool read_variable(const char *name, size_t otherwise, size_t *out, eval_error *e)
{
    const char *text = name ? getenv(name) : NULL;
    *out = otherwise;
    return !text || read_number(text, out) || eval_fail(e, "%s: expected a number, not '%.60s'", name, text);
}

static bool read_source(shard *out, const struct source *s, eval_error *e)
{
    size_t index = 0, n = 0, least = 0, step = 1;
    if (!read_variable(s->index, 0, &index, e) || !read_variable(s->count, 0, &n, e) ||
        !read_variable(s->least, 0, &least, e) || !read_variable(s->step, 1, &step, e))
        return false;
    if (n == 0)
        return eval_fail(e,
                         "%s is set, but not %s: say with --shard which part of the cells this process takes",
                         s->index, s->count);
    const size_t place = index >= least && step > 0 ? (index - least) / step : n;
    if (place >= n || n > SHARD_MAX)
        return eval_fail(e,
                         "%s=%zu does not count up by one step to %s=%zu: say with --shard which part of the "
                         "cells this process takes",
                         s->index, index, s->count, n);
    const size_t used = strlen(out->source);
    snprintf(out->source + used, sizeof out->source - used, "%s%s", used > 0 ? " and " : "", s->index);
    shard_divide(out, place, n);
    return true;
}

bool shard_from_environment(shard *out, eval_error *e)
{
    shard s = {.index = 0, .n = 1};
    int level = -1; /* the last that was found */
    for (size_t i = 0; i < sizeof sources / sizeof sources[0]; i++) {
        if (sources[i].level == level || !getenv(sources[i].index))
            continue;
        if (!read_source(&s, &sources[i], e))
            return false;
        level = sources[i].level;
    }
    *out = s;
    return true;
}
