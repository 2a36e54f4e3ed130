/* Makes GGUF files in memory, correct or deliberately wrong. */
#ifndef KVQ_TESTS_GGUF_IMAGE_H
#define KVQ_TESTS_GGUF_IMAGE_H

#include <stdarg.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

typedef struct gguf_image {
    uint8_t *bytes; /* malloc'ed */
    size_t n, capacity;
} gguf_image;

static inline void gguf_put_bytes(gguf_image *image, const void *bytes, size_t n)
{
    if (image->n + n > image->capacity) {
        image->capacity = 2 * (image->n + n);
        image->bytes = realloc(image->bytes, image->capacity);
        if (!image->bytes)
            abort();
    }
    if (n > 0)
        memcpy(image->bytes + image->n, bytes, n);
    image->n += n;
}

static inline void gguf_put_number(gguf_image *image, uint64_t x, size_t n_bytes)
{
    gguf_put_bytes(image, &x, n_bytes);
}

static inline void gguf_put_zeros(gguf_image *image, size_t n)
{
    while (n-- > 0)
        gguf_put_number(image, 0, 1);
}

/* Appends one thing for each letter:
 *   G  magic and version 3               s  a string and the length before it (const char *)
 *   b  one byte (int)                    z  zero bytes (int: how many)
 *   d  four bytes (int)                  p  zero bytes up to a multiple (int)
 *   q  eight bytes (int)                 Q  eight bytes (uint64_t)
 */
static inline void gguf_put(gguf_image *image, const char *letters, ...)
{
    va_list args;
    va_start(args, letters);
    for (; *letters != '\0'; letters++) {
        if (*letters == 'G') {
            gguf_put_bytes(image, "GGUF\3\0\0", 8);
        } else if (*letters == 's') {
            const char *text = va_arg(args, const char *);
            gguf_put_number(image, strlen(text), 8);
            gguf_put_bytes(image, text, strlen(text));
        } else if (*letters == 'Q') {
            gguf_put_number(image, va_arg(args, uint64_t), 8);
        } else {
            const int x = va_arg(args, int);
            if (*letters == 'z')
                gguf_put_zeros(image, (size_t)x);
            else if (*letters == 'p')
                gguf_put_zeros(image, ((size_t)x - image->n % (size_t)x) % (size_t)x);
            else
                gguf_put_number(image, (uint64_t)(int64_t)x, *letters == 'b' ? 1 : *letters == 'd' ? 4 : 8);
        }
    }
    va_end(args);
}

static inline void gguf_image_free(gguf_image *image)
{
    free(image->bytes);
    *image = (gguf_image){.n = 0};
}

#endif
