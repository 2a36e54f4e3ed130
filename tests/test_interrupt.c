/* Runs that end early, and runs that are watched: signals, the temporary files they must not leave, the
 * windows that are reported all the same, and the line of progress on a terminal. */
#define _XOPEN_SOURCE 700

#include "tests/tool.h"

#include <fcntl.h>
#include <signal.h>
#include <time.h>

TestSuite(interrupt, .init = enter, .fini = leave);

/* kvq-eval started in the work directory, its standard error on a terminal, its standard output in the file
 * .out. */
typedef struct watched {
    pid_t pid;
    int terminal;
    char seen[1 << 16]; /* on the terminal */
    size_t n_seen;
} watched;

static void start(watched *w, const char *const *arguments)
{
    const char *argv[32] = {KVQ_EVAL_BINARY};
    for (size_t i = 0; arguments[i]; i++)
        argv[i + 1] = arguments[i];
    w->n_seen = 0;
    w->seen[0] = '\0';
    w->terminal = posix_openpt(O_RDWR | O_NOCTTY);
    cr_assert(w->terminal >= 0 && grantpt(w->terminal) == 0 && unlockpt(w->terminal) == 0);
    const int screen = open(ptsname(w->terminal), O_RDWR | O_NOCTTY);
    cr_assert_geq(screen, 0);
    w->pid = fork();
    cr_assert_neq(w->pid, -1);
    if (w->pid == 0) {
        if (chdir(work) != 0)
            _exit(98);
        dup2(open("/dev/null", O_RDONLY), 0);
        dup2(open(".out", O_WRONLY | O_CREAT | O_TRUNC, 0600), 1);
        dup2(screen, 2);
        static const int signals[] = {SIGINT, SIGTERM, SIGHUP};
        for (size_t i = 0; i < 3; i++)
            signal(signals[i], SIG_DFL);
        setenv("KVQ_DATA_DIR", DATA, 1);
        execv(KVQ_EVAL_BINARY, (char **)argv);
        _exit(99);
    }
    close(screen);
}

/* More of what the terminal shows; false at its end. */
static bool watch(watched *w)
{
    const ssize_t n = read(w->terminal, w->seen + w->n_seen, sizeof w->seen - w->n_seen - 1);
    w->n_seen += n > 0 ? (size_t)n : 0;
    w->seen[w->n_seen] = '\0';
    return n > 0;
}

/* The status, once all has been seen; fills out. */
static int finish(watched *w)
{
    int status = 0;
    while (watch(w))
        continue;
    cr_assert_eq(waitpid(w->pid, &status, 0), w->pid);
    close(w->terminal);
    read_file(".out", out, sizeof out);
    return status;
}

/* Watch until the work is done to that many percent. */
static void wait_for_percent(watched *w, int wanted)
{
    int percent = -1;
    while (percent < wanted) {
        cr_assert(watch(w), "the end came before %d %%: %s", wanted, w->seen);
        for (const char *at = w->seen; (at = strstr(at, "decoding: "));) {
            at += strlen("decoding: ");
            percent = atoi(at);
        }
    }
}

static void wait_for_file(const watched *w)
{
    for (size_t tries = 0; n_files() == 0 && tries < 6000; tries++)
        nanosleep(&(struct timespec){.tv_nsec = 10000000}, NULL);
    cr_assert_eq(n_files(), 1);
    cr_assert_eq(kill(w->pid, 0), 0);
}

#define SLOW "--threads", "1", "--windows", "4", "--tokens", "500"

/* ---- progress ---- */

Test(interrupt, progress_is_shown_from_the_first_moment_on)
{
    static watched w;
    start(&w, (const char *const[]){"--threads", "1", "--windows", "2", "--tokens", "300", NULL});
    cr_assert_eq(finish(&w), 0, "%s", w.seen);
    const char *loading = strstr(w.seen, "loading gpt2-6m ..."),
               *reading = strstr(w.seen, "reading sample.txt ..."),
               *decoding = strstr(w.seen, "decoding:   0 %, 0 of 600 steps");
    cr_assert(loading && reading && decoding && loading < reading && reading < decoding, "%s", w.seen);
    cr_assert(strstr(w.seen, " of 600 steps, ") && strstr(w.seen, " steps/s"), "%s", w.seen);
    cr_assert_str_eq(w.seen + strlen(w.seen) - 4, "\r\033[K", "the line is cleared");
    cr_assert(strstr(out, "perplexity"), "%s", out);

    start(&w, (const char *const[]){"--model", "random:2,2,32,128,100", "--residual", "32", NULL});
    cr_assert_eq(finish(&w), 0, "%s", w.seen);
    cr_assert(strstr(w.seen, "making weights of random:2,2,32,128,100 ..."), "%s", w.seen);
    start(&w, (const char *const[]){"--windows", "1", "--tokens", "20", "--quiet", NULL});
    cr_assert_eq(finish(&w), 0);
    cr_assert_str_empty(w.seen);
    cr_assert_eq(run("$E --windows 1 --tokens 20"), 0);
    cr_assert_str_empty(err, "progress without a terminal");
}

/* ---- the first signal ---- */

/* The runs of a report without what differs from run to run: times. */
static json_t *runs_of(const json_t *root)
{
    json_t *runs = json_deep_copy(json_object_get(root, "runs")), *r;
    size_t i;
    json_array_foreach(runs, i, r)
    {
        cr_assert_eq(json_object_del(r, "seconds"), 0);
        cr_assert_eq(json_object_del(r, "partial"), 0);
    }
    return runs;
}

static void interrupt_with_windows_done(int signal_number, int expected_status)
{
    static watched w;
    static char text[1 << 17];
    start(&w, (const char *const[]){SLOW, "--json", "r.json", "--csv", "r.csv", "--max-kld", "0", NULL});
    wait_for_percent(&w, 35);
    kill(w.pid, signal_number);
    const int status = finish(&w);
    cr_assert(WIFEXITED(status) && WEXITSTATUS(status) == expected_status, "status %x: %s", (unsigned)status,
              w.seen);
    read_file("r.json", text, sizeof text);
    json_t *root = load_json(text);
    const int n = (int)json_integer_value(json_object_get(json_object_get(root, "text"), "n_windows"));
    cr_assert(n >= 1 && n <= 3, "%d windows done", n);
    cr_assert(json_is_true(json_object_get(root, "partial")));
    cr_assert_eq(json_integer_value(json_object_get(json_object_get(root, "text"), "n_windows_asked")), 4);
    char wanted[80];
    snprintf(wanted, sizeof wanted, "PARTIAL: interrupted when %d of 4 windows were done.", n);
    cr_expect(strstr(out, wanted) && strstr(out, "perplexity"), "%s", out);
    snprintf(wanted, sizeof wanted, "kvq-eval: interrupted: %d of 4 windows are done", n);
    cr_expect(strstr(w.seen, wanted), "%s", w.seen);
    cr_expect(!strstr(w.seen, "--max-kld"), "limits are about all windows: %s", w.seen);
    read_file("r.csv", text, sizeof text);
    cr_expect(strstr(text, ",partial\n") && strcmp(text + strlen(text) - 3, ",1\n") == 0, "%s", text);
    cr_expect_eq(n_files(), 2, "temporary files are left");
    /* What is reported is what those windows alone would have given. */
    cr_assert_eq(run("$E --threads 1 --windows %d --tokens 500 --json -", n), 0, "%s", err);
    json_t *whole = load_json(out), *partial_runs = runs_of(root), *whole_runs = runs_of(whole);
    cr_expect(json_equal(partial_runs, whole_runs), "the figures differ from those of %d windows", n);
    json_decref(partial_runs);
    json_decref(whole_runs);
    json_decref(whole);
    json_decref(root);
}

Test(interrupt, sigint_reports_the_windows_that_are_done)
{
    interrupt_with_windows_done(SIGINT, 130);
}

Test(interrupt, sigterm_reports_the_windows_that_are_done)
{
    interrupt_with_windows_done(SIGTERM, 143);
}

Test(interrupt, before_a_window_is_done_there_is_nothing_to_report)
{
    static watched w;
    start(&w, (const char *const[]){SLOW, "--logits", "logits.npy", "--json", "r.json", NULL});
    wait_for_percent(&w, 1);
    kill(w.pid, SIGINT);
    const int status = finish(&w);
    cr_assert(WIFEXITED(status) && WEXITSTATUS(status) == 130, "status %x", (unsigned)status);
    cr_assert(strstr(w.seen, "kvq-eval: interrupted before a window was done: there is nothing to report"),
              "%s", w.seen);
    cr_assert_str_empty(out);
    cr_assert_eq(n_files(), 0, "a file is left");
}

/* All figures are there by then, and the greedy text of the windows that are done. */
Test(interrupt, greedy_text_ends_with_the_windows_that_are_done)
{
    static watched w;
    static char text[1 << 17];
    start(&w, (const char *const[]){"--threads", "1", "--windows", "2", "--tokens", "300", "--greedy", "280",
                                    "--json", "r.json", "--max-kld", "0", NULL});
    while (!strstr(w.seen, "greedy text: "))
        cr_assert(watch(&w), "%s", w.seen);
    kill(w.pid, SIGINT);
    const int status = finish(&w);
    cr_assert(WIFEXITED(status) && WEXITSTATUS(status) == 130, "status %x: %s", (unsigned)status, w.seen);
    cr_expect(
        strstr(w.seen, "kvq-eval: interrupted: 2 of 2 windows are done, and the greedy text of 0\n") ||
            strstr(w.seen, "kvq-eval: interrupted: 2 of 2 windows are done, and the greedy text of 0\r\n"),
        "%s", w.seen);
    cr_expect(!strstr(w.seen, "--max-kld"), "limits are about all windows: %s", w.seen);
    cr_expect(strstr(out, "PARTIAL: interrupted when the greedy text of 0 of 2 windows was done.\n") &&
                  strstr(out, "perplexity"),
              "%s", out);
    read_file("r.json", text, sizeof text);
    json_t *root = load_json(text);
    const json_t *run_1 = json_array_get(json_object_get(root, "runs"), 1),
                 *greedy = json_object_get(run_1, "greedy");
    cr_expect(json_is_true(json_object_get(root, "partial")));
    cr_expect_eq(json_integer_value(json_object_get(json_object_get(root, "text"), "n_windows")), 2);
    cr_expect(json_is_array(json_object_get(greedy, "first_difference")) &&
              json_array_size(json_object_get(greedy, "first_difference")) == 0 &&
              json_is_null(json_object_get(greedy, "median")));
    json_decref(root);
}

/* ---- and the second ---- */

Test(interrupt, a_second_signal_ends_at_once_and_leaves_no_temporary_file)
{
    static watched w;
    start(&w, (const char *const[]){SLOW, "--logits", "logits.npy", NULL});
    wait_for_percent(&w, 30);
    cr_assert_eq(n_files(), 1, "the temporary file");
    /* Stopped, so that both come before it can act upon the first. */
    kill(w.pid, SIGSTOP);
    kill(w.pid, SIGINT);
    kill(w.pid, SIGTERM);
    kill(w.pid, SIGCONT);
    const int status = finish(&w);
    cr_assert(WIFSIGNALED(status) && (WTERMSIG(status) == SIGINT || WTERMSIG(status) == SIGTERM), "status %x",
              (unsigned)status);
    cr_assert_str_empty(out);
    cr_assert_eq(n_files(), 0, "the temporary file is left");
}

Test(interrupt, a_terminal_that_is_gone_ends_it_at_once)
{
    static watched w;
    start(&w, (const char *const[]){"--quiet", "--logits", "logits.npy", NULL});
    wait_for_file(&w);
    kill(w.pid, SIGHUP);
    const int status = finish(&w);
    cr_assert(WIFSIGNALED(status) && WTERMSIG(status) == SIGHUP, "status %x", (unsigned)status);
    cr_assert_eq(n_files(), 0, "the temporary file is left");
}

/* While it loads, no window can be done: a text that does not come. */
Test(interrupt, loading_ends_at_once)
{
    static watched w;
    cr_assert_eq(run("mkfifo .pipe"), 0);
    start(&w, (const char *const[]){"--text", ".pipe", NULL});
    while (!strstr(w.seen, "reading .pipe"))
        cr_assert(watch(&w), "%s", w.seen);
    kill(w.pid, SIGINT);
    const int status = finish(&w);
    cr_assert(WIFSIGNALED(status) && WTERMSIG(status) == SIGINT, "status %x", (unsigned)status);
}
