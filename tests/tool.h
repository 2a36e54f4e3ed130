/* kvq-eval run as a user runs it, in a directory of the test's own. */
#ifndef KVQ_TESTS_TOOL_H
#define KVQ_TESTS_TOOL_H

#include <criterion/criterion.h>
#include <dirent.h>
#include <jansson.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/wait.h>
#include <unistd.h>

#define DATA KVQ_SOURCE_DIR "/data"
/* A run of a fraction of a second in which something is packed. */
#define SMALL "--windows 1 --tokens 80 --residual 32 --quiet "

static char work[64]; /* a directory of the test's own */
static char out[1 << 19], err[1 << 16];

static inline void enter(void)
{
    strcpy(work, "/tmp/kvq-tool-XXXXXX");
    cr_assert_not_null(mkdtemp(work));
}

static inline void leave(void)
{
    char line[128];
    snprintf(line, sizeof line, "rm -rf '%s'", work);
    cr_assert_eq(system(line), 0);
}

static inline size_t read_file(const char *name, char *text, size_t size)
{
    char path[256];
    snprintf(path, sizeof path, "%s/%s", work, name);
    FILE *f = fopen(path, "rb");
    cr_assert(f, "%s is missing", path);
    const size_t n = fread(text, 1, size - 1, f);
    cr_assert_lt(n, size - 1, "%s is too long for the test", name);
    text[n] = '\0';
    fclose(f);
    return n;
}

static inline void write_text(const char *name, const char *text, size_t n)
{
    char path[256];
    snprintf(path, sizeof path, "%s/%s", work, name);
    FILE *f = fopen(path, "wb");
    cr_assert(f && fwrite(text, 1, n, f) == n && fclose(f) == 0);
}

/* Run a shell command in the work directory, with $E for kvq-eval; fills out and err. KVQ_ISA stays as the
 * tests were started with. */
static inline int run(const char *format, ...)
{
    char line[4096];
    int used =
        snprintf(line, sizeof line,
                 "cd '%s' && E='%s' && export KVQ_DATA_DIR='%s' && unset NO_COLOR OPENBLAS_CORETYPE && { ",
                 work, KVQ_EVAL_BINARY, DATA);
    va_list arguments;
    va_start(arguments, format);
    used += vsnprintf(line + used, sizeof line - (size_t)used, format, arguments);
    va_end(arguments);
    snprintf(line + used, sizeof line - (size_t)used, "; } >.out 2>.err </dev/null");
    const int status = system(line);
    read_file(".out", out, sizeof out);
    read_file(".err", err, sizeof err);
    cr_assert(WIFEXITED(status), "%s: killed", line);
    return WEXITSTATUS(status);
}

static inline size_t n_lines(const char *text)
{
    size_t n = 0;
    for (; *text; text++)
        n += *text == '\n';
    return n;
}

/* The files the tool left in the work directory. */
static inline size_t n_files(void)
{
    size_t n = 0;
    DIR *d = opendir(work);
    cr_assert_not_null(d);
    for (struct dirent *entry; (entry = readdir(d));)
        n += entry->d_name[0] != '.';
    closedir(d);
    return n;
}

static inline json_t *load_json(const char *text)
{
    json_error_t why;
    json_t *root = json_loads(text, JSON_REJECT_DUPLICATES, &why);
    cr_assert(root, "line %d: %s", why.line, why.text);
    return root;
}

#endif
