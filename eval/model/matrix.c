/* Multiplies with weight matrices of any type. */
#include "eval/model/matrix.h"

#include <cblas.h>
#include <omp.h>
#include <stdbool.h>
#include <stdint.h>

/* A panel is a rectangle of W that is multiplied at once, 512 KB as float32. With many tokens each panel
 * makes BLAS rearrange x once more, so it has many rows; with one token, rows are read once and a small
 * panel stays in the nearest cache. Columns are cut in steps that are whole blocks of every type. */
#define PANEL_FLOATS   ((size_t)128 << 10)
#define PANEL_COLUMNS  1024
#define VECTOR_FLOATS  ((size_t)16 << 10)
#define VECTOR_COLUMNS 4096
#define COLUMN_STEP    256
#define MOST_ROWS      256

/* Up to this many multiplications threads would cost more than they bring; OpenBLAS thinks the same of
 * products as small as these, so that it does not start any either. */
#define SERIAL_PRODUCTS 8192

typedef struct panel_shape {
    size_t rows, columns;
} panel_shape;

static panel_shape choose_panel(const matrix *w, size_t n)
{
    const size_t floats = n == 1 ? VECTOR_FLOATS : PANEL_FLOATS,
                 most = n == 1 ? VECTOR_COLUMNS : PANEL_COLUMNS;
    panel_shape p = {.columns = w->n_in};
    if (w->n_in > most && w->type != TENSOR_F32) {
        const size_t n_parts = (w->n_in + most - 1) / most;
        p.columns = (w->n_in / n_parts + COLUMN_STEP - 1) / COLUMN_STEP * COLUMN_STEP;
    }
    if (w->type == TENSOR_F32) /* stays where it is */
        p.rows = n == 1 ? MOST_ROWS / 4 : MOST_ROWS;
    else
        p.rows = floats / p.columns;
    p.rows = p.rows > MOST_ROWS ? MOST_ROWS : p.rows < 1 ? 1 : p.rows;
    return p;
}

size_t matrix_row_bytes(tensor_type type, size_t n_in)
{
    const tensor_type_info *info = tensor_type_of(type);
    return n_in / info->block_elems * info->block_bytes;
}

size_t matrix_scratch_floats(int n_threads)
{
    return (size_t)n_threads * PANEL_FLOATS;
}

/* y (+)= x[.., column..] of n_columns times the panel's rows; w is the panel's first element, ldw floats a
 * row. */
static void multiply_panel(const float *panel, size_t ldw, size_t n_rows, size_t n_columns, const float *x,
                           size_t ldx, size_t n, bool add, float *y, size_t ldy)
{
    const float beta = add ? 1.0f : 0.0f;
    const blasint tokens = (blasint)n, out = (blasint)n_rows, in = (blasint)n_columns;
    if (n == 1)
        cblas_sgemv(CblasRowMajor, CblasNoTrans, out, in, 1.0f, panel, (blasint)ldw, x, 1, beta, y, 1);
    else
        cblas_sgemm(CblasRowMajor, CblasNoTrans, CblasTrans, tokens, out, in, 1.0f, x, (blasint)ldx, panel,
                    (blasint)ldw, beta, y, (blasint)ldy);
}

/* Rows first..first+n_rows-1 of W, all columns. */
static void multiply_rows(const matrix *w, panel_shape shape, size_t first, size_t n_rows, const float *x,
                          size_t n, bool add, float *buffer, float *y)
{
    const size_t row_bytes = matrix_row_bytes(w->type, w->n_in);
    const uint8_t *rows = (const uint8_t *)w->data + first * row_bytes;
    for (size_t column = 0; column < w->n_in; column += shape.columns) {
        const size_t rest = w->n_in - column, n_columns = rest < shape.columns ? rest : shape.columns;
        const bool onto = add || column > 0;
        if (w->type == TENSOR_F32) {
            multiply_panel((const float *)w->data + first * w->n_in, w->n_in, n_rows, n_columns, x, w->n_in,
                           n, onto, y + first, w->n_out);
            continue;
        }
        const size_t skipped = matrix_row_bytes(w->type, column);
        for (size_t r = 0; r < n_rows; r++)
            tensor_to_f32(w->type, rows + r * row_bytes + skipped, n_columns, buffer + r * n_columns);
        multiply_panel(buffer, n_columns, n_rows, n_columns, x + column, w->n_in, n, onto, y + first,
                       w->n_out);
    }
    if (w->bias)
        for (size_t t = 0; t < n; t++)
            for (size_t i = first; i < first + n_rows; i++)
                y[t * w->n_out + i] += w->bias[i];
}

static int team_size(int n_threads)
{
    const int most = omp_get_max_threads();
    return n_threads < most ? n_threads : most;
}

static void multiply(const matrix *w, const float *x, size_t n, int n_threads, bool add, float *scratch,
                     float *y)
{
    if (n == 0)
        return;
    const panel_shape shape = choose_panel(w, n);
    const size_t n_panels = (w->n_out + shape.rows - 1) / shape.rows;
    const bool serial = n * w->n_in * w->n_out <= SERIAL_PRODUCTS || omp_in_parallel();
    /* A team even for a single panel: OpenBLAS must find itself inside a parallel region, or it would divide
     * the product among threads, and with it the sums. */
#pragma omp parallel for schedule(dynamic) num_threads(team_size(n_threads)) if (!serial)
    for (size_t p = 0; p < n_panels; p++) {
        const size_t first = p * shape.rows, rest = w->n_out - first;
        float *buffer = scratch + (serial ? 0 : (size_t)omp_get_thread_num()) * PANEL_FLOATS;
        multiply_rows(w, shape, first, rest < shape.rows ? rest : shape.rows, x, n, add, buffer, y);
    }
}

void matrix_multiply(const matrix *w, const float *x, size_t n, int n_threads, float *scratch, float *y)
{
    multiply(w, x, n, n_threads, false, scratch, y);
}

void matrix_multiply_add(const matrix *w, const float *x, size_t n, int n_threads, float *scratch, float *y)
{
    multiply(w, x, n, n_threads, true, scratch, y);
}

void matrix_row(const matrix *w, size_t row, float *dst)
{
    const size_t row_bytes = matrix_row_bytes(w->type, w->n_in);
    tensor_to_f32(w->type, (const uint8_t *)w->data + row * row_bytes, w->n_in, dst);
}
