/* Arguments of options, for every command: numbers, words and files, and the call of argp itself. What is
 * wrong ends the process with STATUS_BAD_USAGE and argp's kind of message. */
#ifndef KVQ_EVAL_COMMON_ARGUMENTS_H
#define KVQ_EVAL_COMMON_ARGUMENTS_H

#include <argp.h>
#include <stdbool.h>
#include <stdint.h>

/** Run argp. `doc` is what --help says above the options, `after` what it says below them. */
void arguments_parse(const struct argp_option *options, argp_parser_t parser, const char *doc,
                     const char *after, int argc, char **argv, void *input);

/** The same for a command that takes words, too: `words` is what --help says of them beside "[OPTION...]". */
void arguments_parse_words(const struct argp_option *options, argp_parser_t parser, const char *words,
                           const char *doc, const char *after, int argc, char **argv, void *input);

/** The value of the option --name as a whole number from min to max. */
uint64_t argument_number(const struct argp_state *state, const char *name, const char *text, uint64_t min,
                         uint64_t max);

/** The same with an ending k for 1,024 or m for 1,048,576, as contexts are called: 32k is 32,768. */
uint64_t argument_count(const struct argp_state *state, const char *name, const char *text, uint64_t min,
                        uint64_t max);

/** As a number above 0, or from 0 if `zero`, and up to `max`, which may be INFINITY. */
double argument_real(const struct argp_state *state, const char *name, const char *text, bool zero,
                     double max);

/** `text` itself, which must be one of the words; the list ends with NULL. */
const char *argument_word(const struct argp_state *state, const char *name, const char *text,
                          const char *const *words);

/** `text` itself, which must not be empty. */
const char *argument_file(const struct argp_state *state, const char *name, const char *text);

/** Two reports into one file would leave the last one only. Either path may be NULL. */
void argument_different_files(const struct argp_state *state, const char *name, const char *path,
                              const char *other_name, const char *other);

#endif
