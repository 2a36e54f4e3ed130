/*
 * Runs a fuzz target over the files given as arguments, directories being searched one level deep. With this
 * main in place of libFuzzer's a target is an ordinary test of its corpus.
 */
#define _DEFAULT_SOURCE /* scandir */

#include <dirent.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

static int is_visible(const struct dirent *entry)
{
    return entry->d_name[0] != '.';
}

static int run_file(const char *path)
{
    FILE *file = fopen(path, "rb");
    uint8_t *data = NULL;
    size_t n = 0, capacity = 0, got;
    if (file == NULL) {
        perror(path);
        return 0;
    }
    do {
        capacity = 2 * capacity + 4096;
        uint8_t *grown = realloc(data, capacity);
        if (grown == NULL)
            abort();
        data = grown;
        got = fread(data + n, 1, capacity - n, file);
        n += got;
    } while (n == capacity);
    (void)fclose(file);
    data = realloc(data, n > 0 ? n : 1); /* so that a sanitizer sees reads past the end */
    if (data == NULL)
        abort();
    printf("%s\n", path); /* before it runs: the last name printed is the one that crashed */
    (void)fflush(stdout);
    (void)LLVMFuzzerTestOneInput(data, n);
    free(data);
    return 1;
}

static int run_directory(const char *path)
{
    struct dirent **entries;
    int count = 0, n = scandir(path, &entries, is_visible, alphasort);
    for (int i = 0; i < n; i++) {
        char name[4096];
        if (snprintf(name, sizeof name, "%s/%s", path, entries[i]->d_name) < (int)sizeof name)
            count += run_file(name);
        free(entries[i]);
    }
    if (n >= 0)
        free(entries);
    return count;
}

int main(int argc, char **argv)
{
    int count = 0;
    for (int i = 1; i < argc; i++) {
        struct stat status;
        int directory = stat(argv[i], &status) == 0 && S_ISDIR(status.st_mode);
        count += directory ? run_directory(argv[i]) : run_file(argv[i]);
    }
    printf("%d inputs\n", count);
    return count > 0 ? 0 : 1;
}
