/*
 * storage_tool.h - how the test programs that use a store read their command lines:
 *
 *     PROGRAM WORD... [--set NAME=VALUE]...
 *
 * The settings are the daemons'.
 */
#ifndef PARAMD_TESTS_SUPPORT_STORAGE_TOOL_H
#define PARAMD_TESTS_SUPPORT_STORAGE_TOOL_H

/*
 * Configures storage by what follows the first `words` arguments, the program's name not counted.
 * -> 0, or after a message that shows `usage`, which begins with the program's name, an exit code.
 */
int storage_tool_begin(int count, char **arguments, int words, const char *usage);
void storage_tool_end(void);

#endif
