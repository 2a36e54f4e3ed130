/* A file that appears whole or not at all (output_file.h). */
#define _POSIX_C_SOURCE 200809L

#include "eval/common/output_file.h"

#include "eval/common/input_file.h"

#include <errno.h>
#include <fcntl.h>
#include <stdatomic.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

/* ---- temporary files ---- */

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

void output_file_remove_temporaries(void)
{
    for (size_t i = 0; i < MAX_TEMPORARIES; i++) {
        const char *path = atomic_load(&temporaries[i]);
        if (path)
            (void)unlink(path);
    }
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

/* Where a path leads: symbolic links followed to the end, which need not exist. False if there is no end. */
static bool follow_links(const char *path, char target[4096])
{
    enum { MAX_LINKS = 40 };
    if (path[0] == '\0' || strlen(path) >= 4096 - sizeof ".XXXXXX")
        return false;
    memcpy(target, path, strlen(path) + 1);
    for (int i = 0; i < MAX_LINKS; i++) {
        char link[4096], joined[8200];
        const ssize_t n = readlink(target, link, sizeof link - 1);
        if (n <= 0)
            return true; /* no link, or nothing */
        link[n] = '\0';
        const char *slash = strrchr(target, '/');
        const int directory = link[0] == '/' || !slash ? 0 : (int)(slash - target) + 1;
        snprintf(joined, sizeof joined, "%.*s%s", directory, target, link);
        if (strlen(joined) >= 4096 - sizeof ".XXXXXX")
            return false;
        memcpy(target, joined, strlen(joined) + 1);
    }
    return false;
}

static bool same_inode(const char *a, const char *b)
{
    struct stat of_a, of_b;
    return stat(a, &of_a) == 0 && stat(b, &of_b) == 0 && of_a.st_dev == of_b.st_dev &&
           of_a.st_ino == of_b.st_ino;
}

bool output_file_same(const char *a, const char *b)
{
    char target_a[4096], target_b[4096], directory_a[4096], directory_b[4096];
    struct stat info;
    if (stat(a, &info) == 0 && !S_ISREG(info.st_mode) && !S_ISDIR(info.st_mode))
        return false; /* a device or a pipe takes both */
    if (!follow_links(a, target_a) || !follow_links(b, target_b))
        return strcmp(a, b) == 0;
    if (same_inode(target_a, target_b))
        return true;
    /* Two that do not exist yet are one if they would be made in one directory under one name. */
    const char *slash_a = strrchr(target_a, '/'), *slash_b = strrchr(target_b, '/');
    if (strcmp(slash_a ? slash_a + 1 : target_a, slash_b ? slash_b + 1 : target_b) != 0)
        return false;
    directory_of(target_a, directory_a, sizeof directory_a);
    directory_of(target_b, directory_b, sizeof directory_b);
    return strcmp(directory_a, directory_b) == 0 || same_inode(directory_a, directory_b);
}

static bool fail_as_input(const char *path, eval_error *e)
{
    return eval_fail(e, "%s: is an input of this command, which writing it would destroy", path);
}

bool output_file_check(const char *path, eval_error *e)
{
    char target[4096], directory[4096];
    struct stat info;
    if (strcmp(path, "-") == 0)
        return true;
    if (!follow_links(path, target))
        return eval_fail(e, "%.200s: not a usable file name", path[0] == '\0' ? "(empty)" : path);
    if (input_file_was_opened(path))
        return fail_as_input(path, e);
    const bool exists = stat(path, &info) == 0;
    if (exists && S_ISDIR(info.st_mode))
        return eval_fail(e, "%s: cannot write: %s", path, strerror(EISDIR));
    directory_of(target, directory, sizeof directory);
    const char *writable = exists && !S_ISREG(info.st_mode) ? path : directory;
    return access(writable, W_OK) == 0 || eval_fail(e, "%s: cannot write: %s", path, strerror(errno));
}

/* ---- open, commit, discard ---- */

static bool stdout_failed;

bool output_file_stdout_failed(void)
{
    return stdout_failed;
}

bool output_file_open(output_file *f, const char *path, eval_error *e)
{
    memset(f, 0, sizeof *f);
    if (strcmp(path, "-") == 0) {
        f->is_stdout = true;
        f->stream = stdout;
        return true;
    }
    if (!follow_links(path, f->path)) /* the file a link leads to is replaced, not the link */
        return eval_fail(e, "%.200s: not a usable file name", path[0] == '\0' ? "(empty)" : path);
    snprintf(f->temporary, sizeof f->temporary, "%.*s.XXXXXX", (int)(sizeof f->temporary - sizeof ".XXXXXX"),
             f->path);
    if (input_file_was_opened(path))
        return fail_as_input(path, e);
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
    stdout_failed = stdout_failed || (f->is_stdout && !written);
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
    stdout_failed = stdout_failed || (f->is_stdout && ferror(f->stream));
    if (!f->is_stdout) {
        (void)fclose(f->stream);
        if (f->temporary[0] != '\0') {
            (void)unlink(f->temporary);
            forget_temporary(f->temporary);
        }
    }
    f->stream = NULL;
}
