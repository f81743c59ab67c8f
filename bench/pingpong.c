/* The time of two round trips between processes, which no client with a dispatcher and a worker can do without.

   cc -O2 -o pingpong bench/pingpong.c
   pingpong [ROUNDS]

   This process sends a line over a socketpair to a child, which hands it over another socketpair to a second child;
   the line comes back the same way. So it is two round trips between two processes, one inside the other: four
   writes, four reads, and four times a process is woken. That is "two"; "one" is a single round trip, between this
   process and a child. Prints one line of JSON. */

#define _GNU_SOURCE
#include <errno.h>
#include <signal.h>
#include <string.h>
#include <sys/prctl.h>
#include <sys/socket.h>
#include <sys/wait.h>
#include <unistd.h>

#include "figures.h"

/* Hand each line from one socket on to another, and its answer back; with no other, answer. */
static void pass_on(int from, int to)
{
    char line[128];
    ssize_t size;
    while ((size = read(from, line, sizeof line)) > 0) {
        if (to >= 0 && (write(to, line, size) != size || (size = read(to, line, sizeof line)) <= 0))
            break;
        if (write(from, line, size) != size)
            break;
    }
    _exit(0);
}

static void time_rounds(int socket, int rounds)
{
    char line[128], back[128];
    Times times = {0};
    int64_t began = now();
    for (int i = 0; i < rounds; i++) {
        size_t length = sprintf(line, "{\"function\":\"echo\",\"args\":[%d]}\n", i);
        int64_t at = now();
        if (write(socket, line, length) != (ssize_t)length || read(socket, back, sizeof back) != (ssize_t)length ||
            memcmp(line, back, length))
            fail("a line did not come back");
        add_time(&times, now() - at);
    }
    print_figures(&times, (now() - began) / 1e9);
    free(times.values);
}

int main(int count, char **arguments)
{
    int rounds = count > 1 ? atoi(arguments[1]) : 20000;
    int first[2], second[2], alone[2];
    if (socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, first) ||
        socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, second) ||
        socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, alone))
        fail("socketpair: %s", strerror(errno));
    struct { int from, to; } children[] = {{first[1], second[0]}, {second[1], -1}, {alone[1], -1}};
    pid_t pids[3];
    for (int i = 0; i < 3; i++) {
        pids[i] = fork();
        if (pids[i] < 0)
            fail("fork: %s", strerror(errno));
        if (!pids[i]) {
            prctl(PR_SET_PDEATHSIG, SIGKILL);
            pass_on(children[i].from, children[i].to);
        }
    }
    printf("{\"two\": {");
    time_rounds(first[0], rounds);
    printf("}, \"one\": {");
    time_rounds(alone[0], rounds);
    printf("}}\n");
    for (int i = 0; i < 3; i++) {
        kill(pids[i], SIGKILL);
        waitpid(pids[i], NULL, 0);
    }
}
