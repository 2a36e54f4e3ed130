/* Maps a whole file into memory with POSIX mmap. */
#define _POSIX_C_SOURCE 200809L

#include "eval/model/mapped_file.h"

#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

static const uint8_t no_data[1];

static bool map_descriptor(mapped_file *f, int fd, eval_error *e)
{
    struct stat info;
    if (fstat(fd, &info) != 0)
        return eval_fail(e, "%s: cannot read its size: %s", f->path, strerror(errno));
    if (S_ISDIR(info.st_mode))
        return eval_fail(e, "%s: is a directory, expected a file", f->path);
    if (!S_ISREG(info.st_mode))
        return eval_fail(e, "%s: is not a regular file", f->path);
    if ((uintmax_t)info.st_size > SIZE_MAX)
        return eval_fail(e, "%s: is too large for this machine's address space", f->path);
    if (info.st_size == 0)
        return true; /* mmap refuses length 0 */
    size_t size = (size_t)info.st_size;
    void *mapping = mmap(NULL, size, PROT_READ, MAP_PRIVATE, fd, 0);
    if (mapping == MAP_FAILED)
        return eval_fail(e, "%s: cannot map %zu bytes: %s", f->path, size, strerror(errno));
    f->mapping = mapping;
    f->data = mapping;
    f->size = size;
    return true;
}

bool mapped_file_open(mapped_file *f, const char *dir, const char *name, eval_error *e)
{
    *f = (mapped_file){.data = no_data};
    int length = dir ? snprintf(f->path, sizeof f->path, "%s/%s", dir, name)
                     : snprintf(f->path, sizeof f->path, "%s", name);
    if (length < 0 || (size_t)length >= sizeof f->path)
        return eval_fail(e, "%.200s...: path is longer than %zu bytes", f->path, sizeof f->path - 1);
    /* O_NONBLOCK: opening a FIFO without a writer must fail below, not wait. */
    int fd = open(f->path, O_RDONLY | O_CLOEXEC | O_NONBLOCK);
    if (fd < 0)
        return eval_fail(e, "%s: cannot open: %s", f->path, strerror(errno));
    bool ok = map_descriptor(f, fd, e);
    close(fd);
    return ok;
}

void mapped_file_close(mapped_file *f)
{
    if (f->mapping)
        munmap(f->mapping, f->size);
    f->mapping = NULL;
    f->data = no_data;
    f->size = 0;
}
