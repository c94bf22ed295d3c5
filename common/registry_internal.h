/*
 * registry_internal.h - what a registry backend is: the table that registry.c dispatches through.
 * For registry*.c and for tests.
 *
 * A backend derives its registry and member from the bases below, each as its first member, and
 * fills in the base. All slots MUST be there.
 */
#ifndef PARAMD_COMMON_REGISTRY_INTERNAL_H
#define PARAMD_COMMON_REGISTRY_INTERNAL_H

#include "common/registry.h"

#define REGISTRY_RECORD_MAX_BYTES ((size_t)512 << 10)

struct registry_write {
    const char *path;
    const void *data;
    size_t size;
    uint64_t version;
    bool is_led; /* only while we lead */
};

struct registry_backend {
    const char *scheme; /* with the colon: "local:" */
    const char *forms;  /* for texts */
    enum err (*open)(const char *uri, const struct registry_options *options,
                     struct registry **out);
    void (*close)(struct registry *r);
    enum registry_state (*state)(struct registry *r, uint64_t *away_ms);
    enum err (*join)(struct registry *r, const char *role, const char *name, const char *record,
                     struct registry_member **out);
    const char *(*member_id)(const struct registry_member *m);
    void (*leave)(struct registry_member *m);
    enum err (*members)(struct registry *r, const char *role, struct registry_entry **out,
                        size_t *count_out); /* in any order */
    enum err (*lead)(struct registry *r, const char *record, bool *is_leader, uint64_t *term);
    bool (*leads)(struct registry *r, uint64_t *term);
    void (*resign)(struct registry *r);
    enum err (*leader)(struct registry *r, char **record_out, uint64_t *term);
    enum err (*put)(struct registry *r, const struct registry_write *w, uint64_t *version_out);
    enum err (*get)(struct registry *r, const char *path, void **data_out, size_t *size_out,
                    uint64_t *version_out);
    enum err (*remove)(struct registry *r, const char *path, bool is_led);
    enum err (*list)(struct registry *r, const char *path, char ***names_out,
                     size_t *count_out); /* in any order */
};

struct registry {
    const struct registry_backend *backend;
};

struct registry_member {
    const struct registry_backend *backend;
};

extern const struct registry_backend registry_local_backend, registry_zookeeper_backend;

#endif
