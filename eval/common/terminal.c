/* Asks the environment and the terminal (terminal.h). */
#define _DEFAULT_SOURCE /* TIOCGWINSZ */

#include "eval/common/terminal.h"

#include <stdlib.h>
#include <sys/ioctl.h>
#include <unistd.h>

size_t terminal_width(void)
{
    enum { LEAST = 40, MOST = 10000 };
    const char *text = getenv("COLUMNS");
    char *end = NULL;
    long width = text ? strtol(text, &end, 10) : 0;
    if (!text || end == text || *end != '\0' || width <= 0) {
        struct winsize size;
        const int status = ioctl(STDOUT_FILENO, TIOCGWINSZ, &size);
        width = status == 0 && size.ws_col > 0 ? (long)size.ws_col : TERMINAL_WIDTH_ELSEWHERE;
    }
    return width < LEAST ? (size_t)LEAST : width > MOST ? (size_t)MOST : (size_t)width;
}
