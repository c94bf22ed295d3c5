/*
 * options.c - command-line options against a table, and what every command does with them.
 */
#include <stdarg.h>
#include <stdio.h>
#include <string.h>

#include "cli/cli.h"
#include "common/mem.h"
#include "common/model.h"
#include "common/settings_table.h"
#include "common/storage.h"
#include "common/str.h"

#define JOB_FILE_MAX_BYTES (1u << 20)

static void list_add(struct option_list *l, const char *item)
{
    l->items = must_realloc(l->items, l->count + 2, sizeof *l->items);
    l->items[l->count++] = item;
    l->items[l->count] = NULL;
}

void option_list_free(struct option_list *l)
{
    mem_free(l->items);
    *l = (struct option_list){0};
}

int usage(const char *command, const char *format, ...)
{
    const struct command *c = command_find(command);
    va_list arguments;

    va_start(arguments, format);
    fprintf(stderr, "error: ");
    vfprintf(stderr, format, arguments);
    fprintf(stderr, "\nusage: paramctl %s\n", c ? c->synopsis : command);
    va_end(arguments);
    return EXIT_USAGE;
}

static const struct option *find_option(const struct option *options, size_t count,
                                        struct span name, bool is_long)
{
    for (size_t i = 0; i < count; i++)
        if (is_long ? span_is(name, options[i].name)
                    : options[i].letter && name.size == 1 && name.data[0] == options[i].letter)
            return &options[i];
    return NULL;
}

static bool unknown_option(const char *command, const char *word, const struct option *options,
                           size_t count)
{
    const char **names = must_alloc((count + 1) * sizeof *names);
    char *bare = must_strdup(word + strspn(word, "-"));

    bare[strcspn(bare, "=")] = 0;
    for (size_t i = 0; i < count; i++)
        names[i] = options[i].name;
    const char *near = str_nearest(bare, names);
    if (near)
        usage(command, "unknown option '%s'; did you mean '--%s'?", word, near);
    else
        usage(command, "unknown option '%s'", word);
    mem_free(names);
    mem_free(bare);
    return false;
}

static bool set_option(const char *command, const struct option *o, const char *value)
{
    uint64_t number;

    switch (o->kind) {
    case OPTION_FLAG:
        *(bool *)o->value = true;
        return true;
    case OPTION_TEXT:
        *(const char **)o->value = value;
        return true;
    case OPTION_LIST:
        list_add(o->value, value);
        return true;
    case OPTION_FLAG_OR_TEXT:
        *(struct option_maybe *)o->value = (struct option_maybe){true, value};
        return true;
    case OPTION_NUMBER:
        break;
    }
    if (str_parse_u64(span_of(value), &number) || number > INT64_MAX) {
        usage(command, "--%s: '%s' is not a number from 0", o->name, value);
        return false;
    }
    *(int64_t *)o->value = (int64_t)number;
    return true;
}

/* One option at argv[*i]; steps over its value. */
static bool parse_one(const char *command, int argc, char **argv, int *i,
                      const struct option *options, size_t count)
{
    const char *word = argv[*i];
    bool is_long = word[1] == '-';
    const char *name = word + (is_long ? 2 : 1);
    const char *equals = is_long ? strchr(name, '=') : NULL;
    size_t size = equals ? (size_t)(equals - name) : is_long ? strlen(name) : 1;
    const struct option *o = find_option(options, count, span_make(name, size), is_long);
    const char *value = equals ? equals + 1 : !is_long && name[1] ? name + 1 : NULL;

    if (!o)
        return unknown_option(command, word, options, count);
    if (o->kind == OPTION_FLAG && value) {
        usage(command, "--%s takes no value", o->name);
        return false;
    }
    if (o->kind != OPTION_FLAG && o->kind != OPTION_FLAG_OR_TEXT && !value) {
        if (*i + 1 >= argc) {
            usage(command, "--%s wants a value", o->name);
            return false;
        }
        value = argv[++*i];
    }
    return set_option(command, o, value);
}

bool options_parse(const char *command, int argc, char **argv, const struct option *options,
                   size_t option_count, struct option_list *positional)
{
    static const char *none[] = {NULL};
    bool only_words = false;

    for (int i = 0; i < argc; i++) {
        if (!only_words && strcmp(argv[i], "--") == 0) {
            only_words = true;
        } else if (!only_words && argv[i][0] == '-' && argv[i][1]) {
            if (!parse_one(command, argc, argv, &i, options, option_count))
                return false;
        } else if (positional) {
            list_add(positional, argv[i]);
        } else {
            usage(command, "'%s' is one word too many", argv[i]);
            return false;
        }
    }
    for (size_t i = 0; i < option_count; i++)
        if (options[i].kind == OPTION_LIST && !((struct option_list *)options[i].value)->items)
            ((struct option_list *)options[i].value)->items =
                memcpy(must_alloc(sizeof none), none, sizeof none);
    return true;
}

/* ---- jobs ---- */

/*
 * Names of daemon settings. `name` is the job's: daemons that paramctl starts get theirs from it.
 */
static bool is_daemon_setting(const char *set)
{
    struct span name = span_make(set, strcspn(set, "=."));

    for (size_t i = 0; i < daemon_setting_count; i++) {
        const char *path = daemon_settings[i].path;
        if (span_is(name, "name") || span_make(path, strcspn(path, ".")).size != name.size)
            continue;
        if (strncmp(path, name.data, name.size) == 0)
            return true;
    }
    return false;
}

void split_sets(const struct option_list *sets, struct option_list *job_sets,
                struct option_list *daemon_sets)
{
    struct option_list unused = {0};
    struct option_list *job = job_sets ? job_sets : &unused,
                       *daemon = daemon_sets ? daemon_sets : &unused;

    for (size_t i = 0; i < sets->count; i++)
        list_add(is_daemon_setting(sets->items[i]) ? daemon : job, sets->items[i]);
    option_list_free(&unused);
}

enum err load_job(const char *file, const struct option_list *sets, const struct option_list *vars,
                  struct job **out)
{
    char *text = NULL;
    size_t size = 0;
    enum err err = storage_read_all(file, JOB_FILE_MAX_BYTES, &text, &size);

    if (!err) {
        struct job_source source = {file, text, size, sets ? sets->items : NULL,
                                    vars ? vars->items : NULL};
        err = job_parse(&source, out);
    }
    if (!err && (err = model_check(*out)) != ERR_NONE) {
        err_prefix(err, "%s", file);
        job_destroy(*out);
        *out = NULL;
    }
    mem_free(text);
    return err;
}

/* ---- results ---- */

int fail(enum err err)
{
    fprintf(stderr, "error: %s\n", err_text());
    switch (err) {
    case ERR_NOT_FOUND:
        return EXIT_NOT_FOUND;
    case ERR_TIMEOUT:
        return EXIT_TIMED_OUT;
    case ERR_UNAVAILABLE:
        return EXIT_UNREACHABLE;
    default:
        return EXIT_ERROR;
    }
}

void print_json(const struct json *j, bool indent)
{
    struct str text = {0};

    json_write(j, indent, &text);
    printf("%s\n", text.data);
    fflush(stdout);
    str_deinit(&text);
}

bool parse_output(const char *command, const char *output, bool *is_json, int *code)
{
    *is_json = output && strcmp(output, "json") == 0;
    if (!output || *is_json || strcmp(output, "text") == 0)
        return true;
    *code = usage(command, "-o: '%s' is not an output format; there are 'json' and 'text'", output);
    return false;
}
