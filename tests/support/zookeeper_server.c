#include "tests/support/zookeeper_server.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include <arpa/inet.h>
#include <fcntl.h>
#include <netinet/in.h>
#include <poll.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/prctl.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <unistd.h>

#include "common/clock.h"
#include "common/mem.h"
#include "common/storage.h"

#define JAR      "/usr/share/java/zookeeper.jar"
#define LOGGING  "/etc/zookeeper/conf"
#define START_MS 60000u

#ifdef __SANITIZE_THREAD__
/* Every handle of ZooKeeper's client writes its server's address, for its log, into one static
   buffer, with sprintf(). We do not use that function. */
const char *__tsan_default_suppressions(void);
const char *__tsan_default_suppressions(void)
{
    return "race_top:vsprintf\n";
}
#endif

bool zookeeper_is_installed(void)
{
    bool has_java = false;
    char *path = must_strdup(getenv("PATH") != NULL ? getenv("PATH") : "");
    for (char *rest = path, *part; (part = strsep(&rest, ":")) != NULL;) {
        char *java = must_format("%s/java", part);
        has_java |= access(java, X_OK) == 0;
        mem_free(java);
    }
    mem_free(path);
    return has_java && access(JAR, R_OK) == 0;
}

static struct sockaddr_in loopback(uint16_t port)
{
    return (struct sockaddr_in){
        .sin_family = AF_INET, .sin_port = htons(port), .sin_addr.s_addr = htonl(INADDR_LOOPBACK)};
}

static uint16_t free_port(void)
{
    struct sockaddr_in a = loopback(0);
    socklen_t size = sizeof a;
    int fd = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);
    assert_int_equal(bind(fd, (struct sockaddr *)&a, sizeof a), 0);
    assert_int_equal(getsockname(fd, (struct sockaddr *)&a, &size), 0);
    close(fd);
    return ntohs(a.sin_port);
}

void zookeeper_server_init(struct zookeeper_server *s)
{
    *s = (struct zookeeper_server){.directory = "/tmp/test_zookeeper-XXXXXX"};
    assert_non_null(mkdtemp(s->directory));
    s->port = free_port();
    char *path = storage_join(s->directory, "zoo.cfg");
    FILE *f = fopen(path, "w");
    assert_non_null(f);
    fprintf(f,
            "tickTime=200\ndataDir=%s/data\nclientPortAddress=127.0.0.1\nclientPort=%d\n"
            "admin.enableServer=false\nminSessionTimeout=400\nmaxSessionTimeout=60000\n"
            "maxClientCnxns=0\n4lw.commands.whitelist=ruok\nfsync.warningthresholdms=10000\n",
            s->directory, s->port);
    fclose(f);
    mem_free(path);
}

/* "ruok" is answered "imok". */
static bool answers(uint16_t port)
{
    struct sockaddr_in a = loopback(port);
    char answer[4] = "";
    int fd = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);
    bool is_ok = connect(fd, (struct sockaddr *)&a, sizeof a) == 0 &&
                 send(fd, "ruok", 4, MSG_NOSIGNAL) == 4 &&
                 poll(&(struct pollfd){.fd = fd, .events = POLLIN}, 1, 1000) == 1 &&
                 recv(fd, answer, sizeof answer, 0) == 4 && memcmp(answer, "imok", 4) == 0;
    close(fd);
    return is_ok;
}

static void run_server(const struct zookeeper_server *s)
{
    char config[80];
    prctl(PR_SET_PDEATHSIG, SIGKILL);
    if (chdir(s->directory) != 0)
        _exit(1);
    int log = open("log", O_WRONLY | O_CREAT | O_APPEND, 0600);
    dup2(log, STDOUT_FILENO);
    dup2(log, STDERR_FILENO);
    for (int fd = 3; fd < 256; fd++)
        close(fd);
    snprintf(config, sizeof config, "%s/zoo.cfg", s->directory);
    execlp("java", "java", "-Xmx128m", "-XX:+UseSerialGC", "-XX:TieredStopAtLevel=1",
           "-Xshare:auto", "-Dzookeeper.jmx.log4j.disable=true", "-cp", LOGGING ":" JAR,
           "org.apache.zookeeper.server.ZooKeeperServerMain", config, (char *)NULL);
    _exit(1);
}

void zookeeper_server_start(struct zookeeper_server *s)
{
    assert_int_equal(s->pid, 0);
    s->pid = fork();
    assert_true(s->pid >= 0);
    if (s->pid == 0)
        run_server(s);
    for (uint64_t until = clock_ms() + START_MS; !answers(s->port);) {
        if (waitpid(s->pid, NULL, WNOHANG) == s->pid || clock_ms() > until)
            fail_msg("ZooKeeper does not start; see %s/log", s->directory);
        clock_sleep_ms(20);
    }
}

void zookeeper_server_kill(struct zookeeper_server *s)
{
    if (s->pid == 0)
        return;
    kill(s->pid, SIGKILL);
    waitpid(s->pid, NULL, 0);
    s->pid = 0;
}

void zookeeper_server_wipe(struct zookeeper_server *s)
{
    char *data = storage_join(s->directory, "data");
    assert_int_equal(s->pid, 0);
    assert_int_equal(storage_remove_tree(data), ERR_NONE);
    mem_free(data);
}

void zookeeper_server_pause(struct zookeeper_server *s)
{
    assert_int_equal(kill(s->pid, SIGSTOP), 0);
}

void zookeeper_server_resume(struct zookeeper_server *s)
{
    assert_int_equal(kill(s->pid, SIGCONT), 0);
}

static void copy_data(const struct zookeeper_server *s, const char *from, const char *to)
{
    char *command =
        must_format("cd '%s' && rm -rf '%s' && cp -r '%s' '%s'", s->directory, to, from, to);
    assert_int_equal(s->pid, 0);
    assert_int_equal(system(command), 0);
    mem_free(command);
}

void zookeeper_server_save(struct zookeeper_server *s)
{
    copy_data(s, "data", "saved");
}

void zookeeper_server_go_back(struct zookeeper_server *s)
{
    copy_data(s, "saved", "data");
}

void zookeeper_server_deinit(struct zookeeper_server *s)
{
    zookeeper_server_kill(s);
    assert_int_equal(storage_remove_tree(s->directory), ERR_NONE);
}
