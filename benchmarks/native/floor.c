/*
 * floor: the least that a server of events has to do. What it costs is what sending costs.
 *
 *     floor [CERTIFICATE KEY]
 *
 * It listens at two ports of 127.0.0.1 of the system's choice, and prints both:
 *     {"streams": 40001, "publish": 40002}
 *
 * Whoever asks anything at the first port gets the headers of an event stream, over TLS if there
 * is a certificate. Whoever connects to the second one sends events: four bytes of length, most
 * significant first, and the text of the event. The text is framed as a chunk once. What one read
 * from the publisher has brought goes to the socket of each stream by one `send`. What a socket does
 * not take waits, and is sent when it does.
 */

#include <arpa/inet.h>
#include <errno.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <openssl/err.h>
#include <openssl/ssl.h>
#include <signal.h>
#include <stdbool.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/resource.h>
#include <sys/socket.h>
#include <unistd.h>

enum { MAX_EVENT = 64 * 1024, INBOX_BYTES = 256 * 1024, READY_AT_ONCE = 512, BACKLOG = 1024 };
/* The length of an event, four bytes, becomes at most nine of its chunk's. */
enum { OUTBOX_BYTES = 3 * INBOX_BYTES };

enum kind { STREAMS_PORT, PUBLISH_PORT, PUBLISHER, CLIENT };

struct peer {
    enum kind kind;
    int fd;
    SSL *ssl;
    bool greeted, secured, wants_write;
    /* How much of the blank line behind the request has been seen. */
    uint8_t blank;
    size_t place;
    uint8_t *owed;
    size_t owed_length;
};

static const char HEAD[] = "HTTP/1.1 200 OK\r\ncontent-type: text/event-stream\r\ncache-control: no-cache\r\n"
                           "transfer-encoding: chunked\r\n\r\n";

static int poller;
static SSL_CTX *tls;
static struct peer **clients;
static size_t client_count, client_room;

static void fail(const char *what) {
    fprintf(stderr, "floor: %s: %s\n", what, strerror(errno));
    exit(2);
}

static void add(struct peer *peer) {
    struct epoll_event event = {.events = EPOLLIN, .data.ptr = peer};
    if (epoll_ctl(poller, EPOLL_CTL_ADD, peer->fd, &event) < 0) fail("epoll");
}

static void watch(struct peer *peer, bool for_writing) {
    if (peer->wants_write == for_writing) return;
    peer->wants_write = for_writing;
    struct epoll_event event = {.events = EPOLLIN | (for_writing ? EPOLLOUT : 0), .data.ptr = peer};
    epoll_ctl(poller, EPOLL_CTL_MOD, peer->fd, &event);
}

static struct peer *make(enum kind kind, int fd) {
    struct peer *peer = calloc(1, sizeof *peer);
    if (peer == NULL) fail("memory");
    peer->kind = kind;
    peer->fd = fd;
    return peer;
}

static uint16_t listen_for(enum kind kind) {
    int fd = socket(AF_INET, SOCK_STREAM | SOCK_NONBLOCK | SOCK_CLOEXEC, 0);
    struct sockaddr_in address = {.sin_family = AF_INET, .sin_addr.s_addr = htonl(INADDR_LOOPBACK)};
    socklen_t size = sizeof address;
    if (fd < 0 || bind(fd, (struct sockaddr *)&address, size) < 0 || listen(fd, BACKLOG) < 0 ||
        getsockname(fd, (struct sockaddr *)&address, &size) < 0)
        fail("listening");
    add(make(kind, fd));
    return ntohs(address.sin_port);
}

static void forget(struct peer *peer) {
    if (peer->kind == CLIENT) {
        clients[peer->place] = clients[--client_count];
        clients[peer->place]->place = peer->place;
    }
    if (peer->ssl != NULL) SSL_free(peer->ssl);
    close(peer->fd);
    free(peer->owed);
    free(peer);
}

static void accept_all(struct peer *port) {
    int fd;
    while ((fd = accept4(port->fd, NULL, NULL, SOCK_NONBLOCK | SOCK_CLOEXEC)) >= 0) {
        int yes = 1;
        setsockopt(fd, IPPROTO_TCP, TCP_NODELAY, &yes, sizeof yes);
        struct peer *peer = make(port->kind == STREAMS_PORT ? CLIENT : PUBLISHER, fd);
        if (peer->kind == CLIENT) {
            if (client_count == client_room) {
                client_room = client_room ? client_room * 2 : 1024;
                clients = realloc(clients, client_room * sizeof *clients);
                if (clients == NULL) fail("memory");
            }
            peer->place = client_count;
            clients[client_count++] = peer;
            if (tls != NULL) {
                peer->ssl = SSL_new(tls);
                if (peer->ssl == NULL || SSL_set_fd(peer->ssl, fd) != 1) fail("TLS");
                SSL_set_accept_state(peer->ssl);
            }
        }
        add(peer);
    }
}

/* Bytes written; 0 when the socket takes none. A broken socket is noticed by reading it. */
static size_t put(struct peer *peer, const uint8_t *data, size_t size) {
    if (peer->ssl == NULL) {
        ssize_t count = send(peer->fd, data, size, MSG_NOSIGNAL);
        return count > 0 ? (size_t)count : 0;
    }
    int count = SSL_write(peer->ssl, data, (int)size);
    if (count <= 0) ERR_clear_error();
    return count > 0 ? (size_t)count : 0;
}

static void give(struct peer *peer, const uint8_t *data, size_t size) {
    size_t done = peer->owed_length ? 0 : put(peer, data, size);
    if (done == size) return;
    peer->owed = realloc(peer->owed, peer->owed_length + size - done);
    if (peer->owed == NULL) fail("memory");
    memcpy(peer->owed + peer->owed_length, data + done, size - done);
    peer->owed_length += size - done;
    watch(peer, true);
}

static void settle(struct peer *peer) {
    size_t done = put(peer, peer->owed, peer->owed_length);
    peer->owed_length -= done;
    memmove(peer->owed, peer->owed + done, peer->owed_length);
    if (peer->owed_length == 0) {
        free(peer->owed);
        peer->owed = NULL;
        watch(peer, false);
    }
}

static void broadcast(const uint8_t *chunks, size_t size) {
    for (size_t index = 0; index < client_count; index++)
        if (clients[index]->greeted) give(clients[index], chunks, size);
}

static size_t frame(uint8_t *chunk, const uint8_t *text, uint32_t size) {
    size_t length = (size_t)sprintf((char *)chunk, "%x\r\n", size);
    memcpy(chunk + length, text, size);
    memcpy(chunk + length + size, "\r\n", 2);
    return length + size + 2;
}

/* False when the publisher has gone. */
static bool read_events(struct peer *publisher) {
    static uint8_t inbox[INBOX_BYTES], outbox[OUTBOX_BYTES];
    static size_t held;
    ssize_t count = recv(publisher->fd, inbox + held, sizeof inbox - held, 0);
    if (count < 0 && (errno == EAGAIN || errno == EINTR)) return true;
    if (count <= 0) {
        held = 0;
        return false;
    }
    held += (size_t)count;
    size_t at = 0, framed = 0;
    while (held - at >= 4) {
        uint32_t size;
        memcpy(&size, inbox + at, 4);
        size = ntohl(size);
        if (size > MAX_EVENT) return false;
        if (held - at - 4 < size) break;
        framed += frame(outbox + framed, inbox + at + 4, size);
        at += 4 + size;
    }
    if (framed > 0) broadcast(outbox, framed);
    held -= at;
    memmove(inbox, inbox + at, held);
    return true;
}

/* False when the client has gone. */
static bool read_request(struct peer *client) {
    uint8_t buffer[4096];
    if (client->ssl != NULL && !client->secured) {
        int result = SSL_do_handshake(client->ssl);
        if (result != 1) {
            int error = SSL_get_error(client->ssl, result);
            ERR_clear_error();
            watch(client, error == SSL_ERROR_WANT_WRITE);
            return error == SSL_ERROR_WANT_READ || error == SSL_ERROR_WANT_WRITE;
        }
        client->secured = true;
        watch(client, false);
    }
    for (;;) {
        ssize_t count;
        if (client->ssl == NULL) {
            count = recv(client->fd, buffer, sizeof buffer, 0);
            if (count < 0 && (errno == EAGAIN || errno == EINTR)) return true;
        } else {
            count = SSL_read(client->ssl, buffer, sizeof buffer);
            if (count <= 0) {
                int error = SSL_get_error(client->ssl, (int)count);
                ERR_clear_error();
                return error == SSL_ERROR_WANT_READ;
            }
        }
        if (count <= 0) return false;
        for (ssize_t index = 0; index < count && client->blank < 4; index++) {
            if (buffer[index] == "\r\n\r\n"[client->blank]) client->blank++;
            else client->blank = buffer[index] == '\r';
        }
        if (client->blank == 4 && !client->greeted) {
            client->greeted = true;
            give(client, (const uint8_t *)HEAD, sizeof HEAD - 1);
        }
    }
}

static void prepare_tls(const char *certificate, const char *key) {
    tls = SSL_CTX_new(TLS_server_method());
    if (tls == NULL || SSL_CTX_use_certificate_chain_file(tls, certificate) != 1 ||
        SSL_CTX_use_PrivateKey_file(tls, key, SSL_FILETYPE_PEM) != 1) {
        ERR_print_errors_fp(stderr);
        exit(2);
    }
    SSL_CTX_set_mode(tls, SSL_MODE_ENABLE_PARTIAL_WRITE | SSL_MODE_ACCEPT_MOVING_WRITE_BUFFER | SSL_MODE_RELEASE_BUFFERS);
}

int main(int count, char **arguments) {
    static struct epoll_event events[READY_AT_ONCE];
    signal(SIGPIPE, SIG_IGN);
    struct rlimit files;
    getrlimit(RLIMIT_NOFILE, &files);
    files.rlim_cur = files.rlim_max;
    setrlimit(RLIMIT_NOFILE, &files);
    if (count == 3) prepare_tls(arguments[1], arguments[2]);
    else if (count != 1) fail("usage: floor [CERTIFICATE KEY]");
    poller = epoll_create1(EPOLL_CLOEXEC);
    if (poller < 0) fail("epoll");
    uint16_t streams_port = listen_for(STREAMS_PORT), publish_port = listen_for(PUBLISH_PORT);
    printf("{\"streams\": %u, \"publish\": %u}\n", streams_port, publish_port);
    fflush(stdout);
    for (;;) {
        int happened = epoll_wait(poller, events, READY_AT_ONCE, -1);
        for (int index = 0; index < happened; index++) {
            struct peer *peer = events[index].data.ptr;
            bool alive = true;
            if (peer->kind == STREAMS_PORT || peer->kind == PUBLISH_PORT) {
                accept_all(peer);
            } else if (peer->kind == PUBLISHER) {
                alive = read_events(peer);
            } else {
                if (events[index].events & EPOLLOUT && peer->owed_length > 0) settle(peer);
                if (events[index].events & ~(uint32_t)EPOLLOUT || !peer->greeted) alive = read_request(peer);
            }
            if (!alive) forget(peer);
        }
    }
}
