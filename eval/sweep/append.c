/* Appending lines (append.h). */
#define _DEFAULT_SOURCE /* flock */

#include "eval/sweep/append.h"

#include <errno.h>
#include <fcntl.h>
#include <string.h>
#include <sys/file.h>
#include <sys/stat.h>
#include <unistd.h>

bool append_check(const char *path, eval_error *e)
{
    struct stat info;
    return stat(path, &info) != 0 || S_ISREG(info.st_mode) ||
           eval_fail(e, "%s: is no regular file, and results are read again", path);
}

int append_open(const char *path, eval_error *e)
{
    if (!append_check(path, e))
        return -1;
    const int fd = open(path, O_RDWR | O_APPEND | O_CREAT | O_CLOEXEC, 0666);
    if (fd < 0) {
        (void)eval_fail(e, "%s: cannot write: %s", path, strerror(errno));
        return -1;
    }
    return fd;
}

/* One write; what a full disk takes a part of is written on until it says why. */
static bool write_all(int fd, const char *bytes, size_t n)
{
    while (n > 0) {
        const ssize_t written = write(fd, bytes, n);
        if (written < 0 && errno == EINTR)
            continue;
        if (written <= 0)
            return false;
        bytes += written;
        n -= (size_t)written;
    }
    return true;
}

static bool end_last_line(int fd)
{
    char last = '\n';
    const off_t size = lseek(fd, 0, SEEK_END);
    if (size > 0 && pread(fd, &last, 1, size - 1) != 1)
        return false;
    return last == '\n' || write_all(fd, "\n", 1);
}

bool append_lines(int fd, const char *path, const char *const *lines, size_t n, eval_error *e)
{
    /* File systems without locks are fine: appending is whole all the same, but for a process that is killed
     * within its write, whose half a line then begins the next one. */
    const bool locked = flock(fd, LOCK_EX) == 0;
    bool good = end_last_line(fd);
    for (size_t i = 0; good && i < n; i++)
        good = write_all(fd, lines[i], strlen(lines[i]));
    const int reason = errno;
    if (locked)
        (void)flock(fd, LOCK_UN);
    if (!good)
        return eval_fail(e, "%s: write failed: %s", path, strerror(reason));
    return fsync(fd) == 0 || errno == EINVAL || eval_fail(e, "%s: write failed: %s", path, strerror(errno));
}
