#include "common/secret.h"

#include <stdatomic.h>
#include <string.h>
#include <sys/prctl.h>

#include "common/mem.h"

void secret_protect(void)
{
    static atomic_bool is_done;
    if (!atomic_exchange(&is_done, 1))
        prctl(PR_SET_DUMPABLE, 0L, 0L, 0L, 0L);
}

void secret_wipe(void *memory, size_t size)
{
    explicit_bzero(memory, size);
}

void secret_free(char *text)
{
    if (text != NULL)
        explicit_bzero(text, strlen(text));
    mem_free(text);
}
