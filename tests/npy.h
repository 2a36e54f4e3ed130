/* Reads NumPy's .npy files (format 1.0 and 2.0, C order) for the tests. */
#ifndef KVQ_TESTS_NPY_H
#define KVQ_TESTS_NPY_H

#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define NPY_MAX_DIMS 8

typedef struct npy_array {
    char dtype[4]; /* "<f4", "<f2", "<i4", "<i8", "<i2" or "<u2" */
    size_t n_dims;
    size_t shape[NPY_MAX_DIMS];
    size_t n_elems;
    size_t elem_bytes;
    void *data; /* malloc'ed, little-endian as in the file; free with npy_free */
} npy_array;

static inline void npy_free(npy_array *a)
{
    free(a->data);
    a->data = NULL;
}

/* Takes dtype and shape from the header's text, a Python dict such as
 * {'descr': '<f4', 'fortran_order': False, 'shape': (9, 4096), } */
static inline bool npy_parse_header(npy_array *a, const char *header)
{
    static const char *const known[] = {"<f4", "<f2", "<i4", "<i8", "<i2", "<u2"};
    const char *descr = strstr(header, "'descr': '"), *shape = strstr(header, "'shape': (");
    if (!descr || !shape || !strstr(header, "'fortran_order': False"))
        return false;
    descr += strlen("'descr': '");
    for (size_t i = 0; i < sizeof known / sizeof known[0]; i++)
        if (strncmp(descr, known[i], 3) == 0 && descr[3] == '\'')
            memcpy(a->dtype, known[i], 4);
    if (a->dtype[0] == '\0')
        return false;
    a->elem_bytes = (size_t)(a->dtype[2] - '0');
    a->n_elems = 1;
    const char *p = shape + strlen("'shape': (");
    while (*p >= '0' && *p <= '9') {
        char *end;
        if (a->n_dims == NPY_MAX_DIMS)
            return false;
        a->shape[a->n_dims] = strtoul(p, &end, 10);
        a->n_elems *= a->shape[a->n_dims++];
        p = end + strspn(end, ", ");
    }
    return *p == ')';
}

static inline bool npy_read(npy_array *a, FILE *f)
{
    unsigned char start[12];
    char header[4096];
    if (fread(start, 1, 10, f) != 10 || memcmp(start, "\x93NUMPY", 6) != 0 || start[6] < 1 || start[6] > 2)
        return false;
    size_t n_header = (size_t)start[8] | (size_t)start[9] << 8;
    if (start[6] == 2) { /* the length has four bytes */
        if (fread(start + 10, 1, 2, f) != 2)
            return false;
        n_header |= (size_t)start[10] << 16 | (size_t)start[11] << 24;
    }
    if (n_header >= sizeof header || fread(header, 1, n_header, f) != n_header)
        return false;
    header[n_header] = '\0';
    if (!npy_parse_header(a, header))
        return false;
    size_t n_bytes = a->n_elems * a->elem_bytes;
    a->data = malloc(n_bytes + 1); /* + 1: the array may be empty */
    return a->data && fread(a->data, 1, n_bytes, f) == n_bytes;
}

/* Reads a whole array; false (and nothing to free) if the file is missing, damaged or of another kind. */
static inline bool npy_load(npy_array *a, const char *path)
{
    *a = (npy_array){.data = NULL};
    FILE *f = fopen(path, "rb");
    if (!f)
        return false;
    bool ok = npy_read(a, f);
    fclose(f);
    if (!ok)
        npy_free(a);
    return ok;
}

#endif
