/* Figures (picture.h). */
#define _POSIX_C_SOURCE 200809L

#include "eval/page/picture.h"

#include "eval/page/markup.h"
#include "eval/page/style.h"

#include <stdlib.h>
#include <string.h>

picture *pictures_next(pictures *list, const char *section, const char *id)
{
    if (list->n == PICTURES_MAX)
        return NULL;
    picture *f = &list->at[list->n++];
    memset(f, 0, sizeof *f);
    f->section = section;
    snprintf(f->id, sizeof f->id, "%s", id);
    return f;
}

FILE *picture_open(picture *f, double height)
{
    f->height = height;
    return open_memstream(&f->body, &f->body_size);
}

bool picture_close(FILE *stream)
{
    const bool bad = ferror(stream) != 0;
    return fclose(stream) == 0 && !bad;
}

static void svg_start(FILE *f, const picture *fig, const char *attributes, const char *id)
{
    fprintf(f,
            "<svg %sviewBox=\"0 0 %d %.0f\" role=\"img\" aria-labelledby=\"%s-t %s-d\">\n<title id=\"%s-t\">",
            attributes, PICTURE_WIDTH, fig->height, id, id, id);
    markup_text(f, fig->title);
    fprintf(f, "</title>\n<desc id=\"%s-d\">", id);
    markup_text(f, fig->note);
    fputs("</desc>\n", f);
}

void picture_html(FILE *f, const picture *fig, const char *prefix)
{
    char id[96];
    snprintf(id, sizeof id, "%s%s", prefix, fig->id);
    fprintf(f, "<figure id=\"%s\"%s>\n<figcaption><b>", id, fig->body ? "" : " class=\"wide\"");
    markup_text(f, fig->title);
    fputs("</b> ", f);
    markup_text(f, fig->note);
    fputs("</figcaption>\n", f);
    if (fig->body) {
        svg_start(f, fig, "", id);
        fwrite(fig->body, 1, fig->body_size, f);
        fputs("</svg>\n", f);
        if (fig->foot[0] != '\0') {
            fputs("<p class=\"dim\">", f);
            markup_text(f, fig->foot);
            fputs("</p>\n", f);
        }
        fputs("<details><summary>The numbers</summary>\n", f);
    }
    table_html(f, &fig->table);
    fputs(fig->body ? "</details>\n</figure>\n" : "</figure>\n", f);
}

void picture_svg(FILE *f, const picture *fig)
{
    char attributes[160];
    snprintf(attributes, sizeof attributes,
             "xmlns=\"http://www.w3.org/2000/svg\" width=\"%d\" height=\"%.0f\" ", PICTURE_WIDTH,
             fig->height);
    fputs("<?xml version=\"1.0\" encoding=\"UTF-8\"?>\n", f);
    svg_start(f, fig, attributes, fig->id);
    style_svg(f);
    fprintf(f, "<rect width=\"%d\" height=\"%.0f\" fill=\"#ffffff\"/>\n", PICTURE_WIDTH, fig->height);
    fwrite(fig->body, 1, fig->body_size, f);
    fputs("</svg>\n", f);
}

void pictures_clear(pictures *list)
{
    for (size_t i = 0; i < list->n; i++) {
        free(list->at[i].body);
        table_clear(&list->at[i].table);
    }
    memset(list, 0, sizeof *list);
}
