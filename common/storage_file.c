/*
 * Files of this machine, or of a mounted file system.
 *
 * A file is written under a temporary name beside its place, ".NAME.tmp-PID-TIME-N", synced, and
 * then given its name: by rename() to replace, by renameat2(RENAME_NOREPLACE) or, where a file
 * system lacks that, link() to be the first. The directory is synced after. A crash leaves at most
 * a temporary file, which listings leave out. After an error of fsync() the kernel may have dropped
 * the pages and call the file clean, so the same file is never synced again: it is removed, and a
 * new attempt writes a new one.
 *
 * When only the sync of the directory fails, the name is there but may not survive a loss of power;
 * this is told as ERR_IO, and the caller finds out by reading.
 */
#include "common/storage_internal.h"

#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <limits.h>
#include <stdatomic.h>
#include <stdio.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "common/clock.h"
#include "common/mem.h"
#include "common/str.h"

#define BUFFER_BYTES   ((size_t)256 << 10)
#define TEMPORARY_MARK ".tmp-"
#define DEPTH_MAX      64

struct file_reader {
    struct storage_reader base;
    int fd;
    char *uri;
};

struct file_writer {
    struct storage_writer base;
    int fd;
    bool overwrite;
    char *uri, *path, *temporary;
    uint8_t *buffer;
    size_t buffered;
    enum err failure; /* then it is not published, whatever the caller does */
};

/* One place that says what an errno means. */
static enum err file_error(int error_number, const char *doing, const char *uri)
{
    switch (error_number) {
    case ENOENT:
    case ENOTDIR:
        return err_set_errno(ERR_NOT_FOUND, error_number, "cannot %s '%s'", doing, uri);
    case EEXIST:
        return err_set_errno(ERR_EXISTS, error_number, "cannot %s '%s'", doing, uri);
    case ENOSPC:
    case EDQUOT:
        return err_set_errno(ERR_LIMIT, error_number, "disk full: cannot %s '%s'", doing, uri);
    default:
        return err_set_errno(ERR_IO, error_number, "cannot %s '%s'", doing, uri);
    }
}

/* The path of "file:path", "file:///path" or "path"; NULL for a host that is not this one. */
static const char *path_of(const char *uri)
{
    if (strncmp(uri, "file:", 5) != 0)
        return uri;
    uri += 5;
    if (strncmp(uri, "//", 2) != 0)
        return uri;
    uri += 2;
    if (strncmp(uri, "localhost/", 10) == 0)
        uri += 9;
    return uri[0] == '/' ? uri : NULL;
}

static enum err find_path(const char *uri, const char **out)
{
    *out = path_of(uri);
    if (*out == NULL)
        return err_set(ERR_INPUT,
                       "'%s' names a host: write file:///path, or file:path for a "
                       "relative one",
                       uri);
    if ((*out)[0] == '\0')
        return err_set(ERR_INPUT, "'%s' names no file", uri);
    return ERR_NONE;
}

/* The directory that holds `path`, as text to free. */
static char *parent_of(const char *path)
{
    size_t size = strlen(path);
    while (size > 1 && path[size - 1] == '/')
        size--;
    while (size > 0 && path[size - 1] != '/')
        size--;
    while (size > 1 && path[size - 1] == '/')
        size--;
    return size > 0 ? must_format("%.*s", (int)size, path) : must_strdup(".");
}

static enum err sync_fd(int fd, const char *uri)
{
    if (storage_fault_now(STORAGE_FAULT_FSYNC))
        return file_error(EIO, "sync", uri);
    return fsync(fd) == 0 ? ERR_NONE : file_error(errno, "sync", uri);
}

static enum err sync_directory(const char *path, const char *uri)
{
    int fd = open(path, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
    if (fd < 0)
        return file_error(errno, "sync the directory of", uri);
    enum err e = sync_fd(fd, uri);
    close(fd);
    return e == ERR_NONE ? e : err_prefix(e, "directory of the file");
}

/* Makes `path` and what is missing above it; what was made is durable. */
static enum err make_directories(const char *path, const char *uri, int depth)
{
    struct stat s;
    if (stat(path, &s) == 0)
        return S_ISDIR(s.st_mode) ? ERR_NONE : file_error(ENOTDIR, "make the directory of", uri);
    if (errno != ENOENT)
        return file_error(errno, "make the directory of", uri);
    if (depth == 0)
        return err_set(ERR_LIMIT, "'%s' lies deeper than %d levels", uri, DEPTH_MAX);
    char *parent = parent_of(path);
    enum err e = make_directories(parent, uri, depth - 1);
    if (e == ERR_NONE && mkdir(path, 0777) != 0 && errno != EEXIST)
        e = file_error(errno, "make the directory of", uri);
    if (e == ERR_NONE)
        e = sync_directory(parent, uri);
    mem_free(parent);
    return e;
}

/* ---- looking ---- */

static void fill_info(const struct stat *s, struct storage_info *out)
{
    *out = (struct storage_info){
        .size = S_ISDIR(s->st_mode) ? 0 : (uint64_t)s->st_size,
        .modified_ms = (uint64_t)s->st_mtim.tv_sec * 1000 + (uint64_t)s->st_mtim.tv_nsec / 1000000,
        .is_directory = S_ISDIR(s->st_mode),
    };
    snprintf(out->mark, sizeof out->mark, "%" PRIx64 "-%" PRIx64 ".%lx-%" PRIx64,
             (uint64_t)s->st_size, (uint64_t)s->st_mtim.tv_sec, (unsigned long)s->st_mtim.tv_nsec,
             (uint64_t)s->st_ino);
}

static enum err file_stat(const char *uri, struct storage_info *out)
{
    const char *path;
    enum err e = find_path(uri, &path);
    if (e != ERR_NONE)
        return e;
    if (storage_fault_now(STORAGE_FAULT_EIO))
        return file_error(EIO, "look at", uri);
    struct stat s;
    if (stat(path, &s) != 0)
        return file_error(errno, "look at", uri);
    fill_info(&s, out);
    return ERR_NONE;
}

static bool is_temporary(const char *name)
{
    return name[0] == '.' && strstr(name, TEMPORARY_MARK) != NULL;
}

static bool is_dots(const char *name)
{
    return strcmp(name, ".") == 0 || strcmp(name, "..") == 0;
}

static enum err file_list(const char *uri, struct storage_list *out)
{
    const char *path;
    enum err e = find_path(uri, &path);
    if (e != ERR_NONE)
        return e;
    DIR *d = storage_fault_now(STORAGE_FAULT_EIO) ? (errno = EIO, NULL) : opendir(path);
    if (d == NULL)
        return file_error(errno, "list", uri);
    size_t capacity = 0;
    struct dirent *entry;
    while (errno = 0, (entry = readdir(d)) != NULL) {
        struct stat s;
        if (is_dots(entry->d_name) || is_temporary(entry->d_name))
            continue;
        if (fstatat(dirfd(d), entry->d_name, &s, 0) != 0) {
            if (errno == ENOENT) /* gone since, or a link to nothing */
                continue;
            e = file_error(errno, "look at what is in", uri);
            goto out;
        }
        if (!mem_grow(out->entries, capacity, out->count + 1)) {
            e = err_prefix(ERR_MEMORY, "cannot list '%s'", uri);
            goto out;
        }
        struct storage_entry *new_entry = &out->entries[out->count++];
        new_entry->name = must_strdup(entry->d_name);
        fill_info(&s, &new_entry->info);
    }
    if (errno != 0)
        e = file_error(errno, "list", uri);
out:
    closedir(d);
    return e;
}

/* ---- reading ---- */

static enum err file_open(const char *uri, struct storage_reader **out)
{
    const char *path;
    enum err e = find_path(uri, &path);
    if (e != ERR_NONE)
        return e;
    int fd =
        storage_fault_now(STORAGE_FAULT_EIO) ? (errno = EIO, -1) : open(path, O_RDONLY | O_CLOEXEC);
    if (fd < 0)
        return file_error(errno, "open", uri);
    struct stat s;
    if (fstat(fd, &s) != 0 || S_ISDIR(s.st_mode)) {
        e = file_error(S_ISDIR(s.st_mode) ? EISDIR : errno, "open", uri);
        close(fd);
        return e;
    }
    struct file_reader *r = must_alloc(sizeof *r);
    r->base =
        (struct storage_reader){.backend = &storage_file_backend, .size = (uint64_t)s.st_size};
    r->fd = fd;
    r->uri = must_strdup(uri);
    *out = &r->base;
    return ERR_NONE;
}

static enum err file_read_at(struct storage_reader *base, uint64_t offset, void *out, size_t size)
{
    struct file_reader *r = (struct file_reader *)base;
    if (storage_fault_now(STORAGE_FAULT_EIO))
        return file_error(EIO, "read", r->uri);
    bool ends_here = storage_fault_now(STORAGE_FAULT_SHORT);
    uint8_t *to = out;
    for (size_t done = 0; done < size;) {
        ssize_t part = ends_here ? 0 : pread(r->fd, to + done, size - done, (off_t)(offset + done));
        if (part < 0 && errno == EINTR)
            continue;
        if (part < 0)
            return file_error(errno, "read", r->uri);
        if (part == 0)
            return err_set(ERR_CORRUPT, "'%s' ends at byte %" PRIu64 ", before %" PRIu64, r->uri,
                           offset + done, offset + size);
        done += (size_t)part;
    }
    return ERR_NONE;
}

static void file_close(struct storage_reader *base)
{
    struct file_reader *r = (struct file_reader *)base;
    close(r->fd);
    mem_free(r->uri);
    mem_free(r);
}

/* ---- writing ---- */

static void writer_free(struct file_writer *w)
{
    if (w->fd >= 0)
        close(w->fd);
    mem_free(w->uri);
    mem_free(w->path);
    mem_free(w->temporary);
    mem_free(w->buffer);
    mem_free(w);
}

/* Unique on this machine by process and count, and by time against a dead process of that number.
 */
static char *temporary_name(const char *path)
{
    static _Atomic uint64_t count;
    char *parent = parent_of(path);
    const char *slash = strrchr(path, '/');
    char *name = must_format("%s/.%.120s" TEMPORARY_MARK "%ld-%" PRIx64 "-%" PRIu64, parent,
                             slash != NULL ? slash + 1 : path, (long)getpid(), clock_wall_ms(),
                             atomic_fetch_add(&count, 1));
    mem_free(parent);
    return name;
}

static enum err writer_create_file(struct file_writer *w)
{
    char *parent = parent_of(w->path);
    enum err e = make_directories(parent, w->uri, DEPTH_MAX);
    mem_free(parent);
    if (e != ERR_NONE)
        return e;
    if (storage_fault_now(STORAGE_FAULT_EIO))
        return file_error(EIO, "write", w->uri);
    if (storage_fault_now(STORAGE_FAULT_ENOSPC))
        return file_error(ENOSPC, "write", w->uri);
    w->fd = open(w->temporary, O_WRONLY | O_CREAT | O_EXCL | O_CLOEXEC, 0666);
    return w->fd >= 0 ? ERR_NONE : file_error(errno, "write", w->uri);
}

static enum err file_write_open(const char *uri, bool overwrite, struct storage_writer **out)
{
    const char *path;
    enum err e = find_path(uri, &path);
    if (e != ERR_NONE)
        return e;
    if (path[strlen(path) - 1] == '/')
        return err_set(ERR_INPUT, "cannot write '%s': it names a directory", uri);
    struct file_writer *w = must_alloc(sizeof *w);
    w->base.backend = &storage_file_backend;
    w->fd = -1;
    w->overwrite = overwrite;
    w->uri = must_strdup(uri);
    w->path = must_strdup(path);
    w->temporary = temporary_name(path);
    w->buffer = mem_alloc(BUFFER_BYTES);
    e = w->buffer != NULL ? writer_create_file(w)
                          : err_prefix(ERR_MEMORY, "cannot write '%s'", uri);
    if (e != ERR_NONE) {
        writer_free(w);
        return e;
    }
    *out = &w->base;
    return ERR_NONE;
}

static enum err write_out(struct file_writer *w, const uint8_t *data, size_t size)
{
    if (storage_fault_now(STORAGE_FAULT_EIO))
        return file_error(EIO, "write", w->uri);
    if (storage_fault_now(STORAGE_FAULT_ENOSPC))
        return file_error(ENOSPC, "write", w->uri);
    bool is_torn = storage_fault_now(STORAGE_FAULT_SHORT);
    if (is_torn)
        size /= 2;
    while (size > 0) {
        ssize_t part = write(w->fd, data, size);
        if (part < 0 && errno == EINTR)
            continue;
        if (part < 0)
            return file_error(errno, "write", w->uri);
        data += part;
        size -= (size_t)part;
    }
    return is_torn ? file_error(EIO, "write", w->uri) : ERR_NONE;
}

static enum err writer_flush(struct file_writer *w)
{
    enum err e = w->buffered > 0 ? write_out(w, w->buffer, w->buffered) : ERR_NONE;
    w->buffered = 0;
    if (e != ERR_NONE)
        w->failure = e;
    return e;
}

static enum err file_write(struct storage_writer *base, const void *data, size_t size)
{
    struct file_writer *w = (struct file_writer *)base;
    if (size <= BUFFER_BYTES - w->buffered) {
        memcpy(w->buffer + w->buffered, data, size);
        w->buffered += size;
        return ERR_NONE;
    }
    enum err e = writer_flush(w);
    if (e != ERR_NONE)
        return e;
    if (size >= BUFFER_BYTES) {
        e = write_out(w, data, size);
        if (e != ERR_NONE)
            w->failure = e;
        return e;
    }
    memcpy(w->buffer, data, size);
    w->buffered = size;
    return ERR_NONE;
}

/* Gives the temporary file its name. It is gone afterwards, or unlinked by the caller. */
static enum err publish(struct file_writer *w)
{
    if (storage_fault_now(STORAGE_FAULT_EIO))
        return file_error(EIO, "name", w->uri);
    if (w->overwrite)
        return rename(w->temporary, w->path) == 0 ? ERR_NONE : file_error(errno, "write", w->uri);
    if (renameat2(AT_FDCWD, w->temporary, AT_FDCWD, w->path, RENAME_NOREPLACE) == 0)
        return ERR_NONE;
    if (errno != EINVAL && errno != ENOSYS && errno != ENOTSUP)
        return file_error(errno, "write", w->uri);
    if (link(w->temporary, w->path) != 0)
        return file_error(errno, "write", w->uri);
    unlink(w->temporary);
    return ERR_NONE;
}

static enum err file_write_close(struct storage_writer *base)
{
    struct file_writer *w = (struct file_writer *)base;
    char *parent = parent_of(w->path);
    enum err e = writer_flush(w);
    if (e == ERR_NONE && w->failure != ERR_NONE)
        e = err_set(w->failure, "cannot write '%s': an earlier write failed", w->uri);
    if (e == ERR_NONE)
        e = sync_fd(w->fd, w->uri);
    if (e == ERR_NONE && close(w->fd) != 0)
        e = file_error(errno, "close", w->uri);
    else if (e != ERR_NONE)
        close(w->fd);
    w->fd = -1;
    if (e == ERR_NONE)
        e = publish(w);
    if (e != ERR_NONE)
        unlink(w->temporary);
    else
        e = sync_directory(parent, w->uri);
    mem_free(parent);
    writer_free(w);
    return e;
}

static void file_write_abort(struct storage_writer *base)
{
    struct file_writer *w = (struct file_writer *)base;
    unlink(w->temporary);
    writer_free(w);
}

/* ---- removing ---- */

static enum err file_remove(const char *uri)
{
    const char *path;
    enum err e = find_path(uri, &path);
    if (e != ERR_NONE)
        return e;
    if (storage_fault_now(STORAGE_FAULT_EIO))
        return file_error(EIO, "remove", uri);
    if (unlink(path) != 0)
        return errno == ENOENT || errno == ENOTDIR ? ERR_NONE : file_error(errno, "remove", uri);
    char *parent = parent_of(path);
    e = sync_directory(parent, uri);
    mem_free(parent);
    return e;
}

/* Empties the directory `fd`, which it closes. Links are removed, not followed. */
static enum err empty_directory(int fd, const char *uri, int depth)
{
    DIR *d = fdopendir(fd);
    if (d == NULL) {
        enum err failed = file_error(errno, "remove", uri);
        close(fd);
        return failed;
    }
    enum err e =
        depth > 0 ? ERR_NONE : err_set(ERR_LIMIT, "'%s' is deeper than %d levels", uri, DEPTH_MAX);
    struct dirent *entry;
    while (e == ERR_NONE && (entry = readdir(d)) != NULL) {
        const char *name = entry->d_name;
        if (is_dots(name) || unlinkat(fd, name, 0) == 0 || errno == ENOENT)
            continue;
        int child = openat(fd, name, O_RDONLY | O_DIRECTORY | O_NOFOLLOW | O_CLOEXEC);
        e = child >= 0 ? empty_directory(child, uri, depth - 1) : file_error(errno, "remove", uri);
        if (e == ERR_NONE && unlinkat(fd, name, AT_REMOVEDIR) != 0 && errno != ENOENT)
            e = file_error(errno, "remove", uri);
    }
    closedir(d);
    return e;
}

static enum err file_remove_tree(const char *uri)
{
    const char *path;
    enum err e = find_path(uri, &path);
    if (e != ERR_NONE)
        return e;
    if (path[strspn(path, "/.")] == '\0')
        return err_set(ERR_INPUT, "refused to remove '%s'", uri);
    if (storage_fault_now(STORAGE_FAULT_EIO))
        return file_error(EIO, "remove", uri);
    int fd = open(path, O_RDONLY | O_DIRECTORY | O_NOFOLLOW | O_CLOEXEC);
    if (fd < 0 && errno == ENOENT)
        return ERR_NONE;
    if (fd < 0)
        return file_error(errno, "remove", uri);
    /* Without its manifest a checkpoint is no checkpoint, whatever of it a crash leaves here. */
    if (unlinkat(fd, "MANIFEST.json", 0) == 0)
        e = sync_fd(fd, uri);
    if (e != ERR_NONE) {
        close(fd);
        return e;
    }
    e = empty_directory(fd, uri, DEPTH_MAX);
    if (e == ERR_NONE && rmdir(path) != 0 && errno != ENOENT)
        e = file_error(errno, "remove", uri);
    char *parent = parent_of(path);
    if (e == ERR_NONE)
        e = sync_directory(parent, uri);
    mem_free(parent);
    return e;
}

/* Closes `fd`. Links are not followed. */
static enum err remove_temporaries(int fd, uint64_t before_ms, uint32_t *count, const char *uri,
                                   int depth)
{
    DIR *d = fdopendir(fd);
    if (d == NULL) {
        enum err failed = file_error(errno, "clean", uri);
        close(fd);
        return failed;
    }
    enum err e = ERR_NONE;
    struct dirent *entry;
    while (e == ERR_NONE && depth > 0 && (entry = readdir(d)) != NULL) {
        struct stat s;
        const char *name = entry->d_name;
        if (is_dots(name) || fstatat(fd, name, &s, AT_SYMLINK_NOFOLLOW) != 0)
            continue;
        if (S_ISDIR(s.st_mode)) {
            int child = openat(fd, name, O_RDONLY | O_DIRECTORY | O_NOFOLLOW | O_CLOEXEC);
            e = child >= 0 ? remove_temporaries(child, before_ms, count, uri, depth - 1) : e;
        } else if (is_temporary(name) && (uint64_t)s.st_mtim.tv_sec * 1000 < before_ms) {
            if (unlinkat(fd, name, 0) == 0)
                ++*count;
            else if (errno != ENOENT)
                e = file_error(errno, "clean", uri);
        }
    }
    closedir(d);
    return e;
}

static enum err file_remove_leftovers(const char *uri, uint64_t before_ms, uint32_t *count_out)
{
    const char *path;
    enum err e = find_path(uri, &path);
    if (e != ERR_NONE)
        return e;
    int fd = open(path, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
    if (fd < 0)
        return errno == ENOENT ? ERR_NONE : file_error(errno, "clean", uri);
    return remove_temporaries(fd, before_ms, count_out, uri, DEPTH_MAX);
}

const struct storage_backend storage_file_backend = {
    .scheme = "file",
    .forms = "file:path, file:///path, path",
    .stat = file_stat,
    .list = file_list,
    .open = file_open,
    .read_at = file_read_at,
    .close = file_close,
    .write_open = file_write_open,
    .write = file_write,
    .write_close = file_write_close,
    .write_abort = file_write_abort,
    .remove = file_remove,
    .remove_tree = file_remove_tree,
    .remove_leftovers = file_remove_leftovers,
};
