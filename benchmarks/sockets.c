/* The hot loops of the bench, in C so that the measuring costs less than what is measured:
 * reading frames of many WebSocket connections, and the baseline that only sends.
 *
 * Compiled on demand by benchmarks/native.py; benchmarks/reader.py has the same reader in
 * Python for machines without a compiler.
 */
#define _GNU_SOURCE
#include <errno.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/socket.h>
#include <time.h>
#include <unistd.h>

#define BUCKETS 20001 /* milliseconds; the last one holds all that took longer */
#define CLOSE_CODES 5000
#define READ_BYTES (256 * 1024)
#define EVENTS 512
#define ROWS_EVERY 8 /* every how many updates the times of all its prices are looked at */
#define SAMPLE_EVERY 8
#define SAMPLES 32768

struct sample { /* one update: its place in the stream, and its way through this machine's kernel */
    int64_t epoch, seq, arrived_us, read_us;
};

struct stats {
    uint64_t updates, snapshots, others, bytes, reads, merged, ready, closed, broken;
    uint64_t newest[BUCKETS]; /* newest tick in the frame -> socket */
    uint64_t price[BUCKETS];  /* each price that ticked since the frame before -> socket */
    uint64_t flush[BUCKETS];  /* flush that the frame shows -> socket */
    uint64_t shown[BUCKETS];  /* newest tick of the frame before -> socket: how old the screen had become */
    uint64_t lag[BUCKETS];    /* arrival at the socket -> read by this client */
    uint64_t codes[CLOSE_CODES]; /* close codes; 0: cut without one */
    uint64_t sampled;            /* how many samples were taken; the newest SAMPLES are kept */
    struct sample samples[SAMPLES];
};

struct connection {
    int fd; /* -1 once it is gone */
    size_t rest_size;
    uint8_t *rest; /* the beginning of a frame whose end has not come */
    int64_t shown_ms, flushed_ms; /* of the last frame: its newest tick, its flush */
    uint8_t has; /* which snapshots came: 1 P&L, 2 positions */
};

struct reader {
    int epoll;
    uint32_t count, capacity;
    struct connection *connections;
    uint32_t *updates; /* by connection */
    struct stats *stats;
    uint8_t *buffer;
};

static int64_t clock_ns(clockid_t clock)
{
    struct timespec t;
    clock_gettime(clock, &t);
    return (int64_t)t.tv_sec * 1000000000 + t.tv_nsec;
}

static void count_ms(uint64_t *histogram, int64_t ms)
{
    histogram[ms < 0 ? 0 : ms >= BUCKETS ? BUCKETS - 1 : ms]++;
}

static int64_t number_after(const uint8_t **at, const uint8_t *end, const char *key)
{
    const uint8_t *found = memmem(*at, end - *at, key, strlen(key));
    if (!found)
        return -1;
    int64_t number = 0;
    for (found += strlen(key); found < end && *found >= '0' && *found <= '9'; found++)
        number = number * 10 + (*found - '0');
    *at = found;
    return number;
}

static int starts_with(const uint8_t *text, const uint8_t *end, const char *prefix)
{
    size_t size = strlen(prefix);
    return (size_t)(end - text) >= size && memcmp(text, prefix, size) == 0;
}

/* A row also comes when something beside its price changed, with the time of the price: that is no tick. */
static void take_prices(struct stats *stats, const struct connection *connection, const uint8_t *at, const uint8_t *end,
                        int64_t arrived_ms)
{
    int64_t event_ms;
    while ((event_ms = number_after(&at, end, "\"event_ms\":")) >= 0)
        if (event_ms > connection->flushed_ms)
            count_ms(stats->price, arrived_ms - event_ms);
}

static void take_sample(struct stats *stats, int64_t epoch, int64_t seq, int64_t arrived_ns)
{
    struct sample *sample = &stats->samples[stats->sampled++ % SAMPLES];
    *sample = (struct sample){epoch, seq, arrived_ns / 1000, clock_ns(CLOCK_REALTIME) / 1000};
}

static void take_update(struct reader *r, uint32_t number, const uint8_t *at, const uint8_t *end, int64_t arrived_ns)
{
    struct stats *stats = r->stats;
    struct connection *connection = &r->connections[number];
    int64_t arrived_ms = arrived_ns / 1000000;
    int64_t epoch = number_after(&at, end, "\"epoch\":");
    int64_t seq = number_after(&at, end, "\"seq\":");
    int64_t flushed_ms = number_after(&at, end, "\"as_of_ms\":");
    int64_t event_ms = number_after(&at, end, "\"event_ms\":");
    int64_t merged = number_after(&at, end, "\"merged\":");
    if (epoch < 0 || seq < 0 || flushed_ms < 0 || event_ms < 0 || merged < 0) {
        stats->broken++;
        return;
    }
    stats->updates++;
    stats->merged += merged;
    r->updates[number]++;
    count_ms(stats->flush, arrived_ms - flushed_ms);
    count_ms(stats->newest, arrived_ms - event_ms);
    if (connection->shown_ms)
        count_ms(stats->shown, arrived_ms - connection->shown_ms);
    if (stats->updates % SAMPLE_EVERY == 0)
        take_sample(stats, epoch, seq, arrived_ns);
    if (stats->updates % ROWS_EVERY == 0)
        take_prices(stats, connection, at, end, arrived_ms);
    connection->shown_ms = event_ms;
    connection->flushed_ms = flushed_ms;
}

static void take_text(struct reader *r, uint32_t number, const uint8_t *text, const uint8_t *end, int64_t arrived_ns)
{
    struct connection *connection = &r->connections[number];
    uint8_t had = connection->has;
    if (starts_with(text, end, "{\"type\":\"update\"")) {
        take_update(r, number, text, end, arrived_ns);
        return;
    }
    if (!starts_with(text, end, "{\"type\":\"snapshot\"")) {
        r->stats->others++;
        return;
    }
    r->stats->snapshots++;
    if (starts_with(text, end, "{\"type\":\"snapshot\",\"channel\":\"pnl\""))
        connection->has |= 1;
    if (starts_with(text, end, "{\"type\":\"snapshot\",\"channel\":\"positions\""))
        connection->has |= 2;
    r->stats->ready += had != 3 && connection->has == 3;
}

static void drop(struct reader *r, uint32_t number, uint32_t code)
{
    struct connection *connection = &r->connections[number];
    if (connection->fd < 0)
        return;
    close(connection->fd);
    free(connection->rest);
    connection->fd = -1;
    connection->rest = NULL;
    connection->rest_size = 0;
    r->stats->closed++;
    r->stats->codes[code < CLOSE_CODES ? code : 0]++;
}

/* Answer a ping with the same payload. The mask is zero, so the payload goes as it is. */
static void pong(int fd, const uint8_t *payload, size_t size)
{
    uint8_t frame[6 + 125] = {0x8a, 0x80 | (uint8_t)size};
    memcpy(frame + 6, payload, size);
    (void)!send(fd, frame, 6 + size, MSG_DONTWAIT | MSG_NOSIGNAL);
}

/* Take the whole frames off the front; returns how many bytes they were. */
static size_t take_frames(struct reader *r, uint32_t number, const uint8_t *data, size_t size, int64_t arrived_ns)
{
    size_t at = 0;
    while (size - at >= 2 && r->connections[number].fd >= 0) {
        size_t length = data[at + 1] & 0x7f, header = 2;
        if (length == 126) {
            header = 4;
            if (size - at < header)
                break;
            length = (size_t)data[at + 2] << 8 | data[at + 3];
        } else if (length == 127) {
            header = 10;
            if (size - at < header)
                break;
            length = 0;
            for (int i = 2; i < 10; i++)
                length = length << 8 | data[at + i];
        }
        if (size - at < header + length)
            break;
        const uint8_t *payload = data + at + header;
        switch (data[at] & 0x0f) {
        case 1:
            take_text(r, number, payload, payload + length, arrived_ns);
            break;
        case 8:
            drop(r, number, length >= 2 ? (uint32_t)payload[0] << 8 | payload[1] : 1005);
            break;
        case 9:
            if (length <= 125)
                pong(r->connections[number].fd, payload, length);
            break;
        default:
            r->stats->others++;
        }
        at += header + length;
    }
    return at;
}

static void take_bytes(struct reader *r, uint32_t number, const uint8_t *data, size_t size, int64_t arrived_ns)
{
    size_t taken = take_frames(r, number, data, size, arrived_ns);
    struct connection *connection = &r->connections[number];
    if (connection->fd < 0)
        return;
    size_t rest = size - taken;
    uint8_t *kept = rest ? malloc(rest) : NULL;
    if (rest)
        memcpy(kept, data + taken, rest);
    free(connection->rest);
    connection->rest = kept;
    connection->rest_size = rest;
}

static int64_t arrival_of(struct msghdr *message)
{
    for (struct cmsghdr *c = CMSG_FIRSTHDR(message); c; c = CMSG_NXTHDR(message, c))
        if (c->cmsg_level == SOL_SOCKET && c->cmsg_type == SCM_TIMESTAMPNS) {
            struct timespec t;
            memcpy(&t, CMSG_DATA(c), sizeof t);
            return (int64_t)t.tv_sec * 1000000000 + t.tv_nsec;
        }
    return 0;
}

static void read_one(struct reader *r, uint32_t number)
{
    struct connection *connection = &r->connections[number];
    if (connection->fd < 0)
        return;
    size_t had = connection->rest_size;
    if (had >= READ_BYTES) { /* no frame is that long */
        drop(r, number, 0);
        return;
    }
    if (had)
        memcpy(r->buffer, connection->rest, had);
    struct iovec part = {r->buffer + had, READ_BYTES - had};
    char control[128];
    struct msghdr message = {.msg_iov = &part, .msg_iovlen = 1, .msg_control = control, .msg_controllen = sizeof control};
    ssize_t got = recvmsg(connection->fd, &message, MSG_DONTWAIT);
    if (got <= 0) {
        if (got == 0 || (errno != EAGAIN && errno != EINTR))
            drop(r, number, 0);
        return;
    }
    int64_t now = clock_ns(CLOCK_REALTIME), arrived = arrival_of(&message);
    if (!arrived)
        arrived = now;
    r->stats->reads++;
    r->stats->bytes += got;
    count_ms(r->stats->lag, (now - arrived) / 1000000);
    take_bytes(r, number, r->buffer, had + got, arrived);
}

struct reader *reader_new(uint32_t capacity)
{
    struct reader *r = calloc(1, sizeof *r);
    r->epoll = epoll_create1(EPOLL_CLOEXEC);
    r->capacity = capacity;
    r->connections = calloc(capacity, sizeof *r->connections);
    r->updates = calloc(capacity, sizeof *r->updates);
    r->stats = calloc(1, sizeof *r->stats);
    r->buffer = malloc(READ_BYTES);
    return r;
}

/* Take over a connected, upgraded socket and what was read of it after the handshake. */
int reader_add(struct reader *r, int fd, const uint8_t *rest, size_t size)
{
    if (r->count == r->capacity)
        return -1;
    uint32_t number = r->count++;
    int on = 1;
    setsockopt(fd, SOL_SOCKET, SO_TIMESTAMPNS, &on, sizeof on);
    r->connections[number].fd = fd;
    struct epoll_event event = {.events = EPOLLIN, .data.u32 = number};
    if (epoll_ctl(r->epoll, EPOLL_CTL_ADD, fd, &event))
        return -1;
    take_bytes(r, number, rest, size, clock_ns(CLOCK_REALTIME));
    return (int)number;
}

/* Read whatever comes, for some time. */
void reader_pump(struct reader *r, int64_t for_ns)
{
    struct epoll_event events[EVENTS];
    int64_t until = clock_ns(CLOCK_MONOTONIC) + for_ns;
    do {
        int64_t left_ms = (until - clock_ns(CLOCK_MONOTONIC)) / 1000000;
        int ready = epoll_wait(r->epoll, events, EVENTS, left_ms > 0 ? (int)left_ms : 0);
        for (int i = 0; i < ready; i++)
            read_one(r, events[i].data.u32);
    } while (clock_ns(CLOCK_MONOTONIC) < until);
}

struct stats *reader_stats(struct reader *r)
{
    return r->stats;
}

const uint32_t *reader_updates(struct reader *r)
{
    return r->updates;
}

/* Forget the figures, but not which connections are ready or gone. */
void reader_reset(struct reader *r)
{
    uint64_t ready = r->stats->ready;
    memset(r->stats, 0, sizeof *r->stats);
    r->stats->ready = ready;
    memset(r->updates, 0, r->capacity * sizeof *r->updates);
}

/* The baseline: the same bytes to each of some sockets. Returns how many took all of it. */
int send_to_each(const int *fds, int count, const uint8_t *frame, size_t size)
{
    int whole = 0;
    for (int i = 0; i < count; i++)
        whole += send(fds[i], frame, size, MSG_DONTWAIT | MSG_NOSIGNAL) == (ssize_t)size;
    return whole;
}
