#include "common/secret.h"

#include <stdatomic.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <unistd.h>

#include "common/check.h"
#include "common/mem.h"

void secret_protect(void)
{
    static atomic_bool is_done;
    if (!atomic_exchange(&is_done, 1))
        prctl(PR_SET_DUMPABLE, 0L, 0L, 0L, 0L);
}

/* In front of the text. */
struct page_header {
    size_t size; /* of the mapping */
};

char *secret_keep(struct span text)
{
    size_t page = (size_t)sysconf(_SC_PAGESIZE), size = sizeof(struct page_header) + text.size + 1;
    size = (size + page - 1) / page * page;
    struct page_header *h =
        mmap(NULL, size, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    CHECK(h != MAP_FAILED);
    madvise(h, size, MADV_DONTDUMP); /* where it is not known, all is as without */
    h->size = size;
    char *copy = (char *)(h + 1);
    if (text.size > 0)
        memcpy(copy, text.data, text.size);
    return copy; /* a 0 follows: the page is new */
}

void secret_release(char *text)
{
    if (text == NULL)
        return;
    struct page_header *h = (struct page_header *)text - 1;
    size_t size = h->size;
    explicit_bzero(h, size);
    CHECK(munmap(h, size) == 0);
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
