/* The header of NumPy arrays (report.h). */
#include "eval/report/report.h"

#include <string.h>

void report_npy_header(FILE *f, size_t rows, size_t columns)
{
    const uint16_t one = 1;
    unsigned char first;
    memcpy(&first, &one, 1);
    char text[160];
    const int used =
        snprintf(text, sizeof text, "{'descr': '%cf4', 'fortran_order': False, 'shape': (%zu, %zu), }",
                 first == 1 ? '<' : '>', rows, columns);
    /* Magic (6 bytes), version (2), length (2), text: together a multiple of 64, padded with spaces before
     * '\n'. */
    const size_t length = ((size_t)used + 1 + 10 + 63) / 64 * 64 - 10;
    const unsigned char magic[] = {
        0x93, 'N', 'U', 'M', 'P', 'Y', 1, 0, (unsigned char)(length & 0xff), (unsigned char)(length >> 8)};
    fwrite(magic, 1, sizeof magic, f);
    fprintf(f, "%-*s\n", (int)length - 1, text);
}
