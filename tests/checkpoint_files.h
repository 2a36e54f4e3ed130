/* Writes small model directories for the tests: safetensors files, correct or deliberately wrong, and text
 * files. */
#ifndef KVQ_TESTS_CHECKPOINT_FILES_H
#define KVQ_TESTS_CHECKPOINT_FILES_H

#include "eval/common/error.h"

#include <criterion/criterion.h>
#include <stdbool.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

/* A safetensors file in memory. */
typedef struct st_writer {
    char header[32768];
    size_t n_header;
    uint8_t *data;
    size_t n_data;
} st_writer;

static inline void st_writer_add(st_writer *w, const char *name, const char *dtype, size_t n_dims,
                                 const size_t *shape, const void *data, size_t n_bytes)
{
    char *out = w->header + w->n_header;
    size_t room = sizeof w->header - w->n_header, used;
    used = (size_t)snprintf(out, room, "%c\"%s\":{\"dtype\":\"%s\",\"shape\":[", w->n_header ? ',' : '{',
                            name, dtype);
    for (size_t i = 0; i < n_dims; i++)
        used += (size_t)snprintf(out + used, room - used, i ? ",%zu" : "%zu", shape[i]);
    used += (size_t)snprintf(out + used, room - used, "],\"data_offsets\":[%zu,%zu]}", w->n_data,
                             w->n_data + n_bytes);
    cr_assert_lt(used, room - 1, "header too long for the test's buffer");
    w->n_header += used;
    w->data = realloc(w->data, w->n_data + n_bytes + 1);
    cr_assert_not_null(w->data);
    memcpy(w->data + w->n_data, data, n_bytes);
    w->n_data += n_bytes;
}

/* A file of this header text and data, malloc'ed. */
static inline uint8_t *st_image(const char *header, const void *data, size_t n_data, size_t *size)
{
    size_t n = strlen(header);
    uint8_t *image = malloc(8 + n + n_data);
    cr_assert_not_null(image);
    for (int i = 0; i < 8; i++)
        image[i] = (uint8_t)(n >> (8 * i));
    memcpy(image + 8, header, n);
    if (n_data > 0)
        memcpy(image + 8 + n, data, n_data);
    *size = 8 + n + n_data;
    return image;
}

static inline void write_file(const char *dir, const char *name, const void *data, size_t n_bytes)
{
    char path[512];
    snprintf(path, sizeof path, "%s/%s", dir, name);
    FILE *f = fopen(path, "wb");
    cr_assert_not_null(f, "cannot write %s", path);
    cr_assert_eq(fwrite(data, 1, n_bytes, f), n_bytes);
    cr_assert_eq(fclose(f), 0);
}

static inline void write_text(const char *dir, const char *name, const char *text)
{
    write_file(dir, name, text, strlen(text));
}

/* Ends the header, writes the file and empties the writer. */
static inline void st_writer_save(st_writer *w, const char *dir, const char *name)
{
    size_t size;
    w->header[w->n_header++] = '}';
    w->header[w->n_header] = '\0';
    uint8_t *image = st_image(w->header, w->data, w->n_data, &size);
    write_file(dir, name, image, size);
    free(image);
    free(w->data);
    *w = (st_writer){.n_header = 0};
}

/* Makes an empty directory and writes its path; remove_dir removes it and the files in it. */
static inline void make_dir(char path[64])
{
    snprintf(path, 64, "/tmp/kvq-test-XXXXXX");
    cr_assert_not_null(mkdtemp(path), "cannot make a temporary directory");
}

static inline void remove_file(const char *dir, const char *name)
{
    char path[512];
    snprintf(path, sizeof path, "%s/%s", dir, name);
    remove(path);
}

static inline void remove_dir(const char *dir)
{
    static const char *const names[] = {"config.json",   "model.safetensors", "model.safetensors.index.json",
                                        "a.safetensors", "b.safetensors",     "vocab.json",
                                        "merges.txt"};
    for (size_t i = 0; i < sizeof names / sizeof names[0]; i++)
        remove_file(dir, names[i]);
    remove(dir);
}

static inline void assert_mentions(eval_error e, const char *text)
{
    cr_assert_not_null(strstr(e.text, text), "message '%s' does not mention '%s'", e.text, text);
}

#endif
