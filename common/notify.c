#include "common/notify.h"

#include <stddef.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/un.h>
#include <unistd.h>

#include "common/str.h"

void notify_state(const char *text)
{
    const char *path = getenv("NOTIFY_SOCKET");
    struct sockaddr_un to = {.sun_family = AF_UNIX};
    if (path == NULL || (path[0] != '/' && path[0] != '@') || strlen(path) >= sizeof to.sun_path)
        return;
    size_t size = strlen(path);
    memcpy(to.sun_path, path, size);
    if (path[0] == '@')
        to.sun_path[0] = '\0';
    int s = socket(AF_UNIX, SOCK_DGRAM | SOCK_CLOEXEC, 0);
    if (s < 0)
        return;
    socklen_t length = (socklen_t)(offsetof(struct sockaddr_un, sun_path) + size);
    ssize_t sent = sendto(s, text, strlen(text), MSG_NOSIGNAL, (struct sockaddr *)&to, length);
    (void)sent; /* nobody to tell that nobody could be told */
    close(s);
}

uint32_t notify_watchdog_ms(void)
{
    const char *period = getenv("WATCHDOG_USEC"), *process = getenv("WATCHDOG_PID");
    uint64_t us, pid;
    if (period == NULL || str_parse_u64(span_of(period), &us) != ERR_NONE)
        return 0;
    if (process != NULL &&
        (str_parse_u64(span_of(process), &pid) != ERR_NONE || pid != (uint64_t)getpid()))
        return 0;
    uint64_t ms = us / 2000;
    return ms > UINT32_MAX ? UINT32_MAX : (uint32_t)ms;
}
