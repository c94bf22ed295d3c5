#include "common/rpc.h"

#include <stddef.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/un.h>
#include <unistd.h>

#define ABSTRACT "unix-abstract:"
#define UNIX     "unix:"

bool rpc_is_unix(const char *address)
{
    return strncmp(address, ABSTRACT, strlen(ABSTRACT)) == 0 ||
           strncmp(address, UNIX, strlen(UNIX)) == 0;
}

bool rpc_unix_listens(const char *address)
{
    struct sockaddr_un to = {.sun_family = AF_UNIX};
    if (!rpc_is_unix(address))
        return false;
    /* An abstract name stands behind a zero byte and has none at its end. */
    bool abstract = strncmp(address, ABSTRACT, strlen(ABSTRACT)) == 0;
    const char *name = address + strlen(abstract ? ABSTRACT : UNIX);
    size_t length = strlen(name);
    if (length + 1 > sizeof to.sun_path)
        return false;
    memcpy(to.sun_path + abstract, name, length);
    socklen_t size = (socklen_t)(offsetof(struct sockaddr_un, sun_path) + abstract + length);
    int s = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0);
    if (s < 0)
        return false;
    bool connected = connect(s, (struct sockaddr *)&to, size) == 0;
    close(s);
    return connected;
}
