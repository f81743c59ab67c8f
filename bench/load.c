/* Load for a server of lines or of websockets on this machine. Every reply is checked; prints one line of JSON.

   cc -O2 -o load bench/load.c

   load pipelined --port P --connections 50 --in-flight 16    connections that stay open
   load each      --port P --connections 50                   a connection for each request, so many at a time
   load websocket --port P --connections 50 --in-flight 1     websockets that stay open; each message is answered
                                                              "task complete"
   load rate      --port P --connections 50 --rate 5000       so many requests a second, whatever comes back;
                                                              latency counts from when each was due

   Each takes
   --request '{"function":"echo","args":[#]}'   # is a number, another one in each request; the reply must be it
   --warm-up 0.5 --seconds 3                    what is answered in these seconds after the warm-up is counted;
                                                all that was sent must be answered in the end
   The exit status is 1, with a sentence on stderr, where a reply is wrong, missing or out of order.

   One thread around epoll; "generator_cpu" says what share of one processor it has used. */

#define _GNU_SOURCE
#include <arpa/inet.h>
#include <errno.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <stdbool.h>
#include <sys/epoll.h>
#include <sys/prctl.h>
#include <sys/resource.h>
#include <sys/socket.h>
#include <sys/timerfd.h>
#include <unistd.h>

#include "figures.h"
#include "frames.h"

#define PATIENCE_MS 60000           /* without any reply for so long, the server is taken for dead */
#define IN_SIZE 65536               /* bytes of replies that are read at once */
#define REQUEST_SIZE 1024           /* bytes of the longest request */
#define EVENTS 256                  /* connections that are looked after in one turn */
#define SOURCES 8                   /* addresses 127.0.0.1 … to connect from: each has its own ports, so that those
                                       in TIME_WAIT do not run out with a connection for each request */

#define COMPLETE "task complete"

typedef enum { PIPELINED, EACH, WEBSOCKET, RATE } Mode;

typedef struct {
    int64_t number;                 /* that was sent and must come back */
    int64_t at;                     /* when it was sent, or was due */
} Owed;

typedef struct {
    int fd;
    bool is_open;                   /* a websocket's handshake is done */
    bool waits_to_write;
    Owed *owed;                     /* a ring: replies come in the order of the requests */
    size_t owed_first, owed_count, owed_size;
    char in[IN_SIZE];
    size_t in_length;
    char *out;
    size_t out_sent, out_length, out_size;
} Connection;

static struct {
    Mode mode;
    int port;
    int connections, in_flight;
    double rate, seconds, warm_up;
    const char *before, *after;     /* the request, around its number */
    size_t before_length, after_length;
} options = {.port = 12345, .connections = 50, .in_flight = 1, .rate = 1000, .seconds = 3, .warm_up = 0.5};

static int epoll;
static int64_t counts_from, ends_at;
static int64_t sent, received;      /* requests and replies, warm-up included */
static Times latencies;             /* of the replies that count */
static Times late;                  /* in open loop: how long after it was due each request was sent */

static void count_reply(int64_t at, int64_t sent_at)
{
    received++;
    if (at >= counts_from && at < ends_at)
        add_time(&latencies, at - sent_at);
}

/* --- sending ------------------------------------------------------------- */

static void watch(Connection *connection, int operation)
{
    struct epoll_event event = {.events = EPOLLIN | (connection->waits_to_write ? EPOLLOUT : 0),
                                .data.ptr = connection};
    if (epoll_ctl(epoll, operation, connection->fd, &event) < 0)
        fail("epoll_ctl: %s", strerror(errno));
}

static void flush(Connection *connection)
{
    bool waits = false;
    while (connection->out_sent < connection->out_length) {
        ssize_t size = send(connection->fd, connection->out + connection->out_sent,
                            connection->out_length - connection->out_sent, MSG_NOSIGNAL);
        if (size < 0 && errno == EAGAIN) {
            waits = true;
            break;
        }
        if (size < 0)
            fail("cannot send: %s", strerror(errno));
        connection->out_sent += size;
    }
    if (!waits)
        connection->out_sent = connection->out_length = 0;
    if (waits != connection->waits_to_write) {
        connection->waits_to_write = waits;
        watch(connection, EPOLL_CTL_MOD);
    }
}

static char *room(Connection *connection, size_t bytes)
{
    if (connection->out_length + bytes > connection->out_size) {
        connection->out_size = 2 * (connection->out_length + bytes);
        connection->out = grow(connection->out, connection->out_size);
    }
    return connection->out + connection->out_length;
}

static size_t write_number(char *to, int64_t number)
{
    char digits[20];
    size_t length = 0;
    do
        digits[length++] = '0' + number % 10;
    while (number /= 10);
    for (size_t i = 0; i < length; i++)
        to[i] = digits[length - 1 - i];
    return length;
}

static size_t write_request(char *to, int64_t number)
{
    memcpy(to, options.before, options.before_length);
    size_t length = options.before_length;
    length += write_number(to + length, number);
    memcpy(to + length, options.after, options.after_length);
    return length + options.after_length;
}

static void owe(Connection *connection, int64_t number, int64_t at)
{
    if (connection->owed_count == connection->owed_size) {
        size_t size = connection->owed_size ? 2 * connection->owed_size : 16;
        Owed *ring = grow(NULL, size * sizeof *ring);
        for (size_t i = 0; i < connection->owed_count; i++)
            ring[i] = connection->owed[(connection->owed_first + i) % connection->owed_size];
        free(connection->owed);
        connection->owed = ring;
        connection->owed_size = size;
        connection->owed_first = 0;
    }
    connection->owed[(connection->owed_first + connection->owed_count++) % connection->owed_size] =
        (Owed){number, at};
}

/* One more request; `flush` sends it. */
static void request(Connection *connection, int64_t at)
{
    char *to = room(connection, REQUEST_SIZE + 32);
    int64_t number = sent++;
    if (options.mode == WEBSOCKET) {
        char text[REQUEST_SIZE + 32];
        connection->out_length += write_frame(to, TEXT, text, write_request(text, number));
    } else {
        size_t length = write_request(to, number);
        to[length] = '\n';
        connection->out_length += length + 1;
    }
    owe(connection, number, at);
}

/* --- connections --------------------------------------------------------- */

static void open_connection(Connection *connection)
{
    static int sources;
    struct sockaddr_in from = {.sin_family = AF_INET,
                               .sin_addr.s_addr = htonl(INADDR_LOOPBACK + sources++ % SOURCES)};
    struct sockaddr_in to = {.sin_family = AF_INET, .sin_port = htons(options.port),
                             .sin_addr.s_addr = htonl(INADDR_LOOPBACK)};
    int yes = 1;
    int fd = socket(AF_INET, SOCK_STREAM | SOCK_NONBLOCK | SOCK_CLOEXEC, 0);
    if (fd < 0)
        fail("socket: %s", strerror(errno));
    setsockopt(fd, IPPROTO_TCP, TCP_NODELAY, &yes, sizeof yes);
    setsockopt(fd, IPPROTO_IP, IP_BIND_ADDRESS_NO_PORT, &yes, sizeof yes);
    if (bind(fd, (struct sockaddr *)&from, sizeof from) < 0)
        fail("bind: %s", strerror(errno));
    if (connect(fd, (struct sockaddr *)&to, sizeof to) < 0 && errno != EINPROGRESS)
        fail("connect: %s", strerror(errno));
    connection->fd = fd;
    connection->waits_to_write = false;
    connection->in_length = connection->out_length = connection->out_sent = 0;
    watch(connection, EPOLL_CTL_ADD);
}

static void start(Connection *connection)
{
    int64_t at = now();
    open_connection(connection);
    if (options.mode == WEBSOCKET) {
        char *to = room(connection, 512);
        connection->out_length += sprintf(to, HANDSHAKE, options.port);
    } else if (options.mode != RATE) {
        for (int i = 0; i < options.in_flight; i++)
            request(connection, at);
    }
    flush(connection);
}

/* --- receiving ----------------------------------------------------------- */

static void check(Connection *connection, const char *text, size_t length, int64_t at)
{
    char due[32];
    if (!connection->owed_count)
        fail("a reply that nobody has asked for: %.*s", (int)length, text);
    Owed owed = connection->owed[connection->owed_first];
    connection->owed_first = (connection->owed_first + 1) % connection->owed_size;
    connection->owed_count--;
    size_t due_length = options.mode == WEBSOCKET ? (size_t)sprintf(due, COMPLETE) : write_number(due, owed.number);
    if (length != due_length || memcmp(text, due, length))
        fail("got %.*s where %.*s was due", (int)(length < 200 ? length : 200), text, (int)due_length, due);
    count_reply(at, owed.at);
}

/* How many bytes of whole lines were taken, and in `replies` how many those were. */
static size_t take_lines(Connection *connection, int64_t at, int *replies)
{
    size_t taken = 0;
    char *end;
    while ((end = memchr(connection->in + taken, '\n', connection->in_length - taken))) {
        size_t length = end - (connection->in + taken);
        check(connection, connection->in + taken, length, at);
        taken += length + 1;
        ++*replies;
    }
    return taken;
}

static size_t take_handshake(Connection *connection)
{
    char *end = memmem(connection->in, connection->in_length, "\r\n\r\n", 4);
    if (!end)
        return 0;
    *end = 0;
    if (strncmp(connection->in, "HTTP/1.1 101", 12) || !strstr(connection->in, ACCEPT))
        fail("no websocket: %s", connection->in);
    connection->is_open = true;
    int64_t at = now();
    for (int i = 0; i < options.in_flight; i++)
        request(connection, at);
    return end + 4 - connection->in;
}

static size_t take_frames(Connection *connection, int64_t at, int *replies)
{
    size_t taken = 0;
    for (;;) {
        unsigned char *frame = (unsigned char *)connection->in + taken;
        size_t there = connection->in_length - taken;
        if (there < 2)
            return taken;
        size_t length = frame[1];
        if (length >= 126)
            fail("a frame that is longer than any reply may be: %.*s", (int)(there < 200 ? there - 2 : 200),
                 (char *)frame + 2);
        if (there < 2 + length)
            return taken;
        char *payload = (char *)frame + 2;
        if (frame[0] == TEXT) {
            check(connection, payload, length, at);
            ++*replies;
        } else if (frame[0] == PING) {
            connection->out_length += write_frame(room(connection, 256), PONG, payload, length);
        } else {
            fail("a frame of an unexpected kind: %d", frame[0]);
        }
        taken += 2 + length;
    }
}

static void receive(Connection *connection)
{
    ssize_t size = recv(connection->fd, connection->in + connection->in_length, IN_SIZE - connection->in_length, 0);
    if (size < 0 && errno == EAGAIN)
        return;
    if (size < 0)
        fail("cannot receive: %s", strerror(errno));
    if (!size)
        fail("the server has closed a connection");
    connection->in_length += size;
    int64_t at = now();
    int replies = 0;
    size_t taken;
    if (options.mode != WEBSOCKET)
        taken = take_lines(connection, at, &replies);
    else if (!connection->is_open)
        taken = take_handshake(connection);
    else
        taken = take_frames(connection, at, &replies);
    connection->in_length -= taken;
    if (connection->in_length == IN_SIZE)
        fail("a reply that is longer than any may be");
    memmove(connection->in, connection->in + taken, connection->in_length);
    if (options.mode == EACH && replies) {
        close(connection->fd);
        if (at < ends_at)
            start(connection);
        return;
    }
    if (options.mode != RATE && at < ends_at)
        for (int i = 0; i < replies; i++)
            request(connection, at);
    if (connection->out_length)
        flush(connection);
}

/* --- the loop ------------------------------------------------------------ */

static int64_t due(int64_t began, int64_t nth)
{
    return began + (int64_t)(nth * (SECOND / options.rate));
}

/* Send what is due in open loop, and set the timer for the next; false when the time is over. */
static bool send_due(Connection *connections, int timer, int64_t began)
{
    int64_t at = now(), next;
    while ((next = due(began, sent)) <= at) {
        if (next >= ends_at)
            return false;
        if (next >= counts_from)
            add_time(&late, at - next);
        Connection *connection = &connections[sent % options.connections];
        request(connection, next);
        flush(connection);
    }
    struct itimerspec setting = {.it_value = {next / SECOND, next % SECOND}};
    timerfd_settime(timer, TFD_TIMER_ABSTIME, &setting, NULL);
    return true;
}

static void run(void)
{
    Connection *connections = calloc(options.connections, sizeof *connections);
    struct epoll_event events[EVENTS];
    epoll = epoll_create1(EPOLL_CLOEXEC);
    if (!connections || epoll < 0)
        fail("cannot start");
    int64_t began = now();
    counts_from = began + (int64_t)(options.warm_up * SECOND);
    ends_at = counts_from + (int64_t)(options.seconds * SECOND);
    for (int i = 0; i < options.connections; i++)
        start(&connections[i]);
    int timer = -1;
    bool goes_on = options.mode == RATE;
    if (goes_on) {
        prctl(PR_SET_TIMERSLACK, 1);
        timer = timerfd_create(CLOCK_MONOTONIC, TFD_NONBLOCK | TFD_CLOEXEC);
        struct epoll_event event = {.events = EPOLLIN, .data.ptr = NULL};
        if (timer < 0 || epoll_ctl(epoll, EPOLL_CTL_ADD, timer, &event) < 0)
            fail("timerfd: %s", strerror(errno));
        goes_on = send_due(connections, timer, began);
    }
    while (goes_on || sent > received || (options.mode == WEBSOCKET && !sent)) {
        int count = epoll_wait(epoll, events, EVENTS, PATIENCE_MS);
        if (count < 0 && errno != EINTR)
            fail("epoll_wait: %s", strerror(errno));
        if (!count)
            fail("no reply for %d s; %lld are missing", PATIENCE_MS / 1000, (long long)(sent - received));
        for (int i = 0; i < count; i++) {
            Connection *connection = events[i].data.ptr;
            if (!connection) {
                uint64_t expired;
                (void)!read(timer, &expired, sizeof expired);
                goes_on = send_due(connections, timer, began);
                continue;
            }
            if (events[i].events & EPOLLOUT)
                flush(connection);
            if (events[i].events & ~EPOLLOUT)
                receive(connection);
        }
    }
    double lasted = (now() - began) / 1e9;
    struct rusage used;
    getrusage(RUSAGE_SELF, &used);
    double cpu = used.ru_utime.tv_sec + used.ru_stime.tv_sec + (used.ru_utime.tv_usec + used.ru_stime.tv_usec) / 1e6;
    printf("{");
    print_figures(&latencies, options.seconds);
    sort_times(&late);
    printf(", \"sent\": %lld, \"late_p99_us\": %.1f, \"generator_cpu\": %.3f}\n", (long long)sent,
           percentile_us(&late, 0.99), cpu / lasted);
}

/* --- options ------------------------------------------------------------- */

static void set_request(const char *text)
{
    const char *number = strchr(text, '#');
    if (!number || strlen(text) > REQUEST_SIZE)
        fail("--request needs a # where its number is, and at most %d bytes", REQUEST_SIZE);
    options.before = text;
    options.before_length = number - text;
    options.after = number + 1;
    options.after_length = strlen(number + 1);
}

static void set(const char *name, const char *value)
{
    double number = atof(value);
    if (!strcmp(name, "--request"))
        set_request(value);
    else if (!strcmp(name, "--seconds"))
        options.seconds = number;
    else if (!strcmp(name, "--warm-up"))
        options.warm_up = number;
    else if (number <= 0)
        fail("%s needs a number above 0", name);
    else if (!strcmp(name, "--port"))
        options.port = (int)number;
    else if (!strcmp(name, "--connections"))
        options.connections = (int)number;
    else if (!strcmp(name, "--in-flight"))
        options.in_flight = (int)number;
    else if (!strcmp(name, "--rate"))
        options.rate = number;
    else
        fail("no such option: %s", name);
}

int main(int count, char **arguments)
{
    static const char *const modes[] = {[PIPELINED] = "pipelined", [EACH] = "each", [WEBSOCKET] = "websocket",
                                        [RATE] = "rate"};
    if (count < 2 || count % 2)
        fail("usage: load pipelined|each|websocket|rate [--option value]…");
    set_request("{\"function\":\"echo\",\"args\":[#]}");
    for (int i = 2; i < count; i += 2)
        set(arguments[i], arguments[i + 1]);
    for (size_t i = 0; i < sizeof modes / sizeof *modes; i++)
        if (!strcmp(arguments[1], modes[i])) {
            options.mode = i;
            if (options.mode == EACH)
                options.in_flight = 1;
            run();
            return 0;
        }
    fail("no such mode: %s", arguments[1]);
}
