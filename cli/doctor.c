/*
 * doctor.c - `paramctl doctor` and `paramctl version`: what this machine and this build have.
 */
#include <errno.h>
#include <stdio.h>
#include <string.h>
#include <sys/resource.h>
#include <sys/socket.h>
#include <sys/statvfs.h>
#include <sys/un.h>
#include <unistd.h>

#include "cli/cli.h"
#include "common/machine.h"

struct finding {
    bool good;
    char text[200];
};

static struct finding check_processor(void)
{
    struct finding f = {true, "processor has AVX2 and FMA"};

#if defined(__x86_64__)
    if (!__builtin_cpu_supports("avx2") || !__builtin_cpu_supports("fma")) {
        f.good = false;
        strcpy(f.text, "processor lacks AVX2 or FMA: build with `make ARCH=-march=x86-64`");
    }
#else
    strcpy(f.text, "processor: not x86-64, built for what the compiler assumes");
#endif
    return f;
}

static struct finding check_memory(void)
{
    struct finding f = {true, ""};
    double gib = (double)machine_memory() / (1 << 30);

    f.good = gib >= 1;
    snprintf(f.text, sizeof f.text, "%u processors, %.1f GiB of memory%s", machine_cores(), gib,
             f.good ? "" : ": at least 1 GiB is wanted");
    return f;
}

static struct finding check_files(void)
{
    struct finding f = {false, ""};
    struct rlimit limit;

    if (getrlimit(RLIMIT_NOFILE, &limit) != 0) {
        snprintf(f.text, sizeof f.text, "open files: %s", strerror(errno));
        return f;
    }
    f.good = limit.rlim_cur >= 1024;
    snprintf(f.text, sizeof f.text, "%llu open files allowed%s", (unsigned long long)limit.rlim_cur,
             f.good ? "" : ": raise it to 1024 or more (ulimit -n)");
    return f;
}

static struct finding check_sockets(void)
{
    struct finding f = {true, "unix sockets with abstract names work"};
    struct sockaddr_un address = {.sun_family = AF_UNIX};
    int descriptor = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0);

    snprintf(address.sun_path + 1, sizeof address.sun_path - 1, "paramd-doctor-%d", getpid());
    if (descriptor < 0 || bind(descriptor, (struct sockaddr *)&address, sizeof address) != 0) {
        f.good = false;
        snprintf(f.text, sizeof f.text,
                 "unix sockets with abstract names: %s; set unix_sockets=false", strerror(errno));
    }
    if (descriptor >= 0)
        close(descriptor);
    return f;
}

static struct finding check_disk(void)
{
    struct finding f = {false, ""};
    struct statvfs disk;

    if (statvfs(".", &disk) != 0) {
        snprintf(f.text, sizeof f.text, "this directory: %s", strerror(errno));
        return f;
    }
    double gib = (double)disk.f_bavail * (double)disk.f_frsize / (1 << 30);
    f.good = gib >= 1 && access(".", W_OK) == 0;
    snprintf(f.text, sizeof f.text, "%.1f GiB free in this directory%s", gib,
             f.good              ? ""
             : access(".", W_OK) ? ", which cannot be written"
                                 : ": checkpoints want more");
    return f;
}

int command_doctor(int argc, char **argv)
{
    const struct finding findings[] = {check_processor(), check_memory(), check_files(),
                                       check_sockets(), check_disk()};
    bool good = true;

    if (!options_parse("doctor", argc, argv, NULL, 0, NULL))
        return EXIT_USAGE;
    for (size_t i = 0; i < sizeof findings / sizeof *findings; i++) {
        printf("%-4s %s\n", findings[i].good ? "ok" : "BAD", findings[i].text);
        good &= findings[i].good;
    }
    return good ? EXIT_DONE : EXIT_ERROR;
}

int command_version(int argc, char **argv)
{
    if (!options_parse("version", argc, argv, NULL, 0, NULL))
        return EXIT_USAGE;
    printf("paramd %s (built with gcc %s, checkpoint format 1, backend cpu)\n", PARAMD_VERSION,
           __VERSION__);
    return EXIT_DONE;
}
