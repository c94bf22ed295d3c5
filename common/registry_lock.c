#include "common/registry_lock.h"

#include <errno.h>
#include <fcntl.h>
#include <stdbool.h>
#include <stdint.h>
#include <stdio.h>
#include <string.h>
#include <sys/vfs.h>
#include <unistd.h>

#include "common/clock.h"
#include "common/mem.h"
#include "common/storage.h"

#define LOCK_WAIT_MS      10000
#define LOCK_PAUSE_MS_MAX 20
#define TEMPORARY         "/.new"

static struct flock whole_file(void)
{
    return (struct flock){.l_type = F_WRLCK, .l_whence = SEEK_SET};
}

static bool try_lock(int fd)
{
    struct flock lock = whole_file();
    return fcntl(fd, F_OFD_SETLK, &lock) == 0;
}

/* Does another open file description hold the lock? */
static enum err ask_lock(int fd, const char *path, bool *is_held)
{
    struct flock lock = whole_file();
    if (fcntl(fd, F_OFD_GETLK, &lock) != 0)
        return err_set_errno(ERR_IO, errno, "cannot ask for the lock of '%s'", path);
    *is_held = lock.l_type != F_UNLCK;
    return ERR_NONE;
}

/* The lock is held for milliseconds, so a long wait is a failure. */
enum err registry_lock_take(const char *directory, int *fd_out)
{
    char *path = storage_join(directory, "lock");
    enum err e = ERR_NONE;
    int fd = open(path, O_RDWR | O_CREAT | O_CLOEXEC, 0666);
    if (fd < 0) {
        e = err_set_errno(ERR_IO, errno, "cannot open '%s'", path);
        goto out;
    }
    uint64_t until = clock_ms() + LOCK_WAIT_MS;
    uint32_t pause_ms = 1;
    while (!try_lock(fd)) {
        int reason = errno;
        if ((reason != EAGAIN && reason != EACCES && reason != EINTR) || clock_ms() >= until) {
            e = err_set_errno(ERR_UNAVAILABLE, reason, "cannot lock '%s' within %d ms", path,
                              LOCK_WAIT_MS);
            close(fd);
            goto out;
        }
        clock_sleep_ms(pause_ms);
        pause_ms = pause_ms * 2 < LOCK_PAUSE_MS_MAX ? pause_ms * 2 : LOCK_PAUSE_MS_MAX;
    }
    *fd_out = fd;
out:
    mem_free(path);
    return e;
}

static enum err write_fd(int fd, const char *path, const char *text)
{
    for (size_t left = strlen(text); left > 0;) {
        ssize_t part = write(fd, text, left);
        if (part < 0 && errno != EINTR)
            return err_set_errno(errno == ENOSPC ? ERR_LIMIT : ERR_IO, errno, "cannot write '%s'",
                                 path);
        if (part > 0) {
            text += part;
            left -= (size_t)part;
        }
    }
    return ERR_NONE;
}

enum err registry_lock_claim(const char *directory, const char *path, const char *text, int *fd_out)
{
    char *temporary = must_format("%s" TEMPORARY, directory);
    /* Under the lock, one that is there was left by a process that died here. */
    unlink(temporary);
    enum err e = ERR_NONE;
    int fd = open(temporary, O_RDWR | O_CREAT | O_EXCL | O_CLOEXEC, 0666);
    if (fd < 0)
        e = err_set_errno(ERR_IO, errno, "cannot make '%s'", temporary);
    else if (!try_lock(fd))
        e = err_set_errno(ERR_IO, errno, "cannot lock '%s'", temporary);
    else
        e = write_fd(fd, temporary, text);
    if (e == ERR_NONE && rename(temporary, path) != 0)
        e = err_set_errno(ERR_IO, errno, "cannot make '%s'", path);
    if (e == ERR_NONE) {
        *fd_out = fd;
    } else if (fd >= 0) {
        unlink(temporary);
        close(fd);
    }
    mem_free(temporary);
    return e;
}

enum err registry_lock_read(size_t max_bytes, const char *path, char **text_out)
{
    char *text = NULL;
    int fd = open(path, O_RDONLY | O_CLOEXEC);
    if (fd < 0)
        return err_set_errno(errno == ENOENT ? ERR_NOT_FOUND : ERR_IO, errno, "cannot open '%s'",
                             path);
    bool is_held = false;
    enum err e = ask_lock(fd, path, &is_held);
    if (e == ERR_NONE && !is_held)
        e = err_set(ERR_NOT_FOUND, "the process that owned '%s' is dead", path);
    if (e != ERR_NONE)
        goto out;
    text = must_alloc(max_bytes + 1);
    for (size_t size = 0; size <= max_bytes;) {
        ssize_t part = pread(fd, text + size, max_bytes + 1 - size, (off_t)size);
        if (part < 0 && errno == EINTR)
            continue;
        if (part <= 0) {
            e = part == 0 ? ERR_NONE : err_set_errno(ERR_IO, errno, "cannot read '%s'", path);
            text[size] = '\0';
            break;
        }
        size += (size_t)part;
        if (size > max_bytes)
            e = err_set(ERR_CORRUPT, "'%s' is larger than any record", path);
    }
    if (e == ERR_NONE) {
        *text_out = text;
        text = NULL;
    }
out:
    mem_free(text);
    close(fd);
    return e;
}

const char *registry_lock_network_name(uint64_t magic)
{
    static const struct {
        uint64_t magic;
        const char *name;
    } table[] = {
        {0x6969, "NFS"},      {0x517b, "SMB"},      {0xff534d42, "CIFS"},  {0xfe534d42, "SMB"},
        {0x65735546, "FUSE"}, {0x01021997, "9p"},   {0x00c36400, "Ceph"},  {0x0bd00bd0, "Lustre"},
        {0x5346414f, "AFS"},  {0x6b414653, "AFS"},  {0x01161970, "GFS2"},  {0x7461636f, "OCFS2"},
        {0x73757245, "Coda"}, {0x47504653, "GPFS"}, {0x19830326, "FhGFS"},
    };
    for (size_t i = 0; i < sizeof table / sizeof table[0]; i++) {
        if (table[i].magic == magic)
            return table[i].name;
    }
    return NULL;
}

enum err registry_lock_check_file_system(const char *directory)
{
    struct statfs s;
    if (statfs(directory, &s) != 0)
        return err_set_errno(ERR_IO, errno, "cannot look at '%s'", directory);
    const char *network = registry_lock_network_name((uint64_t)s.f_type & UINT32_MAX);
    if (network != NULL)
        return err_set(ERR_REFUSED,
                       "registry directory '%s' is on %s: its locks cannot be relied "
                       "on; take a directory of a local disk",
                       directory, network);
    return ERR_NONE;
}
