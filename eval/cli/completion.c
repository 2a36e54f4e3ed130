/* `kvq-eval completion bash` (completion.h). */
#define _GNU_SOURCE

#include "eval/cli/completion.h"

#include "eval/cli/commands.h"
#include "eval/common/arguments.h"
#include "eval/common/exit_status.h"

#include <stdbool.h>
#include <stdio.h>
#include <string.h>

const struct argp_option completion_options_list[] = {{NULL, 0, NULL, 0, "The shell it knows is bash.", 0},
                                                      {0}};
const char *const completion_arguments[] = {"bash", NULL};

static error_t parse_option(int key, char *arg, struct argp_state *state)
{
    (void)arg; /* commands_main has checked that it is "bash" */
    if (key == ARGP_KEY_ARG)
        return state->arg_num == 0 ? 0 : ARGP_ERR_UNKNOWN;
    if (key == ARGP_KEY_NO_ARGS)
        argp_error(state, "for which shell? bash is what it knows");
    return ARGP_ERR_UNKNOWN;
}

static void print_names(const command *c)
{
    for (const struct argp_option *o = c->options; o->name || o->key || o->doc || o->group; o++)
        if (o->name)
            printf("--%s ", o->name);
    fputs("--help --usage --version", stdout);
    for (size_t i = 0; c->arguments && c->arguments[i]; i++)
        printf(" %s", c->arguments[i]);
}

/* What may follow an option that takes a value: the words it knows, files, directories, or nothing we could
 * guess. */
static void print_values(const command *c, const struct argp_option *o)
{
    const char *const *words = c->words_of ? c->words_of(o->key) : NULL;
    printf("        '%s --%s') ", c->name, o->name);
    if (words) {
        fputs("kind=words; words='", stdout);
        for (size_t i = 0; words[i]; i++)
            printf("%s%s", i > 0 ? " " : "", words[i]);
        fputs("' ;;\n", stdout);
    } else {
        const bool is_file = strcmp(o->arg, "FILE") == 0 || strcmp(o->arg, "PATH") == 0;
        printf("kind=%s ;;\n", is_file ? "file" : "none");
    }
}

static void print_bash(void)
{
    fputs("# bash completion of kvq-eval; made by `kvq-eval completion bash'\n"
          "_kvq_eval()\n"
          "{\n"
          "    local cur=${COMP_WORDS[COMP_CWORD]} prev=${COMP_WORDS[COMP_CWORD - 1]} command='' kind=names "
          "words=''\n"
          "    # --option=value comes as three words\n"
          "    if [[ $cur == = ]]; then\n"
          "        cur=''\n"
          "    elif [[ $prev == = && $COMP_CWORD -ge 2 ]]; then\n"
          "        prev=${COMP_WORDS[COMP_CWORD - 2]}\n"
          "    fi\n"
          "    case ${COMP_WORDS[1]} in\n",
          stdout);
    for (size_t i = 1; commands_at(i); i++)
        printf("        %s) [[ $COMP_CWORD -gt 1 ]] && command=%s ;;\n", commands_at(i)->name,
               commands_at(i)->name);
    fputs("    esac\n"
          "    case \"$command $prev\" in\n",
          stdout);
    for (size_t i = 0; commands_at(i); i++) {
        const command *c = commands_at(i);
        for (const struct argp_option *o = c->options; o->name || o->key || o->doc || o->group; o++)
            if (o->name && o->arg)
                print_values(c, o);
    }
    fputs("    esac\n"
          "    case \"$kind$command\" in\n",
          stdout);
    for (size_t i = 0; commands_at(i); i++) {
        printf("        names%s) words='", commands_at(i)->name);
        print_names(commands_at(i));
        fputs("' ;;\n", stdout);
    }
    fputs("    esac\n", stdout);
    for (size_t i = 1; commands_at(i); i++)
        if (commands_at(i)->files)
            printf("    [[ $kind$command == names%s && $cur != -* ]] && kind=file\n", commands_at(i)->name);
    fputs("    [[ $COMP_CWORD -eq 1 ]] && words+='", stdout);
    for (size_t i = 1; commands_at(i); i++)
        printf(" %s", commands_at(i)->name);
    fputs("'\n"
          "    case $kind in\n"
          "        file) compopt -o filenames 2>/dev/null; mapfile -t COMPREPLY < <(compgen -f -- \"$cur\") "
          ";;\n"
          "        *) mapfile -t COMPREPLY < <(compgen -W \"$words\" -- \"$cur\") ;;\n"
          "    esac\n"
          "}\n"
          "complete -F _kvq_eval kvq-eval\n",
          stdout);
}

int completion_main(const char *doc, int argc, char **argv)
{
    arguments_parse_words(completion_options_list, parse_option, "SHELL", doc, "", argc, argv, NULL);
    print_bash();
    return STATUS_GOOD;
}
