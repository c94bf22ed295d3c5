/*
 * ring.h - an intrusive, doubly linked list: the links are members of what they link.
 *
 *     struct link head;                        ring_init(&head);
 *     ring_push(&head, &call->of_server);      at the end
 *     struct call *c = RING_ITEM(head.next, struct call, of_server);
 *
 * A zeroed link is in no ring. Threads: none; the caller guards a ring and all its links.
 */
#ifndef PARAMD_COMMON_RING_H
#define PARAMD_COMMON_RING_H

#include <stdbool.h>
#include <stddef.h>

struct link {
    struct link *previous, *next;
};

#define RING_ITEM(link_pointer, type, member)                                                      \
    ((type *)(void *)((char *)(link_pointer)-offsetof(type, member)))

static inline void ring_init(struct link *head)
{
    head->previous = head->next = head;
}

static inline bool ring_is_empty(const struct link *head)
{
    return head->next == head;
}

static inline void ring_push(struct link *head, struct link *l)
{
    l->previous = head->previous;
    l->next = head;
    l->previous->next = l->next->previous = l;
}

/* Does nothing for a link that is in no ring. */
static inline void ring_remove(struct link *l)
{
    if (l->next == NULL)
        return;
    l->previous->next = l->next;
    l->next->previous = l->previous;
    l->previous = l->next = NULL;
}

#endif
