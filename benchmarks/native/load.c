/*
 * load: thousands of readers of Server-Sent Events in one thread, which check what they read.
 *
 *     load --port P [--tls | --h2] [--streams N] [--per-connection M] [--target /path]
 *          [--header 'name: value']... [--parallel K] [--step S] [--deaf]
 *
 * All streams go to 127.0.0.1. With --h2, M streams share a connection (HTTP/2 over TLS).
 *
 * With --deaf (not with --h2), a stream is not read any more once it is open, and as little as can be
 * is buffered below it.
 *
 * Each event is to have "callId":<number> and, behind it, "globalCallId":"<number>" in its data.
 * The first is a sequence number: 1 for the first event that a stream sees, and one more for each
 * that follows. The second is when the event was made, in nanoseconds of CLOCK_MONOTONIC.
 *
 * Commands on standard input, one in a line:
 *     mark     forget all figures, the sequence goes on
 *     report   print the figures since the mark
 *     quit     end; so does the end of the input
 *
 * Lines on standard output, each a JSON object:
 *     {"event": "open", ...}      every stream has had its headers, with status 200
 *     {"event": "passed", ...}    every stream has had the event with this number, which is a
 *                                 multiple of S
 *     {"event": "lost", ...}      a stream has ended, or was refused
 *     {"event": "marked"}         the answer to `mark`
 *     {"event": "report", ...}    the answer to `report`
 *
 * Nothing is kept of an event: a small machine walks over the bytes as they come, so it does not
 * matter how they are cut, and a stream costs a few words of memory.
 */

#include <arpa/inet.h>
#include <errno.h>
#include <fcntl.h>
#include <getopt.h>
#include <inttypes.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <nghttp2/nghttp2.h>
#include <openssl/err.h>
#include <openssl/ssl.h>
#include <signal.h>
#include <stdarg.h>
#include <stdbool.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/resource.h>
#include <sys/socket.h>
#include <time.h>
#include <unistd.h>

enum {
    READ_BYTES = 64 * 1024,
    HEAD_BYTES = 8 * 1024,
    MAX_HEADERS = 32,
    READY_AT_ONCE = 1024,
    COMMAND_BYTES = 256,
    /* A stream may be this many steps ahead of the slowest one. */
    STEPS_AHEAD = 4096,
    LOST_TOLD = 5,
    /* What the kernel takes for a stream that is not read. The segment bounds what the other end
     * buffers: on the loopback it has 64 KiB otherwise. */
    DEAF_BYTES = 4096,
    DEAF_SEGMENT = 1400,
};

/* As wide as a browser's, so that the windows of HTTP/2 are not what is measured. */
static const int32_t STREAM_WINDOW = 1 << 20, CONNECTION_WINDOW = 1 << 24;
static const uint64_t SECOND = 1000000000;

static void fail(const char *format, ...) {
    va_list arguments;
    va_start(arguments, format);
    fputs("load: ", stderr);
    vfprintf(stderr, format, arguments);
    fputc('\n', stderr);
    va_end(arguments);
    exit(2);
}

static void *allocate(size_t count, size_t size) {
    void *memory = calloc(count, size);
    if (memory == NULL) fail("out of memory");
    return memory;
}

static uint64_t monotonic(void) {
    struct timespec now;
    clock_gettime(CLOCK_MONOTONIC, &now);
    return (uint64_t)now.tv_sec * SECOND + (uint64_t)now.tv_nsec;
}

static double own_cpu_seconds(void) {
    struct rusage usage;
    getrusage(RUSAGE_SELF, &usage);
    return (double)(usage.ru_utime.tv_sec + usage.ru_stime.tv_sec) +
           (double)(usage.ru_utime.tv_usec + usage.ru_stime.tv_usec) / 1e6;
}

/* --- What was asked for ----------------------------------------------------------------------- */

static struct {
    uint16_t port;
    bool tls, h2, deaf;
    uint32_t streams, per_connection, parallel;
    uint64_t step;
    const char *target;
    const char *headers[MAX_HEADERS];
    size_t header_count;
} wanted = {.streams = 1, .per_connection = 1, .parallel = 64, .step = 10, .target = "/"};

/* --- Figures ---------------------------------------------------------------------------------- */

/* Latencies fall into buckets of nanoseconds: exact below 2^BITS, then 2^BITS buckets for each
 * doubling, so that a bucket is at most 1/64 wide of what it holds. */
enum { BITS = 6, BUCKETS = (64 - BITS + 1) << BITS };

static struct {
    uint64_t since;
    uint64_t messages, bytes, missing, backward, strange;
    uint64_t latency_sum, latency_least, latency_most;
    uint64_t latency[BUCKETS];
    double cpu_since;
} figures;

static uint32_t bucket_of(uint64_t value) {
    if (value < 1 << BITS) return (uint32_t)value;
    uint32_t doublings = 63 - BITS - (uint32_t)__builtin_clzll(value);
    return (doublings + 1) << BITS | (uint32_t)(value >> doublings & ((1 << BITS) - 1));
}

static double bucket_middle(uint32_t bucket) {
    if (bucket < 1 << BITS) return bucket;
    uint32_t doublings = (bucket >> BITS) - 1;
    uint64_t least = (uint64_t)(1 << BITS | (bucket & ((1 << BITS) - 1))) << doublings;
    return (double)least + (double)((uint64_t)1 << doublings) / 2;
}

static double latency_ms(double share) {
    uint64_t rank = (uint64_t)(share * (double)figures.messages), passed = 0;
    for (uint32_t bucket = 0; bucket < BUCKETS; bucket++) {
        passed += figures.latency[bucket];
        if (passed > rank) return bucket_middle(bucket) / 1e6;
    }
    return (double)figures.latency_most / 1e6;
}

static void mark(void) {
    memset(&figures, 0, sizeof figures);
    figures.latency_least = UINT64_MAX;
    figures.since = monotonic();
    figures.cpu_since = own_cpu_seconds();
}

/* --- Streams ---------------------------------------------------------------------------------- */

enum place { LINE_BEGIN, LINE_REST, SEEK_SEQUENCE, SEQUENCE, SEEK_STAMP, STAMP };

static const char DATA[] = "data:", SEQUENCE_KEY[] = "\"callId\":", STAMP_KEY[] = "\"globalCallId\":\"";

struct link;

struct stream {
    struct link *link;
    uint64_t next, sequence, number;
    /* Where the machine stands, and how much of the word it looks for it has seen. */
    uint8_t place, seen;
    bool open, over;
};

static struct stream *streams;
static uint32_t open_streams, lost_streams;
static uint64_t now;
static uint32_t passed_by[STEPS_AHEAD];

static void lose(struct stream *stream, const char *why) {
    if (stream->over) return;
    stream->over = true;
    lost_streams++;
    if (lost_streams <= LOST_TOLD)
        printf("{\"event\": \"lost\", \"stream\": %td, \"was_open\": %s, \"why\": \"%s\"}\n", stream - streams,
               stream->open ? "true" : "false", why);
    fflush(stdout);
}

static void opened(struct stream *stream) {
    if (stream->open) return;
    stream->open = true;
    if (++open_streams == wanted.streams) {
        printf("{\"event\": \"open\", \"streams\": %u, \"seconds\": %.3f}\n", open_streams,
               (double)(monotonic() - figures.since) / 1e9);
        fflush(stdout);
    }
}

static void arrived(struct stream *stream, uint64_t sequence, uint64_t stamp) {
    figures.messages++;
    /* A stamp of the future is shown as no latency at all, which nobody will believe. */
    uint64_t latency = now > stamp ? now - stamp : 0;
    figures.latency[bucket_of(latency)]++;
    figures.latency_sum += latency;
    if (latency < figures.latency_least) figures.latency_least = latency;
    if (latency > figures.latency_most) figures.latency_most = latency;
    if (sequence < stream->next) {
        figures.backward++;
        return;
    }
    figures.missing += sequence - stream->next;
    stream->next = sequence + 1;
    if (sequence % wanted.step == 0) {
        uint32_t *count = &passed_by[sequence / wanted.step % STEPS_AHEAD];
        if (++*count == wanted.streams) {
            *count = 0;
            printf("{\"event\": \"passed\", \"sequence\": %" PRIu64 "}\n", sequence);
            fflush(stdout);
        }
    }
}

/* Look for a word; true once its last byte has been seen. All words begin with a byte that comes
 * again at most at a place where a failed match could not have begun. */
static bool seek(struct stream *stream, const char *word, size_t length, char byte) {
    if (byte != word[stream->seen]) stream->seen = 0;
    if (byte == word[stream->seen]) stream->seen++;
    if (stream->seen < length) return false;
    stream->seen = 0;
    stream->number = 0;
    return true;
}

static void next_place(struct stream *stream, enum place place) {
    stream->place = (uint8_t)place;
    stream->seen = 0;
}

static void walk(struct stream *stream, const uint8_t *bytes, size_t count) {
    const uint8_t *at = bytes, *end = bytes + count;
    while (at < end) {
        char byte = (char)*at;
        switch ((enum place)stream->place) {
        case LINE_REST:
            at = memchr(at, '\n', (size_t)(end - at));
            if (at == NULL) return;
            next_place(stream, LINE_BEGIN);
            break;
        case LINE_BEGIN:
            if (byte == '\n') {
                stream->seen = 0;
            } else if (byte != DATA[stream->seen]) {
                next_place(stream, LINE_REST);
            } else if (++stream->seen == sizeof DATA - 1) {
                next_place(stream, SEEK_SEQUENCE);
            }
            break;
        case SEEK_SEQUENCE:
        case SEEK_STAMP:
            if (byte == '\n') {
                /* Data of another kind, such as the word that something was lost. */
                figures.strange++;
                next_place(stream, LINE_BEGIN);
            } else if (stream->place == SEEK_SEQUENCE) {
                if (seek(stream, SEQUENCE_KEY, sizeof SEQUENCE_KEY - 1, byte)) next_place(stream, SEQUENCE);
            } else if (seek(stream, STAMP_KEY, sizeof STAMP_KEY - 1, byte)) {
                next_place(stream, STAMP);
            }
            break;
        case SEQUENCE:
        case STAMP:
            if (byte >= '0' && byte <= '9') {
                stream->number = stream->number * 10 + (uint64_t)(byte - '0');
            } else if (stream->place == SEQUENCE) {
                stream->sequence = stream->number;
                next_place(stream, SEEK_STAMP);
            } else {
                arrived(stream, stream->sequence, stream->number);
                /* The byte behind the number is a quote, so the line goes on. */
                next_place(stream, LINE_REST);
            }
            break;
        }
        at++;
    }
}

/* --- Connections ------------------------------------------------------------------------------ */

enum phase { CONNECTING, HANDSHAKING, HEAD, BODY, FRAMES, CLOSED };
enum chunk { CHUNK_SIZE, CHUNK_SIZE_REST, CHUNK_DATA, CHUNK_END, UNTIL_CLOSE };

struct link {
    int fd;
    uint8_t phase, chunk;
    bool wants_write;
    struct stream *streams;
    uint32_t stream_count, ready_streams;
    SSL *ssl;
    nghttp2_session *session;
    uint64_t chunk_left;
    /* The beginning of an HTTP/1.1 answer, until it is complete. */
    char *head;
    size_t head_length;
    /* What the socket did not take. */
    uint8_t *unsent;
    size_t unsent_length;
};

static int poller;
static struct link *links;
static uint32_t link_count, begun_links, opening_links;
static SSL_CTX *tls;
static nghttp2_session_callbacks *callbacks;
static char *request;
static size_t request_length;

static void watch(struct link *link, bool for_writing) {
    if (link->wants_write == for_writing) return;
    link->wants_write = for_writing;
    struct epoll_event event = {.events = EPOLLIN | (for_writing ? EPOLLOUT : 0), .data.ptr = link};
    epoll_ctl(poller, EPOLL_CTL_MOD, link->fd, &event);
}

static void settled(struct link *link) {
    if (link->ready_streams++ + 1 == link->stream_count) opening_links--;
}

static void drop(struct link *link, const char *why) {
    if (link->phase == CLOSED) return;
    link->phase = CLOSED;
    if (link->ready_streams < link->stream_count) opening_links--;
    link->ready_streams = link->stream_count;
    for (uint32_t index = 0; index < link->stream_count; index++) lose(&link->streams[index], why);
    close(link->fd);
}

/* Bytes read, 0 when there are none yet, -1 when the connection has ended. */
static ssize_t receive(struct link *link, uint8_t *buffer, size_t size) {
    if (link->ssl == NULL) {
        ssize_t count = recv(link->fd, buffer, size, 0);
        if (count > 0) return count;
        return count < 0 && (errno == EAGAIN || errno == EINTR) ? 0 : -1;
    }
    int count = SSL_read(link->ssl, buffer, (int)size);
    if (count > 0) return count;
    int error = SSL_get_error(link->ssl, count);
    ERR_clear_error();
    return error == SSL_ERROR_WANT_READ || error == SSL_ERROR_WANT_WRITE ? 0 : -1;
}

/* Bytes written, -1 when the connection has ended. */
static ssize_t transmit(struct link *link, const uint8_t *data, size_t size) {
    if (link->ssl == NULL) {
        ssize_t count = send(link->fd, data, size, MSG_NOSIGNAL);
        if (count >= 0) return count;
        return errno == EAGAIN || errno == EINTR ? 0 : -1;
    }
    int count = SSL_write(link->ssl, data, (int)size);
    if (count > 0) return count;
    int error = SSL_get_error(link->ssl, count);
    ERR_clear_error();
    return error == SSL_ERROR_WANT_READ || error == SSL_ERROR_WANT_WRITE ? 0 : -1;
}

static void flush_link(struct link *link) {
    size_t done = 0;
    while (done < link->unsent_length) {
        ssize_t count = transmit(link, link->unsent + done, link->unsent_length - done);
        if (count < 0) {
            drop(link, "could not be written to");
            return;
        }
        if (count == 0) break;
        done += (size_t)count;
    }
    link->unsent_length -= done;
    memmove(link->unsent, link->unsent + done, link->unsent_length);
    if (link->unsent_length == 0) {
        free(link->unsent);
        link->unsent = NULL;
    }
    watch(link, link->unsent_length > 0);
}

static void queue(struct link *link, const uint8_t *data, size_t size) {
    link->unsent = realloc(link->unsent, link->unsent_length + size);
    if (link->unsent == NULL) fail("out of memory");
    memcpy(link->unsent + link->unsent_length, data, size);
    link->unsent_length += size;
}

/* --- HTTP/1.1 --------------------------------------------------------------------------------- */

static void read_chunks(struct link *link, const uint8_t *at, const uint8_t *end) {
    while (at < end && link->phase != CLOSED) {
        switch ((enum chunk)link->chunk) {
        case CHUNK_SIZE: {
            char byte = (char)*at++, lower = (char)(byte | 0x20);
            if (byte >= '0' && byte <= '9') link->chunk_left = link->chunk_left << 4 | (uint64_t)(byte - '0');
            else if (lower >= 'a' && lower <= 'f') link->chunk_left = link->chunk_left << 4 | (uint64_t)(lower - 'a' + 10);
            else link->chunk = CHUNK_SIZE_REST, at--;
            break;
        }
        case CHUNK_SIZE_REST:
            if (*at++ == '\n') {
                link->chunk = CHUNK_DATA;
                if (link->chunk_left == 0) drop(link, "the answer ended");
            }
            break;
        case CHUNK_DATA: {
            size_t count = (size_t)(end - at);
            if (count > link->chunk_left) count = (size_t)link->chunk_left;
            walk(link->streams, at, count);
            at += count;
            link->chunk_left -= count;
            if (link->chunk_left == 0) link->chunk = CHUNK_END;
            break;
        }
        case CHUNK_END:
            if (*at++ == '\n') link->chunk = CHUNK_SIZE;
            break;
        case UNTIL_CLOSE:
            walk(link->streams, at, (size_t)(end - at));
            return;
        }
    }
}

static void read_head(struct link *link, const uint8_t *data, size_t size) {
    if (link->head == NULL) link->head = allocate(1, HEAD_BYTES);
    size_t before = link->head_length, taken = HEAD_BYTES - 1 - before;
    if (taken > size) taken = size;
    memcpy(link->head + before, data, taken);
    link->head_length += taken;
    link->head[link->head_length] = 0;
    char *end = strstr(link->head, "\r\n\r\n");
    if (end == NULL) {
        if (link->head_length == HEAD_BYTES - 1) drop(link, "too long a header");
        return;
    }
    *end = 0;
    size_t head_size = (size_t)(end - link->head) + 4;
    char status[16] = "status ???";
    if (end - link->head > 12) memcpy(status + 7, link->head + 9, 3);
    link->chunk = strcasestr(link->head, "\r\ntransfer-encoding: chunked") ? CHUNK_SIZE : UNTIL_CLOSE;
    if (strcmp(status, "status 200") == 0) {
        link->phase = BODY;
        opened(link->streams);
        settled(link);
        if (wanted.deaf) epoll_ctl(poller, EPOLL_CTL_DEL, link->fd, NULL);
        else read_chunks(link, data + (head_size - before), data + size);
    } else {
        drop(link, status);
    }
    free(link->head);
    link->head = NULL;
}

/* --- HTTP/2 ----------------------------------------------------------------------------------- */

static int on_data(nghttp2_session *session, uint8_t flags, int32_t id, const uint8_t *data, size_t size, void *user) {
    (void)flags, (void)user;
    struct stream *stream = nghttp2_session_get_stream_user_data(session, id);
    if (stream != NULL) walk(stream, data, size);
    return 0;
}

static int on_header(nghttp2_session *session, const nghttp2_frame *frame, const uint8_t *name, size_t name_size,
                     const uint8_t *value, size_t value_size, uint8_t flags, void *user) {
    (void)flags;
    if (name_size != 7 || memcmp(name, ":status", 7) != 0) return 0;
    struct stream *stream = nghttp2_session_get_stream_user_data(session, frame->hd.stream_id);
    if (stream == NULL || stream->open || stream->over) return 0;
    settled(user);
    if (value_size == 3 && memcmp(value, "200", 3) == 0) {
        opened(stream);
    } else {
        char status[16];
        snprintf(status, sizeof status, "status %.3s", (const char *)value);
        lose(stream, status);
    }
    return 0;
}

static int on_stream_close(nghttp2_session *session, int32_t id, uint32_t code, void *user) {
    (void)user;
    struct stream *stream = nghttp2_session_get_stream_user_data(session, id);
    char why[48];
    snprintf(why, sizeof why, "the stream ended, code %u", code);
    if (stream != NULL) lose(stream, why);
    return 0;
}

static void speak_frames(struct link *link) {
    const uint8_t *data;
    ssize_t size;
    while ((size = nghttp2_session_mem_send(link->session, &data)) > 0) queue(link, data, (size_t)size);
    if (size < 0) drop(link, "HTTP/2 went wrong");
    else if (link->unsent_length > 0) flush_link(link);
}

static void begin_frames(struct link *link) {
    static nghttp2_nv fields[MAX_HEADERS + 5];
    static size_t field_count;
    if (field_count == 0) {
        static char authority[32];
        snprintf(authority, sizeof authority, "localhost:%u", wanted.port);
        const char *own[][2] = {{":method", "GET"}, {":scheme", "https"}, {":authority", authority},
                                {":path", wanted.target}, {"accept", "text/event-stream"}};
        for (size_t index = 0; index < sizeof own / sizeof *own; index++)
            fields[field_count++] = (nghttp2_nv){(uint8_t *)own[index][0], (uint8_t *)own[index][1],
                                                 strlen(own[index][0]), strlen(own[index][1]), NGHTTP2_NV_FLAG_NONE};
        for (size_t index = 0; index < wanted.header_count; index++) {
            const char *colon = strstr(wanted.headers[index], ": ");
            fields[field_count++] =
                (nghttp2_nv){(uint8_t *)wanted.headers[index], (uint8_t *)colon + 2,
                             (size_t)(colon - wanted.headers[index]), strlen(colon + 2), NGHTTP2_NV_FLAG_NONE};
        }
    }
    link->phase = FRAMES;
    if (nghttp2_session_client_new(&link->session, callbacks, link) != 0) fail("out of memory");
    nghttp2_settings_entry settings[] = {{NGHTTP2_SETTINGS_ENABLE_PUSH, 0},
                                         {NGHTTP2_SETTINGS_INITIAL_WINDOW_SIZE, (uint32_t)STREAM_WINDOW}};
    nghttp2_submit_settings(link->session, NGHTTP2_FLAG_NONE, settings, 2);
    nghttp2_session_set_local_window_size(link->session, NGHTTP2_FLAG_NONE, 0, CONNECTION_WINDOW);
    for (uint32_t index = 0; index < link->stream_count; index++)
        if (nghttp2_submit_request(link->session, NULL, fields, field_count, NULL, &link->streams[index]) < 0)
            fail("a request was not taken");
    speak_frames(link);
}

/* --- Life of a connection --------------------------------------------------------------------- */

static void connect_next(void) {
    struct link *link = &links[begun_links];
    uint32_t first = begun_links * wanted.per_connection;
    link->streams = &streams[first];
    link->stream_count = wanted.streams - first < wanted.per_connection ? wanted.streams - first : wanted.per_connection;
    for (uint32_t index = 0; index < link->stream_count; index++) {
        link->streams[index].link = link;
        link->streams[index].next = 1;
    }
    begun_links++;
    opening_links++;
    link->fd = socket(AF_INET, SOCK_STREAM | SOCK_NONBLOCK | SOCK_CLOEXEC, 0);
    if (link->fd < 0) fail("no socket: %s", strerror(errno));
    int yes = 1;
    setsockopt(link->fd, IPPROTO_TCP, TCP_NODELAY, &yes, sizeof yes);
    if (wanted.deaf) {
        int bytes = DEAF_BYTES, segment = DEAF_SEGMENT;
        setsockopt(link->fd, SOL_SOCKET, SO_RCVBUF, &bytes, sizeof bytes);
        setsockopt(link->fd, IPPROTO_TCP, TCP_MAXSEG, &segment, sizeof segment);
    }
    struct sockaddr_in address = {.sin_family = AF_INET, .sin_port = htons(wanted.port), .sin_addr.s_addr = htonl(INADDR_LOOPBACK)};
    link->wants_write = true;
    struct epoll_event event = {.events = EPOLLIN | EPOLLOUT, .data.ptr = link};
    if (connect(link->fd, (struct sockaddr *)&address, sizeof address) < 0 && errno != EINPROGRESS) {
        drop(link, strerror(errno));
        return;
    }
    if (epoll_ctl(poller, EPOLL_CTL_ADD, link->fd, &event) < 0) fail("epoll: %s", strerror(errno));
}

static void ask(struct link *link) {
    if (wanted.h2) {
        begin_frames(link);
        return;
    }
    link->phase = HEAD;
    queue(link, (const uint8_t *)request, request_length);
    flush_link(link);
}

static void shake_hands(struct link *link) {
    int result = SSL_do_handshake(link->ssl);
    if (result != 1) {
        int error = SSL_get_error(link->ssl, result);
        ERR_clear_error();
        if (error == SSL_ERROR_WANT_READ) watch(link, false);
        else if (error == SSL_ERROR_WANT_WRITE) watch(link, true);
        else drop(link, "TLS failed");
        return;
    }
    if (wanted.h2) {
        const unsigned char *protocol;
        unsigned int length;
        SSL_get0_alpn_selected(link->ssl, &protocol, &length);
        if (length != 2 || memcmp(protocol, "h2", 2) != 0) {
            drop(link, "the server does not speak HTTP/2");
            return;
        }
    }
    ask(link);
}

static void connected(struct link *link) {
    int error = 0;
    socklen_t size = sizeof error;
    getsockopt(link->fd, SOL_SOCKET, SO_ERROR, &error, &size);
    if (error != 0) {
        drop(link, strerror(error));
        return;
    }
    if (tls == NULL) {
        ask(link);
        return;
    }
    link->phase = HANDSHAKING;
    link->ssl = SSL_new(tls);
    if (link->ssl == NULL || SSL_set_fd(link->ssl, link->fd) != 1) fail("out of memory");
    SSL_set_tlsext_host_name(link->ssl, "localhost");
    SSL_set_connect_state(link->ssl);
    shake_hands(link);
}

static void readable(struct link *link) {
    static uint8_t buffer[READ_BYTES];
    do {
        ssize_t count = receive(link, buffer, sizeof buffer);
        if (count < 0) drop(link, "the server closed the connection");
        if (count <= 0) return;
        now = monotonic();
        figures.bytes += (uint64_t)count;
        if (link->phase == HEAD) {
            read_head(link, buffer, (size_t)count);
        } else if (link->phase == BODY) {
            read_chunks(link, buffer, buffer + count);
        } else {
            if (nghttp2_session_mem_recv(link->session, buffer, (size_t)count) < 0) drop(link, "HTTP/2 went wrong");
            else if (nghttp2_session_want_write(link->session)) speak_frames(link);
        }
    } while (link->phase != CLOSED && link->ssl != NULL && SSL_has_pending(link->ssl));
}

static void ready(struct link *link, uint32_t events) {
    if (link->phase == CLOSED) return;
    if (link->phase == CONNECTING) {
        if (events & (EPOLLOUT | EPOLLERR | EPOLLHUP)) connected(link);
        return;
    }
    if (link->phase == HANDSHAKING) {
        shake_hands(link);
        return;
    }
    if (events & EPOLLOUT) flush_link(link);
    if (link->phase != CLOSED && events & (EPOLLIN | EPOLLERR | EPOLLHUP)) readable(link);
}

/* --- Commands --------------------------------------------------------------------------------- */

static void report(void) {
    uint64_t slowest = UINT64_MAX, fastest = 0;
    for (uint32_t index = 0; index < wanted.streams; index++) {
        uint64_t last = streams[index].next == 0 ? 0 : streams[index].next - 1;
        if (last < slowest) slowest = last;
        if (last > fastest) fastest = last;
    }
    double mean = figures.messages ? (double)figures.latency_sum / (double)figures.messages / 1e6 : 0;
    double least = figures.messages ? (double)figures.latency_least / 1e6 : 0;
    printf("{\"event\": \"report\", \"streams\": %u, \"open\": %u, \"lost\": %u, \"seconds\": %.6f, "
           "\"messages\": %" PRIu64 ", \"bytes\": %" PRIu64 ", \"missing\": %" PRIu64 ", \"backward\": %" PRIu64
           ", \"strange\": %" PRIu64 ", \"slowest\": %" PRIu64 ", \"fastest\": %" PRIu64 ", \"cpu_seconds\": %.6f, ",
           wanted.streams, open_streams, lost_streams, (double)(monotonic() - figures.since) / 1e9,
           figures.messages, figures.bytes, figures.missing,
           figures.backward, figures.strange, slowest, fastest, own_cpu_seconds() - figures.cpu_since);
    printf("\"latency_ms\": {\"least\": %.4f, \"mean\": %.4f, \"p50\": %.4f, \"p90\": %.4f, \"p99\": %.4f, \"p99.9\": %.4f, "
           "\"most\": %.4f}}\n",
           least, mean, latency_ms(0.5), latency_ms(0.9), latency_ms(0.99), latency_ms(0.999),
           (double)figures.latency_most / 1e6);
    fflush(stdout);
}

/* False when it is time to end. */
static bool read_commands(void) {
    static char line[COMMAND_BYTES];
    static size_t length;
    ssize_t count = read(STDIN_FILENO, line + length, sizeof line - 1 - length);
    if (count < 0 && (errno == EAGAIN || errno == EINTR)) return true;
    if (count <= 0) return false;
    length += (size_t)count;
    line[length] = 0;
    char *begin = line, *end;
    while ((end = strchr(begin, '\n')) != NULL) {
        *end = 0;
        if (strcmp(begin, "mark") == 0) {
            mark();
            puts("{\"event\": \"marked\"}");
            fflush(stdout);
        } else if (strcmp(begin, "report") == 0) report();
        else if (strcmp(begin, "quit") == 0) return false;
        else fail("no such command: %s", begin);
        begin = end + 1;
    }
    length -= (size_t)(begin - line);
    memmove(line, begin, length);
    if (length == sizeof line - 1) fail("too long a command");
    return true;
}

/* --- The whole -------------------------------------------------------------------------------- */

static uint32_t number(const char *text, uint32_t most) {
    char *end;
    unsigned long value = strtoul(text, &end, 10);
    if (*end != 0 || end == text || value == 0 || value > most) fail("expected 1 to %u, not %s", most, text);
    return (uint32_t)value;
}

static void read_options(int count, char **arguments) {
    static const struct option options[] = {
        {"port", required_argument, NULL, 'p'},    {"tls", no_argument, NULL, 't'},
        {"h2", no_argument, NULL, '2'},            {"streams", required_argument, NULL, 'n'},
        {"per-connection", required_argument, NULL, 'm'}, {"target", required_argument, NULL, 'r'},
        {"header", required_argument, NULL, 'h'},  {"parallel", required_argument, NULL, 'k'},
        {"step", required_argument, NULL, 's'},    {"deaf", no_argument, NULL, 'd'},
        {NULL, 0, NULL, 0},
    };
    int option;
    while ((option = getopt_long(count, arguments, "", options, NULL)) != -1) {
        switch (option) {
        case 'p': wanted.port = (uint16_t)number(optarg, UINT16_MAX); break;
        case 't': wanted.tls = true; break;
        case 'd': wanted.deaf = true; break;
        case '2': wanted.tls = wanted.h2 = true; break;
        case 'n': wanted.streams = number(optarg, 1000000); break;
        case 'm': wanted.per_connection = number(optarg, 1000); break;
        case 'r': wanted.target = optarg; break;
        case 'k': wanted.parallel = number(optarg, 10000); break;
        case 's': wanted.step = number(optarg, 1000000); break;
        case 'h':
            if (wanted.header_count == MAX_HEADERS) fail("too many headers");
            if (strstr(optarg, ": ") == NULL) fail("a header is 'name: value', not %s", optarg);
            wanted.headers[wanted.header_count++] = optarg;
            break;
        default: exit(2);
        }
    }
    if (wanted.port == 0 || optind != count) fail("--port is missing, or there is a word too much");
    if (wanted.deaf && wanted.h2) fail("with HTTP/2, every stream is read");
    if (!wanted.h2 && wanted.per_connection != 1) fail("only HTTP/2 has several streams on a connection");
}

static void prepare(void) {
    struct rlimit files;
    getrlimit(RLIMIT_NOFILE, &files);
    files.rlim_cur = files.rlim_max;
    setrlimit(RLIMIT_NOFILE, &files);
    link_count = (wanted.streams + wanted.per_connection - 1) / wanted.per_connection;
    if (link_count + 16 > files.rlim_cur) fail("%u connections need more than %ju open files", link_count, (uintmax_t)files.rlim_cur);
    streams = allocate(wanted.streams, sizeof *streams);
    links = allocate(link_count, sizeof *links);

    size_t size = 512 + strlen(wanted.target);
    for (size_t index = 0; index < wanted.header_count; index++) size += strlen(wanted.headers[index]) + 2;
    request = allocate(1, size);
    request_length = (size_t)sprintf(request, "GET %s HTTP/1.1\r\nhost: localhost:%u\r\naccept: text/event-stream\r\n", wanted.target, wanted.port);
    for (size_t index = 0; index < wanted.header_count; index++)
        request_length += (size_t)sprintf(request + request_length, "%s\r\n", wanted.headers[index]);
    request_length += (size_t)sprintf(request + request_length, "\r\n");

    if (wanted.tls) {
        tls = SSL_CTX_new(TLS_client_method());
        if (tls == NULL) fail("no TLS");
        /* The same cipher with every server: which one each prefers is not what is measured. */
        SSL_CTX_set_min_proto_version(tls, TLS1_3_VERSION);
        SSL_CTX_set_ciphersuites(tls, "TLS_AES_128_GCM_SHA256");
        SSL_CTX_set_mode(tls, SSL_MODE_ENABLE_PARTIAL_WRITE | SSL_MODE_ACCEPT_MOVING_WRITE_BUFFER | SSL_MODE_RELEASE_BUFFERS);
        SSL_CTX_set_read_ahead(tls, 1);
        if (wanted.h2) SSL_CTX_set_alpn_protos(tls, (const unsigned char *)"\x02h2", 3);
    }
    if (wanted.h2) {
        nghttp2_session_callbacks_new(&callbacks);
        nghttp2_session_callbacks_set_on_data_chunk_recv_callback(callbacks, on_data);
        nghttp2_session_callbacks_set_on_header_callback(callbacks, on_header);
        nghttp2_session_callbacks_set_on_stream_close_callback(callbacks, on_stream_close);
    }
    poller = epoll_create1(EPOLL_CLOEXEC);
    fcntl(STDIN_FILENO, F_SETFL, fcntl(STDIN_FILENO, F_GETFL) | O_NONBLOCK);
    struct epoll_event event = {.events = EPOLLIN, .data.ptr = NULL};
    if (poller < 0 || epoll_ctl(poller, EPOLL_CTL_ADD, STDIN_FILENO, &event) < 0) fail("standard input: %s", strerror(errno));
}

int main(int count, char **arguments) {
    static struct epoll_event events[READY_AT_ONCE];
    read_options(count, arguments);
    signal(SIGPIPE, SIG_IGN);
    prepare();
    mark();
    for (;;) {
        while (begun_links < link_count && opening_links < wanted.parallel) connect_next();
        int happened = epoll_wait(poller, events, READY_AT_ONCE, -1);
        if (happened < 0 && errno != EINTR) fail("epoll: %s", strerror(errno));
        for (int index = 0; index < happened; index++) {
            if (events[index].data.ptr != NULL) ready(events[index].data.ptr, events[index].events);
            else if (!read_commands()) return 0;
        }
    }
}
