/* A DTLS peer of Mbed TLS that uses connection IDs (RFC 9146), with a pre-shared key.
 *
 *   peer client PORT LENGTH     connects to 127.0.0.1:PORT and requests connection IDs of LENGTH bytes
 *   peer server LENGTH          listens on 127.0.0.1, prints "port N", and echoes what its peer sends
 *
 * A client takes commands from its standard input, a line each:
 *
 *   send TEXT     sends TEXT, again and again until there is an answer, and prints "got ANSWER"
 *   port          changes to another port, and prints "port N"
 *   quit          closes the session and exits
 *
 * Both print "open OWN PEER" after the handshake: the lengths of the two connection IDs, or -1 if there are none.
 */
#include <arpa/inet.h>
#include <poll.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

#include <mbedtls/ctr_drbg.h>
#include <mbedtls/entropy.h>
#include <mbedtls/ssl.h>
#include <mbedtls/ssl_cookie.h>
#include <mbedtls/timing.h>

static const unsigned char key[] = {0x1a, 0x2b, 0x3c, 0x4d, 0x5e, 0x6f, 0x70, 0x81,
                                    0x92, 0xa3, 0xb4, 0xc5, 0xd6, 0xe7, 0xf8, 0x09};
static const int suites[] = {MBEDTLS_TLS_PSK_WITH_AES_128_GCM_SHA256, 0};

static mbedtls_ssl_context ssl;
static mbedtls_ssl_config configuration;
static mbedtls_entropy_context entropy;
static mbedtls_ctr_drbg_context random_bytes;
static mbedtls_timing_delay_context timer;
static mbedtls_ssl_cookie_ctx cookies;

static int fd;
/* The address of the other side. A server follows the source of each datagram. */
static struct sockaddr_in peer;
static int follows;

static void check(const char *what, int result) {
    if (result != 0) {
        fprintf(stderr, "%s: -0x%04x\n", what, (unsigned) -result);
        exit(1);
    }
}

static void check_call(const char *what, int result) {
    if (result < 0) {
        perror(what);
        exit(1);
    }
}

static int bound_port(void) {
    struct sockaddr_in address;
    socklen_t length = sizeof address;
    check_call("getsockname", getsockname(fd, (struct sockaddr *) &address, &length));
    return ntohs(address.sin_port);
}

static void open_socket(void) {
    struct sockaddr_in local = {.sin_family = AF_INET, .sin_addr.s_addr = htonl(INADDR_LOOPBACK)};
    fd = socket(AF_INET, SOCK_DGRAM | SOCK_CLOEXEC, 0);
    check_call("socket", fd);
    check_call("bind", bind(fd, (struct sockaddr *) &local, sizeof local));
}

static int send_datagram(void *unused, const unsigned char *bytes, size_t length) {
    (void) unused;
    ssize_t sent = sendto(fd, bytes, length, MSG_NOSIGNAL, (struct sockaddr *) &peer, sizeof peer);
    /* A datagram that cannot be sent counts as lost. */
    return sent < 0 ? (int) length : (int) sent;
}

static int receive_datagram(void *unused, unsigned char *bytes, size_t length, uint32_t milliseconds) {
    (void) unused;
    struct pollfd readable = {.fd = fd, .events = POLLIN};
    struct sockaddr_in source;
    socklen_t source_length = sizeof source;
    int ready = poll(&readable, 1, milliseconds == 0 ? -1 : (int) milliseconds);
    if (ready == 0) {
        return MBEDTLS_ERR_SSL_TIMEOUT;
    }
    ssize_t received = recvfrom(fd, bytes, length, 0, (struct sockaddr *) &source, &source_length);
    if (received < 0) {
        return MBEDTLS_ERR_SSL_WANT_READ;
    }
    if (follows) {
        peer = source;
    }
    return (int) received;
}

/* Requests connection IDs of this length in the next handshake. */
static void set_cid(size_t length) {
    unsigned char cid[MBEDTLS_SSL_CID_IN_LEN_MAX];
    check("random numbers", mbedtls_ctr_drbg_random(&random_bytes, cid, length));
    check("connection ID", mbedtls_ssl_set_cid(&ssl, MBEDTLS_SSL_CID_ENABLED, cid, length));
}

static void set_up(int endpoint, size_t cid_length) {
    if (cid_length > MBEDTLS_SSL_CID_IN_LEN_MAX) {
        fprintf(stderr, "Mbed TLS was built for connection IDs of %zu bytes at most\n",
                (size_t) MBEDTLS_SSL_CID_IN_LEN_MAX);
        exit(1);
    }
    mbedtls_ssl_init(&ssl);
    mbedtls_ssl_config_init(&configuration);
    mbedtls_entropy_init(&entropy);
    mbedtls_ctr_drbg_init(&random_bytes);
    check("random numbers", mbedtls_ctr_drbg_seed(&random_bytes, mbedtls_entropy_func, &entropy, NULL, 0));
    check("defaults", mbedtls_ssl_config_defaults(&configuration, endpoint, MBEDTLS_SSL_TRANSPORT_DATAGRAM,
                                                  MBEDTLS_SSL_PRESET_DEFAULT));
    mbedtls_ssl_conf_rng(&configuration, mbedtls_ctr_drbg_random, &random_bytes);
    mbedtls_ssl_conf_ciphersuites(&configuration, suites);
    check("key", mbedtls_ssl_conf_psk(&configuration, key, sizeof key, (const unsigned char *) "alice", 5));
    check("lengths", mbedtls_ssl_conf_cid(&configuration, cid_length, MBEDTLS_SSL_UNEXPECTED_CID_IGNORE));
    if (endpoint == MBEDTLS_SSL_IS_SERVER) {
        mbedtls_ssl_cookie_init(&cookies);
        check("cookies", mbedtls_ssl_cookie_setup(&cookies, mbedtls_ctr_drbg_random, &random_bytes));
        mbedtls_ssl_conf_dtls_cookies(&configuration, mbedtls_ssl_cookie_write, mbedtls_ssl_cookie_check, &cookies);
    }
    check("set-up", mbedtls_ssl_setup(&ssl, &configuration));
    set_cid(cid_length);
    mbedtls_ssl_set_timer_cb(&ssl, &timer, mbedtls_timing_set_delay, mbedtls_timing_get_delay);
    mbedtls_ssl_set_bio(&ssl, NULL, send_datagram, NULL, receive_datagram);
}

static void shake_hands(size_t own) {
    unsigned char cid[MBEDTLS_SSL_CID_OUT_LEN_MAX];
    size_t length = 0;
    int enabled, result;
    do {
        result = mbedtls_ssl_handshake(&ssl);
    } while (result == MBEDTLS_ERR_SSL_WANT_READ || result == MBEDTLS_ERR_SSL_WANT_WRITE);
    check("handshake", result);
    check("agreed", mbedtls_ssl_get_peer_cid(&ssl, &enabled, cid, &length));
    if (enabled == MBEDTLS_SSL_CID_ENABLED) {
        printf("open %zu %zu\n", own, length);
    } else {
        printf("open -1 -1\n");
    }
}

static void send_text(const char *text) {
    unsigned char answer[2048];
    for (int attempt = 0; attempt < 200; attempt++) {
        int result = mbedtls_ssl_write(&ssl, (const unsigned char *) text, strlen(text));
        if (result < 0) {
            check("write", result);
        }
        do {
            result = mbedtls_ssl_read(&ssl, answer, sizeof answer - 1);
            if (result > 0) {
                answer[result] = 0;
            }
            /* The answer to an earlier line may arrive late. */
        } while (result > 0 && strcmp((char *) answer, text) != 0);
        if (result > 0) {
            printf("got %s\n", answer);
            return;
        }
        if (result != MBEDTLS_ERR_SSL_TIMEOUT && result != MBEDTLS_ERR_SSL_WANT_READ) {
            check("read", result == 0 ? -1 : result);
        }
    }
    printf("no answer\n");
}

static void call(int port, size_t cid_length) {
    char line[2048];
    peer = (struct sockaddr_in){
        .sin_family = AF_INET, .sin_port = htons(port), .sin_addr.s_addr = htonl(INADDR_LOOPBACK)};
    set_up(MBEDTLS_SSL_IS_CLIENT, cid_length);
    open_socket();
    shake_hands(cid_length);
    mbedtls_ssl_conf_read_timeout(&configuration, 300);
    while (fgets(line, sizeof line, stdin) != NULL) {
        line[strcspn(line, "\n")] = 0;
        if (strncmp(line, "send ", 5) == 0) {
            send_text(line + 5);
        } else if (strcmp(line, "port") == 0) {
            int old = fd;
            open_socket();
            close(old);
            printf("port %d\n", bound_port());
        } else if (strcmp(line, "quit") == 0) {
            break;
        }
    }
    mbedtls_ssl_close_notify(&ssl);
}

static void serve(size_t cid_length) {
    unsigned char message[2048];
    int result;
    open_socket();
    printf("port %d\n", bound_port());
    set_up(MBEDTLS_SSL_IS_SERVER, cid_length);
    follows = 1;
    for (;;) {
        /* The cookie is bound to the address of the first datagram. */
        struct pollfd readable = {.fd = fd, .events = POLLIN};
        socklen_t length = sizeof peer;
        check_call("poll", poll(&readable, 1, -1));
        check_call("recvfrom", recvfrom(fd, message, 1, MSG_PEEK, (struct sockaddr *) &peer, &length));
        check("address", mbedtls_ssl_set_client_transport_id(&ssl, (unsigned char *) &peer, sizeof peer));
        do {
            result = mbedtls_ssl_handshake(&ssl);
        } while (result == MBEDTLS_ERR_SSL_WANT_READ || result == MBEDTLS_ERR_SSL_WANT_WRITE);
        if (result != MBEDTLS_ERR_SSL_HELLO_VERIFY_REQUIRED) {
            break;
        }
        check("reset", mbedtls_ssl_session_reset(&ssl));
        set_cid(cid_length);
    }
    check("handshake", result);
    shake_hands(cid_length);
    mbedtls_ssl_conf_read_timeout(&configuration, 0);
    for (;;) {
        result = mbedtls_ssl_read(&ssl, message, sizeof message);
        if (result == MBEDTLS_ERR_SSL_PEER_CLOSE_NOTIFY || result == 0) {
            printf("closed\n");
            return;
        }
        if (result > 0) {
            mbedtls_ssl_write(&ssl, message, result);
        } else if (result != MBEDTLS_ERR_SSL_WANT_READ && result != MBEDTLS_ERR_SSL_TIMEOUT) {
            check("read", result);
        }
    }
}

int main(int count, char **arguments) {
    setvbuf(stdout, NULL, _IOLBF, 0);
    if (count == 4 && strcmp(arguments[1], "client") == 0) {
        call(atoi(arguments[2]), strtoul(arguments[3], NULL, 10));
    } else if (count == 3 && strcmp(arguments[1], "server") == 0) {
        serve(strtoul(arguments[2], NULL, 10));
    } else {
        fprintf(stderr, "usage: peer client PORT LENGTH | peer server LENGTH\n");
        return 2;
    }
    return 0;
}
