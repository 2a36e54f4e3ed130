/* A file that appears whole or not at all (output_file.h). */
#define _POSIX_C_SOURCE 200809L

#include "eval/common/output_file.h"

#include <errno.h>
#include <fcntl.h>
#include <signal.h>
#include <stdatomic.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

/* ---- temporary files and signals ---- */

/* The temporary files there are, or are about to be; NULL where a place is free. A file is noted before it is
 * made and forgotten after it is gone, so that at no moment a signal finds one that is not in the list. */
enum { MAX_TEMPORARIES = 8 };
static _Atomic(const char *) temporaries[MAX_TEMPORARIES];

static void note_temporary(const char *path)
{
    for (size_t i = 0; i < MAX_TEMPORARIES; i++) {
        const char *none = NULL;
        if (atomic_compare_exchange_strong(&temporaries[i], &none, path))
            return;
    }
}

static void forget_temporary(const char *path)
{
    for (size_t i = 0; i < MAX_TEMPORARIES; i++) {
        const char *noted = path;
        (void)atomic_compare_exchange_strong(&temporaries[i], &noted, NULL);
    }
}

static void remove_temporaries_and_die(int signal_number)
{
    for (size_t i = 0; i < MAX_TEMPORARIES; i++) {
        const char *path = atomic_load(&temporaries[i]);
        if (path)
            (void)unlink(path);
    }
    (void)signal(signal_number, SIG_DFL);
    (void)raise(signal_number); /* takes effect when this handler returns */
}

void output_file_handle_signals(void)
{
    static const int deadly[] = {SIGINT, SIGTERM, SIGHUP};
    for (size_t i = 0; i < sizeof deadly / sizeof deadly[0]; i++) {
        struct sigaction action;
        if (sigaction(deadly[i], NULL, &action) == 0 &&
            action.sa_handler == SIG_DFL) { /* nohup ignores one */
            memset(&action, 0, sizeof action);
            action.sa_handler = remove_temporaries_and_die;
            (void)sigemptyset(&action.sa_mask);
            (void)sigaction(deadly[i], &action, NULL);
        }
    }
    (void)signal(SIGXFSZ, SIG_IGN); /* the write fails with EFBIG instead, which gets a message */
}

/* ---- paths ---- */

/* mkstemp makes files that only their owner can read; give the file the mode any other tool would give it. */
static void use_ordinary_mode(int fd)
{
    const mode_t mask = umask(0);
    umask(mask);
    if (fchmod(fd, 0666 & ~mask) != 0) {
        /* Some file systems have no modes; the file is still whole and right. */
    }
}

/* The directory part of a path that is shorter than `size`. */
static void directory_of(const char *path, char *directory, size_t size)
{
    const char *slash = strrchr(path, '/');
    if (!slash)
        snprintf(directory, size, ".");
    else if (slash == path)
        snprintf(directory, size, "/");
    else
        snprintf(directory, size, "%.*s", (int)(slash - path), path);
}

/* Bring a directory's entries to disk, as far as the file system allows. */
static void sync_directory_of(const char *path)
{
    char directory[4096];
    directory_of(path, directory, sizeof directory);
    const int fd = open(directory, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
    if (fd >= 0) {
        (void)fsync(fd); /* the data itself is synced; a directory that cannot be is no error */
        (void)close(fd);
    }
}

static const char *without_dot_slash(const char *path)
{
    while (path[0] == '.' && path[1] == '/') {
        path += 2;
        path += strspn(path, "/");
    }
    return path;
}

bool output_file_same(const char *a, const char *b)
{
    a = without_dot_slash(a);
    b = without_dot_slash(b);
    struct stat of_a, of_b;
    return strcmp(a, b) == 0 || (stat(a, &of_a) == 0 && stat(b, &of_b) == 0 && of_a.st_dev == of_b.st_dev &&
                                 of_a.st_ino == of_b.st_ino);
}

bool output_file_check(const char *path, eval_error *e)
{
    char directory[4096];
    struct stat info;
    if (strcmp(path, "-") == 0)
        return true;
    if (path[0] == '\0' || strlen(path) + sizeof ".XXXXXX" > sizeof directory)
        return eval_fail(e, "%.200s: not a usable file name", path[0] == '\0' ? "(empty)" : path);
    const bool exists = stat(path, &info) == 0;
    if (exists && S_ISDIR(info.st_mode))
        return eval_fail(e, "%s: cannot write: %s", path, strerror(EISDIR));
    directory_of(path, directory, sizeof directory);
    const char *target = exists && !S_ISREG(info.st_mode) ? path : directory;
    return access(target, W_OK) == 0 || eval_fail(e, "%s: cannot write: %s", path, strerror(errno));
}

/* ---- open, commit, discard ---- */

bool output_file_open(output_file *f, const char *path, eval_error *e)
{
    memset(f, 0, sizeof *f);
    if (strcmp(path, "-") == 0) {
        f->is_stdout = true;
        f->stream = stdout;
        return true;
    }
    const int n = snprintf(f->temporary, sizeof f->temporary, "%s.XXXXXX", path);
    if (path[0] == '\0' || n < 0 || (size_t)n >= sizeof f->temporary)
        return eval_fail(e, "%.200s: not a usable file name", path[0] == '\0' ? "(empty)" : path);
    memcpy(f->path, path, strlen(path) + 1);
    struct stat info;
    if (stat(path, &info) == 0 && !S_ISREG(info.st_mode)) {
        /* A device or a pipe can't be replaced by a rename: write into it. */
        f->temporary[0] = '\0';
        f->stream = S_ISDIR(info.st_mode) ? NULL : fopen(path, "w");
        if (!f->stream) {
            return eval_fail(e, "%s: cannot write: %s", path,
                             S_ISDIR(info.st_mode) ? "is a directory" : strerror(errno));
        }
        return true;
    }
    note_temporary(f->temporary); /* mkstemp writes the name there before it makes the file */
    const int fd = mkstemp(f->temporary);
    if (fd < 0) {
        const int reason = errno;
        forget_temporary(f->temporary);
        return eval_fail(e, "%s: cannot create a temporary file beside it: %s", path, strerror(reason));
    }
    use_ordinary_mode(fd);
    f->stream = fdopen(fd, "w");
    if (!f->stream) {
        const int reason = errno;
        (void)close(fd);
        (void)unlink(f->temporary);
        forget_temporary(f->temporary);
        return eval_fail(e, "%s: cannot write: %s", path, strerror(reason));
    }
    return true;
}

bool output_file_commit(output_file *f, eval_error *e)
{
    FILE *stream = f->stream;
    f->stream = NULL;
    const char *name = f->is_stdout ? "standard output" : f->path;
    /* After a failed write errno still says why: nothing since then was a system call that failed. */
    const bool written = !ferror(stream) && fflush(stream) == 0;
    const int write_errno = errno;
    if (f->is_stdout)
        return written || eval_fail(e, "%s: write failed: %s", name, strerror(write_errno));
    const bool replaces = f->temporary[0] != '\0';
    bool good = written && (!replaces || fsync(fileno(stream)) == 0);
    int reason = written ? errno : write_errno;
    if (fclose(stream) != 0 && good) {
        good = false;
        reason = errno;
    }
    if (good && replaces && rename(f->temporary, f->path) != 0) {
        good = false;
        reason = errno;
    }
    if (!good && replaces)
        (void)unlink(f->temporary);
    forget_temporary(f->temporary);
    if (!good)
        return eval_fail(e, "%s: write failed: %s", name, strerror(reason));
    if (replaces)
        sync_directory_of(f->path);
    return true;
}

void output_file_discard(output_file *f)
{
    if (!f->stream)
        return;
    if (!f->is_stdout) {
        (void)fclose(f->stream);
        if (f->temporary[0] != '\0') {
            (void)unlink(f->temporary);
            forget_temporary(f->temporary);
        }
    }
    f->stream = NULL;
}
