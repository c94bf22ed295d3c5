/*
 * store_settings.h - what paramctl knows of the stores (hdfs://, s3://): the rows of paramctl.yaml
 * and of --set that concern them, for itself and for the daemons that it starts.
 *
 * Threads  store_settings_load() once, first.
 */
#ifndef PARAMD_CLI_STORE_SETTINGS_H
#define PARAMD_CLI_STORE_SETTINGS_H

#include <stddef.h>

#include "cli/cli.h"
#include "common/err.h"

/* Reads the file, if there is one, and every `--set NAME=VALUE` of the arguments. */
enum err store_settings_load(int argc, char **argv) MUST_CHECK;
/* Of a command that takes no others: the first that concerns no store; NULL: all do. */
const char *store_settings_find_other(const struct option_list *sets);
/* "NAME=VALUE" of each that is not at its default, in the order of the table; freed by the caller,
   one by one with mem_free(). NULL-terminated. */
char **store_settings_sets(void);
/* The user's paramctl.yaml, or NULL; the machine's. */
char *store_settings_user_file(void);
#define STORE_SETTINGS_MACHINE_FILE "/etc/paramd/paramctl.yaml"

#endif
