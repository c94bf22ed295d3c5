/*
 * data.c - `paramctl data describe -f JOB`: what the training data holds.
 */
#include <stdio.h>
#include <string.h>

#include "cli/cli.h"
#include "common/mem.h"
#include "worker/dataset.h"

static void print_value(const struct json *j)
{
    struct str text = {0};

    if (json_type(j) == JSON_TEXT) {
        str_append(&text, json_as_text(j));
    } else {
        json_write(j, false, &text);
    }
    printf("%s", text.data ? text.data : "");
    str_deinit(&text);
}

/* name=value pairs of an object on one line. */
static void print_row(const struct json *row)
{
    for (size_t i = 0; i < json_count(row); i++) {
        const char *name = json_key_at(row, i);
        printf("%s%s=", i ? "  " : "", name);
        print_value(json_get(row, name));
    }
    printf("\n");
}

static void print_text(const struct json *j)
{
    for (size_t i = 0; i < json_count(j); i++) {
        const char *name = json_key_at(j, i);
        const struct json *value = json_get(j, name);
        if (json_type(value) != JSON_ARRAY) {
            printf("%s: ", name);
            print_value(value);
            printf("\n");
            continue;
        }
        printf("%s:\n", name);
        for (size_t k = 0; k < json_count(value); k++) {
            printf("  ");
            if (json_type(json_at(value, k)) == JSON_OBJECT) {
                print_row(json_at(value, k));
            } else {
                print_value(json_at(value, k));
                printf("\n");
            }
        }
    }
}

int command_data(int argc, char **argv)
{
    struct option_list sets = {0}, vars = {0}, words = {0};
    const char *file = NULL, *output = NULL;
    struct json *description = NULL;
    struct job *job = NULL;
    int64_t examples = 3;
    bool is_json = false;
    int code = EXIT_USAGE;
    const struct option options[] = {
        {"file", 'f', OPTION_TEXT, &file},
        {"set", 0, OPTION_LIST, &sets},
        {"var", 0, OPTION_LIST, &vars},
        {"output", 'o', OPTION_TEXT, &output},
        {"examples", 0, OPTION_NUMBER, &examples},
    };

    if (!options_parse("data", argc, argv, options, 5, &words) ||
        !parse_output("data", output, &is_json, &code))
        goto out;
    if (words.count != 1 || strcmp(words.items[0], "describe") != 0) {
        usage("data", "there is `data describe`");
        goto out;
    }
    if (!file) {
        usage("data", "-f JOB.yaml is missing");
        goto out;
    }
    enum err err = load_job(file, &sets, &vars, &job);
    if (!err)
        err = dataset_describe(job, (uint32_t)(examples > 1000 ? 1000 : examples), &description);
    code = err ? fail(err) : EXIT_DONE;
    if (!err && is_json)
        print_json(description, false);
    else if (!err)
        print_text(description);
out:
    json_destroy(description);
    job_destroy(job);
    option_list_free(&sets);
    option_list_free(&vars);
    option_list_free(&words);
    return code;
}
