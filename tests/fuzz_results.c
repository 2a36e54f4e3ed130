/* Fuzzes results files: any bytes are refused with a message, or give cells whose lines say the same again.
 * The first byte of the input chooses: 1: the keys of lines are made right first, so that what lies behind
 * that check is reached. */
#define _XOPEN_SOURCE 700

#include "eval/results/line.h"
#include "eval/results/results.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

static void must(int condition)
{
    if (!condition)
        abort();
}

static void check_again(const experiment *x, const cell *c)
{
    char *line = results_line(x, c);
    must(line != NULL);
    json_t *object = json_loads(line, JSON_REJECT_DUPLICATES, NULL);
    experiment x2;
    cell c2;
    uint64_t key = 0;
    eval_error e = {""};
    must(object != NULL && line_read(object, "again", &x2, &c2, &key, &e));
    must(key == results_key(x, c->scheme, c->window, c->ids_checksum) && line_same_experiment(x, &x2));
    char *again = results_line(&x2, &c2);
    must(again != NULL && strcmp(again, line) == 0);
    free(again);
    free(line);
    cell_clear(&c2);
    json_decref(object);
}

/* One line whose key is made right, as far as it can be told. */
static void check_line(const char *text, size_t n)
{
    json_t *object = json_loadb(text, n, JSON_REJECT_DUPLICATES, NULL);
    experiment x;
    cell c;
    uint64_t key = 0;
    for (int tries = 0; json_is_object(object) && tries < 2; tries++) {
        eval_error e = {""};
        if (line_read(object, "line", &x, &c, &key, &e)) {
            check_again(&x, &c);
            cell_clear(&c);
            break;
        }
        must(e.text[0] != '\0');
        const char *due = strstr(e.text, "what the line holds has ");
        if (!due)
            break;
        due += strlen("what the line holds has ");
        must(json_object_set_new(object, "key", json_stringn(due, 16)) == 0);
    }
    json_decref(object);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    static char path[64];
    static int fd = -1;
    if (size == 0)
        return 0;
    if (data[0] % 2 == 1) {
        check_line((const char *)data + 1, size - 1);
        return 0;
    }
    if (fd < 0) { /* a file without a name, which none has to remove */
        strcpy(path, "/tmp/kvq-fuzz-results-XXXXXX");
        fd = mkstemp(path);
        must(unlink(path) == 0);
        snprintf(path, sizeof path, "/proc/self/fd/%d", fd);
    }
    must(fd >= 0 && ftruncate(fd, 0) == 0 && pwrite(fd, data + 1, size - 1, 0) == (ssize_t)(size - 1));
    const char *const paths[] = {path};
    results r;
    eval_error e = {""};
    if (!results_load(&r, paths, 1, &e)) {
        must(e.text[0] != '\0');
        return 0;
    }
    for (size_t i = 0; i < r.n_entries; i++) {
        must(results_find(&r, r.entries[i].key) == &r.entries[i].cell);
        check_again(&r.experiments[r.entries[i].experiment], &r.entries[i].cell);
    }
    results_free(&r);
    return 0;
}
