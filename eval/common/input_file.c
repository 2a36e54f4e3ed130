/* Reads whole files, and parts of files that stay open (input_file.h).
 *
 * Nothing is mapped: a mapped file that another program cuts short ends the reader with SIGBUS.
 */
#define _POSIX_C_SOURCE 200809L

#include "eval/common/input_file.h"

#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

enum { FIRST_BYTES = 1 << 16, MAX_READ = 1 << 30 };

static bool make_path(char path[4096], const char *dir, const char *name, eval_error *e)
{
    const int length = dir ? snprintf(path, 4096, "%s/%s", dir, name) : snprintf(path, 4096, "%s", name);
    return (length >= 0 && length < 4096) || eval_fail(e, "%.200s...: path is longer than 4095 bytes", path);
}

/* ---- Which files were opened: outputs must not replace them ---- */

static struct opened {
    dev_t device;
    ino_t number;
} * opened;
static size_t n_opened;

static bool is_noted(const struct stat *info)
{
    for (size_t i = 0; i < n_opened; i++)
        if (opened[i].device == info->st_dev && opened[i].number == info->st_ino)
            return true;
    return false;
}

/* Without memory the file is not protected. */
static void note(const struct stat *info)
{
    if (!S_ISREG(info->st_mode) || is_noted(info))
        return;
    struct opened *more = realloc(opened, (n_opened + 1) * sizeof *more);
    if (!more)
        return;
    opened = more;
    opened[n_opened++] = (struct opened){info->st_dev, info->st_ino};
}

bool input_file_was_opened(const char *path)
{
    struct stat info;
    return stat(path, &info) == 0 && S_ISREG(info.st_mode) && is_noted(&info);
}

void input_file_forget_all(void)
{
    free(opened);
    opened = NULL;
    n_opened = 0;
}

void input_file_note(const char *path)
{
    struct stat info;
    if (stat(path, &info) == 0)
        note(&info);
}

/* ---- Opening and reading ---- */

/* What an open file is; *size is that of a regular file, which it must be unless `stream`. */
static bool check_kind(int fd, const char *path, bool stream, size_t *size, eval_error *e)
{
    struct stat info;
    if (fstat(fd, &info) != 0)
        return eval_fail(e, "%s: cannot read its size: %s", path, strerror(errno));
    if (S_ISDIR(info.st_mode))
        return eval_fail(e, "%s: is a directory, expected a file", path);
    if (!S_ISREG(info.st_mode) && !stream)
        return eval_fail(e, "%s: is not a regular file", path);
    if (S_ISREG(info.st_mode) && (uintmax_t)info.st_size > SIZE_MAX)
        return eval_fail(e, "%s: is too large for this machine's address space", path);
    *size = S_ISREG(info.st_mode) ? (size_t)info.st_size : 0;
    note(&info);
    return true;
}

bool input_file_open(int *fd, size_t *size, char path[4096], const char *dir, const char *name, eval_error *e)
{
    if (!make_path(path, dir, name, e))
        return false;
    /* O_NONBLOCK: opening a FIFO without a writer must fail below, not wait. */
    *fd = open(path, O_RDONLY | O_CLOEXEC | O_NONBLOCK);
    if (*fd < 0)
        return eval_fail(e, "%s: cannot open: %s", path, strerror(errno));
    if (check_kind(*fd, path, false, size, e))
        return true;
    (void)close(*fd);
    return false;
}

bool input_file_read_at(int fd, const char *path, void *dst, size_t n_bytes, size_t at, eval_error *e)
{
    char *next = dst;
    while (n_bytes > 0) {
        const ssize_t n = pread(fd, next, n_bytes < MAX_READ ? n_bytes : MAX_READ, (off_t)at);
        if (n < 0 && errno == EINTR)
            continue;
        if (n < 0)
            return eval_fail(e, "%s: cannot read at byte %zu: %s", path, at, strerror(errno));
        if (n == 0) {
            return eval_fail(
                e, "%s: ends at byte %zu, %zu more were expected: it has become shorter since it was opened",
                path, at, n_bytes);
        }
        next += n;
        at += (size_t)n;
        n_bytes -= (size_t)n;
    }
    return true;
}

/* To the end, wherever that is by now; `expected` bytes are likely. */
static bool read_all(input_file *f, int fd, size_t expected, eval_error *e)
{
    size_t capacity = expected > FIRST_BYTES && expected < INPUT_FILE_MAX_BYTES ? expected + 1 : FIRST_BYTES;
    for (ssize_t n = 1; n != 0;) {
        if (!f->data || f->size == capacity) {
            capacity = f->data ? 2 * capacity : capacity;
            uint8_t *data = realloc(f->data, capacity);
            if (!data)
                return eval_fail(e, "%s: out of memory after %zu bytes", f->path, f->size);
            f->data = data;
        }
        n = read(fd, f->data + f->size, capacity - f->size);
        if (n < 0 && errno != EINTR)
            return eval_fail(e, "%s: cannot read: %s", f->path, strerror(errno));
        f->size += n > 0 ? (size_t)n : 0;
        if (f->size > INPUT_FILE_MAX_BYTES)
            return eval_fail(e, "%s: is longer than %zu bytes", f->path, INPUT_FILE_MAX_BYTES);
    }
    return true;
}

static bool read_and_close(input_file *f, int fd, size_t expected, eval_error *e)
{
    const bool good = read_all(f, fd, expected, e);
    if (fd != STDIN_FILENO)
        (void)close(fd);
    if (!good)
        input_file_free(f);
    return good;
}

bool input_file_read(input_file *f, const char *dir, const char *name, eval_error *e)
{
    int fd = -1;
    size_t size = 0;
    memset(f, 0, sizeof *f);
    return input_file_open(&fd, &size, f->path, dir, name, e) && read_and_close(f, fd, size, e);
}

bool input_file_read_stream(input_file *f, const char *name, eval_error *e)
{
    const bool is_stdin = strcmp(name, "-") == 0;
    size_t size = 0;
    memset(f, 0, sizeof *f);
    if (!make_path(f->path, NULL, is_stdin ? "standard input" : name, e))
        return false;
    const int fd = is_stdin ? STDIN_FILENO : open(name, O_RDONLY | O_CLOEXEC);
    if (fd < 0)
        return eval_fail(e, "%s: cannot open: %s", f->path, strerror(errno));
    if (check_kind(fd, f->path, true, &size, e))
        return read_and_close(f, fd, size, e);
    if (!is_stdin)
        (void)close(fd);
    return false;
}

bool input_file_has_suffix(const char *name, const char *suffix)
{
    const size_t n = strlen(name), n_suffix = strlen(suffix);
    return n > n_suffix && strcmp(name + n - n_suffix, suffix) == 0;
}

void input_file_free(input_file *f)
{
    free(f->data);
    f->data = NULL;
    f->size = 0;
}
