/* Arguments of options (arguments.h), on the C library's argp. */
#define _GNU_SOURCE

#include "eval/common/arguments.h"

#include "eval/common/exit_status.h"
#include "eval/common/output_file.h"

#include <errno.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

void arguments_parse_words(const struct argp_option *options, argp_parser_t parser, const char *words,
                           const char *doc, const char *after, int argc, char **argv, void *input)
{
    char text[4096];
    snprintf(text, sizeof text, "%s\v%s", doc, after);
    const struct argp how = {options, parser, words, text, NULL, NULL, NULL};
    argp_err_exit_status = STATUS_BAD_USAGE;
    const error_t status = argp_parse(&how, argc, argv, 0, NULL, input);
    if (status != 0) { /* what the command line says wrong has ended the process already */
        fprintf(stderr, "%s: cannot read the command line: %s\n", argv[0], strerror(status));
        exit(STATUS_BAD_USAGE);
    }
}

void arguments_parse(const struct argp_option *options, argp_parser_t parser, const char *doc,
                     const char *after, int argc, char **argv, void *input)
{
    arguments_parse_words(options, parser, NULL, doc, after, argc, argv, input);
}

uint64_t argument_number(const struct argp_state *state, const char *name, const char *text, uint64_t min,
                         uint64_t max)
{
    char *end = NULL;
    errno = 0;
    const unsigned long long value = strtoull(text, &end, 10);
    if (text[0] < '0' || text[0] > '9' || *end != '\0' || errno != 0 || value < min || value > max) {
        argp_error(state, "--%s: expected a whole number from %llu to %llu, not '%s'", name,
                   (unsigned long long)min, (unsigned long long)max, text);
    }
    return value;
}

uint64_t argument_count(const struct argp_state *state, const char *name, const char *text, uint64_t min,
                        uint64_t max)
{
    char *end = NULL;
    errno = 0;
    const unsigned long long value = strtoull(text, &end, 10);
    const unsigned shift = *end == 'k' || *end == 'K' ? 10 : *end == 'm' || *end == 'M' ? 20 : 0;
    if (text[0] < '0' || text[0] > '9' || end[shift > 0] != '\0' || errno != 0 || value > max >> shift ||
        value << shift < min) {
        argp_error(state, "--%s: expected a whole number from %llu to %llu, such as 4096 or 4k, not '%s'",
                   name, (unsigned long long)min, (unsigned long long)max, text);
    }
    return value << shift;
}

double argument_real(const struct argp_state *state, const char *name, const char *text, bool zero,
                     double max)
{
    char *end = NULL;
    const double value = strtod(text, &end);
    if (end == text || *end != '\0' || !isfinite(value) || value < 0.0 || value > max ||
        (value <= 0.0 && !zero)) {
        char upto[40] = "";
        if (isfinite(max))
            snprintf(upto, sizeof upto, " and up to %g", max);
        argp_error(state, "--%s: expected a number %s 0%s, not '%s'", name, zero ? "from" : "above", upto,
                   text);
    }
    return value;
}

const char *argument_word(const struct argp_state *state, const char *name, const char *text,
                          const char *const *words)
{
    char list[80] = "";
    for (size_t i = 0; words[i]; i++) {
        if (strcmp(text, words[i]) == 0)
            return text;
        const size_t used = strlen(list);
        snprintf(list + used, sizeof list - used, "%s%s",
                 i == 0         ? ""
                 : words[i + 1] ? ", "
                                : " or ",
                 words[i]);
    }
    argp_error(state, "--%s: must be %s, not '%s'", name, list, text);
    return text;
}

const char *argument_file(const struct argp_state *state, const char *name, const char *text)
{
    if (text[0] == '\0')
        argp_error(state, "--%s: the name is empty", name);
    return text;
}

void argument_different_files(const struct argp_state *state, const char *name, const char *path,
                              const char *other_name, const char *other)
{
    if (path && other && output_file_same(path, other))
        argp_error(state, "--%s and --%s: '%s' and '%s' are one file", name, other_name, path, other);
}
