#include "redis/tls.h"

#include <arpa/inet.h>
#include <errno.h>
#include <openssl/err.h>
#include <openssl/ssl.h>
#include <openssl/x509v3.h>
#include <stdio.h>
#include <string.h>
#include <sys/socket.h>

#include "engine/alloc.h"

#ifndef MSG_NOSIGNAL
#define MSG_NOSIGNAL 0
#endif

struct rl_tls {
    SSL_CTX *context;   /* owned */
    BIO_METHOD *method; /* owned */
    rl_tls_options options;
};

struct rl_tls_session {
    SSL *ssl;             /* owned */
    unsigned read_wants;  /* events that an unfinished read waits for, besides input */
    unsigned write_wants; /* events that an unfinished write waits for */
};

/* ---- the socket as OpenSSL sees it ------------------------------------------ */

static int socket_of(BIO *bio)
{
    return (int)(intptr_t)BIO_get_data(bio);
}

static int tls_put(BIO *bio, const char *data, int len)
{
    ssize_t done = send(socket_of(bio), data, (size_t)len, MSG_NOSIGNAL);
    BIO_clear_retry_flags(bio);
    if (done < 0 && (errno == EAGAIN || errno == EWOULDBLOCK || errno == EINTR)) {
        BIO_set_retry_write(bio);
    }
    return (int)done;
}

static int tls_take(BIO *bio, char *buffer, int room)
{
    ssize_t done = recv(socket_of(bio), buffer, (size_t)room, 0);
    BIO_clear_retry_flags(bio);
    if (done < 0 && (errno == EAGAIN || errno == EWOULDBLOCK || errno == EINTR)) {
        BIO_set_retry_read(bio);
    }
    return (int)done;
}

static long tls_control(BIO *Bio, int command, long number, void *pointer)
{
    (void)Bio;
    (void)number;
    (void)pointer;
    return command == BIO_CTRL_FLUSH;
}

static BIO_METHOD *new_method(void)
{
    BIO_METHOD *method = BIO_meth_new(BIO_TYPE_SOCKET, "rate_limiter socket");
    if (method != NULL) {
        BIO_meth_set_write(method, tls_put);
        BIO_meth_set_read(method, tls_take);
        BIO_meth_set_ctrl(method, tls_control);
    }
    return method;
}

/* ---- the context ------------------------------------------------------------ */

static const char *tls_last_reason(void)
{
    unsigned long code = ERR_peek_last_error();
    const char *reason = code != 0 ? ERR_reason_error_string(code) : NULL;
    return reason != NULL ? reason : "it cannot be read";
}

static bool load_authorities(const rl_tls *tls, char *error)
{
    const rl_tls_options *options = &tls->options;
    const char *file = options->ca_file[0] != 0 ? options->ca_file : NULL;
    const char *folder = options->ca_folder[0] != 0 ? options->ca_folder : NULL;
    if (file == NULL && folder == NULL) {
        return SSL_CTX_set_default_verify_paths(tls->context) == 1;
    }
    if (SSL_CTX_load_verify_locations(tls->context, file, folder) != 1) {
        snprintf(error, RL_ERROR_SIZE, "no certificate authorities in '%.150s': %.60s",
                 file != NULL ? file : folder, tls_last_reason());
        return false;
    }
    return true;
}

static bool load_certificate(const rl_tls *tls, char *error)
{
    const rl_tls_options *options = &tls->options;
    if (options->certificate_file[0] == 0) {
        return true;
    }
    const char *key_file =
        options->key_file[0] != 0 ? options->key_file : options->certificate_file;
    if (SSL_CTX_use_certificate_chain_file(tls->context, options->certificate_file) != 1) {
        snprintf(error, RL_ERROR_SIZE, "no client certificate in '%.150s': %.60s",
                 options->certificate_file, tls_last_reason());
        return false;
    }
    if (SSL_CTX_use_PrivateKey_file(tls->context, key_file, SSL_FILETYPE_PEM) != 1) {
        snprintf(error, RL_ERROR_SIZE,
                 "no private key for the client certificate in '%.140s': %.60s", key_file,
                 tls_last_reason());
        return false;
    }
    return true;
}

rl_tls *rl_tls_new(const rl_tls_options *options, char *error)
{
    snprintf(error, RL_ERROR_SIZE, "out of memory for TLS");
    rl_tls *tls = rl_alloc_zeroed(sizeof *tls);
    if (tls == NULL) {
        return NULL;
    }
    tls->options = *options;
    tls->method = new_method();
    tls->context = SSL_CTX_new(TLS_client_method());
    if (tls->method == NULL || tls->context == NULL) {
        goto fail;
    }
    SSL_CTX_set_min_proto_version(tls->context, TLS1_2_VERSION);
    SSL_CTX_set_mode(tls->context,
                     SSL_MODE_ENABLE_PARTIAL_WRITE | SSL_MODE_ACCEPT_MOVING_WRITE_BUFFER);
    SSL_CTX_set_quiet_shutdown(tls->context, 1);
    SSL_CTX_set_verify(tls->context, options->any_certificate ? SSL_VERIFY_NONE : SSL_VERIFY_PEER,
                       NULL);
    if (!load_authorities(tls, error) || !load_certificate(tls, error)) {
        goto fail;
    }
    return tls;
fail:
    ERR_clear_error();
    rl_tls_free(tls);
    return NULL;
}

void rl_tls_free(rl_tls *tls)
{
    if (tls != NULL) {
        SSL_CTX_free(tls->context);
        BIO_meth_free(tls->method);
        rl_free(tls);
    }
}

/* ---- a session -------------------------------------------------------------- */

static bool tls_is_address(const char *host)
{
    unsigned char address[16];
    return inet_pton(AF_INET, host, address) == 1 || inet_pton(AF_INET6, host, address) == 1;
}

static bool expect_name(SSL *ssl, const rl_tls *tls, const char *host)
{
    const char *name = tls->options.server_name[0] != 0 ? tls->options.server_name : host;
    if (tls_is_address(name)) {
        return tls->options.any_name || tls->options.any_certificate ||
               X509_VERIFY_PARAM_set1_ip_asc(SSL_get0_param(ssl), name) == 1;
    }
    if (SSL_set_tlsext_host_name(ssl, name) != 1) {
        return false;
    }
    if (tls->options.any_name || tls->options.any_certificate) {
        return true;
    }
    SSL_set_hostflags(ssl, X509_CHECK_FLAG_NO_PARTIAL_WILDCARDS);
    return SSL_set1_host(ssl, name) == 1;
}

rl_tls_session *rl_tls_session_new(const rl_tls *tls, int fd, const char *host)
{
    rl_tls_session *session = rl_alloc_zeroed(sizeof *session);
    if (session == NULL) {
        return NULL;
    }
    session->ssl = SSL_new(tls->context);
    BIO *bio = session->ssl != NULL ? BIO_new(tls->method) : NULL;
    if (bio == NULL) {
        goto fail;
    }
    BIO_set_data(bio, (void *)(intptr_t)fd);
    BIO_set_init(bio, 1);
    SSL_set_bio(session->ssl, bio, bio); /* the session owns it now */
    SSL_set_connect_state(session->ssl);
    if (!expect_name(session->ssl, tls, host)) {
        goto fail;
    }
    return session;
fail:
    ERR_clear_error();
    rl_tls_session_free(session);
    return NULL;
}

void rl_tls_session_free(rl_tls_session *session)
{
    if (session != NULL) {
        SSL_free(session->ssl);
        rl_free(session);
    }
}

/* Write the cause of a failure: a refused certificate first, else the protocol error. */
static void tls_describe_failure(const rl_tls_session *session, int code, char *error)
{
    long verdict = SSL_get_verify_result(session->ssl);
    if (verdict != X509_V_OK) {
        snprintf(error, RL_ERROR_SIZE, "the certificate was refused: %.150s",
                 X509_verify_cert_error_string(verdict));
    } else if (ERR_peek_last_error() != 0) {
        snprintf(error, RL_ERROR_SIZE, "%.150s", tls_last_reason());
    } else {
        snprintf(error, RL_ERROR_SIZE, "%s",
                 code == SSL_ERROR_SYSCALL ? "the connection broke" : "the protocol was violated");
    }
    ERR_clear_error();
}

static rl_io tls_conclude(rl_tls_session *session, int result, unsigned *wants, char *error)
{
    *wants = 0;
    if (result > 0) {
        return RL_IO_DONE;
    }
    int code = SSL_get_error(session->ssl, result);
    switch (code) {
    case SSL_ERROR_WANT_READ:
        *wants = RL_WANT_READ;
        return RL_IO_AGAIN;
    case SSL_ERROR_WANT_WRITE:
        *wants = RL_WANT_WRITE;
        return RL_IO_AGAIN;
    case SSL_ERROR_ZERO_RETURN:
        return RL_IO_CLOSED;
    default:
        tls_describe_failure(session, code, error);
        return RL_IO_FAILED;
    }
}

rl_io rl_tls_handshake(rl_tls_session *session, char *error)
{
    ERR_clear_error();
    return tls_conclude(session, SSL_do_handshake(session->ssl), &session->write_wants, error);
}

rl_io rl_tls_read(rl_tls_session *session, void *buffer, size_t room, size_t *n, char *error)
{
    ERR_clear_error();
    rl_io result = tls_conclude(session, SSL_read_ex(session->ssl, buffer, room, n),
                                &session->read_wants, error);
    session->read_wants &= RL_WANT_WRITE;
    return result;
}

rl_io rl_tls_write(rl_tls_session *session, const void *data, size_t len, size_t *n, char *error)
{
    ERR_clear_error();
    return tls_conclude(session, SSL_write_ex(session->ssl, data, len, n), &session->write_wants,
                        error);
}

unsigned rl_tls_wants(const rl_tls_session *session)
{
    return session->read_wants | session->write_wants;
}
