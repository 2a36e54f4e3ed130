/* Fuzzes the GGUF reader: any bytes are either refused with a message or give metadata and tensors that are
 * safe to read and lie in the file. */
#include "eval/model/gguf.h"
#include "tests/fuzz_tensors.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

/* A getter says why not, and gives only what was asked for. */
static void read_value(const gguf *g, const char *key)
{
    eval_error e = {""};
    size_t number = 0;
    double x = 0;
    bool flag;
    const char *text = "";
    if ((!gguf_required_size(g, key, 1, 1000, &number, &e) && e.text[0] == '\0') || number > 1000)
        abort();
    if ((!gguf_optional_float(g, key, -1, 1, &x, &e) && e.text[0] == '\0') || !(fabs(x) <= 1))
        abort();
    if ((!gguf_optional_bool(g, key, &flag, &e) || !gguf_optional_string(g, key, &text, &e)) &&
        e.text[0] == '\0')
        abort();
    if (strlen(text) > 1u << 20)
        abort();
}

static void read_array(const gguf *g, const char *key, gguf_kind element)
{
    eval_error e;
    size_t n = 0, n_bytes, sum = 0;
    if (!gguf_optional_array(g, key, element, &n, &e))
        abort();
    for (size_t i = 0; i < n; i++) {
        if (element == GGUF_STRING) {
            const char *text = gguf_array_string(g, key, i, &n_bytes);
            for (size_t j = 0; j <= n_bytes; j++)
                sum += (size_t)(unsigned char)text[j];
            if (text[n_bytes] != '\0')
                abort();
        } else if (element == GGUF_F32 || element == GGUF_F64) {
            sum += gguf_array_float(g, key, i) > 0;
        } else {
            sum += gguf_array_integer(g, key, i) > 0;
        }
    }
    if (sum > 256 * ((size_t)1 << 20))
        abort();
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    gguf *g;
    eval_error e = {""};
    gguf_kind kind, element;
    const char *key;
    if (!gguf_open_memory(&g, "input", data, size, &e)) {
        if (e.text[0] == '\0')
            abort();
        return 0;
    }
    for (size_t i = 0; (key = gguf_key(g, i, &kind, &element)) != NULL; i++)
        if (kind == GGUF_ARRAY)
            read_array(g, key, element);
        else
            read_value(g, key);
    fuzz_read_tensors(gguf_tensors(g), size);
    gguf_close(g);
    return 0;
}
