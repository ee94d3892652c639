#include "redis/tls.h"

#include <arpa/inet.h>
#include <errno.h>
#include <openssl/err.h>
#include <openssl/ssl.h>
#include <openssl/x509v3.h>
#include <pthread.h>
#include <stdio.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/stat.h>

#include "engine/alloc.h"

#ifndef MSG_NOSIGNAL
#define MSG_NOSIGNAL 0
#endif

/* What changes when a file is replaced or rewritten. */
typedef struct tls_file_state {
    dev_t device;
    ino_t inode;
    off_t size;
    struct timespec changed;
} tls_file_state;

#define N_FILES 3

struct rl_tls {
    BIO_METHOD *method; /* owned */
    rl_tls_options options;
    pthread_mutex_t lock; /* guards what follows */
    SSL_CTX *context;     /* owned; sessions keep it too */
    tls_file_state files[N_FILES];
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

static bool load_authorities(SSL_CTX *context, const rl_tls_options *options, char *error)
{
    const char *file = options->ca_file[0] != 0 ? options->ca_file : NULL;
    const char *folder = options->ca_folder[0] != 0 ? options->ca_folder : NULL;
    if (file == NULL && folder == NULL) {
        return SSL_CTX_set_default_verify_paths(context) == 1;
    }
    if (SSL_CTX_load_verify_locations(context, file, folder) != 1) {
        snprintf(error, RL_ERROR_SIZE, "no certificate authorities in '%.150s': %.60s",
                 file != NULL ? file : folder, tls_last_reason());
        return false;
    }
    return true;
}

/* Return the password of the key. Without this OpenSSL would ask for it on the terminal. */
static int tls_key_password(char *buffer, int room, int is_for_writing, void *options)
{
    (void)is_for_writing;
    const char *password = ((const rl_tls_options *)options)->key_password;
    size_t len = strlen(password);
    if (len == 0 || len > (size_t)room) {
        return -1;
    }
    memcpy(buffer, password, len);
    return (int)len;
}

static const char *key_file_of(const rl_tls_options *options)
{
    return options->key_file[0] != 0 ? options->key_file : options->certificate_file;
}

/* The cause is not in the error of OpenSSL, whose text depends on its version. */
static void describe_bad_key(const rl_tls_options *options, bool is_encrypted, char *error)
{
    const char *reason = tls_last_reason();
    if (is_encrypted && options->key_password[0] == 0) {
        reason = "it is encrypted: give ssl_password";
    } else if (is_encrypted) {
        reason = "it is encrypted, and ssl_password does not open it";
    }
    snprintf(error, RL_ERROR_SIZE, "no private key for the client certificate in '%.140s': %.60s",
             key_file_of(options), reason);
}

static bool key_is_encrypted(const char *file)
{
    char line[256];
    bool found = false;
    FILE *in = fopen(file, "re");
    while (in != NULL && !found && fgets(line, sizeof line, in) != NULL) {
        found = strstr(line, "ENCRYPTED") != NULL;
    }
    if (in != NULL) {
        fclose(in);
    }
    return found;
}

static bool load_certificate(SSL_CTX *context, const rl_tls_options *options, char *error)
{
    if (options->certificate_file[0] == 0) {
        return true;
    }
    if (SSL_CTX_use_certificate_chain_file(context, options->certificate_file) != 1) {
        snprintf(error, RL_ERROR_SIZE, "no client certificate in '%.150s': %.60s",
                 options->certificate_file, tls_last_reason());
        return false;
    }
    if (SSL_CTX_use_PrivateKey_file(context, key_file_of(options), SSL_FILETYPE_PEM) != 1) {
        describe_bad_key(options, key_is_encrypted(key_file_of(options)), error);
        return false;
    }
    return true;
}

/* Load all files. NULL: *error is the cause. */
static SSL_CTX *tls_load(const rl_tls_options *options, char *error)
{
    SSL_CTX *context = SSL_CTX_new(TLS_client_method());
    if (context == NULL) {
        return NULL;
    }
    SSL_CTX_set_min_proto_version(context, TLS1_2_VERSION);
    SSL_CTX_set_mode(context, SSL_MODE_ENABLE_PARTIAL_WRITE | SSL_MODE_ACCEPT_MOVING_WRITE_BUFFER);
    SSL_CTX_set_quiet_shutdown(context, 1);
    SSL_CTX_set_verify(context, options->any_certificate ? SSL_VERIFY_NONE : SSL_VERIFY_PEER, NULL);
    SSL_CTX_set_default_passwd_cb(context, tls_key_password);
    SSL_CTX_set_default_passwd_cb_userdata(context, (void *)(uintptr_t)options);
    if (!load_authorities(context, options, error) || !load_certificate(context, options, error)) {
        SSL_CTX_free(context);
        context = NULL;
    }
    ERR_clear_error();
    return context;
}

/* All zero for a file that is not there, or not named. */
static tls_file_state file_state(const char *path)
{
    struct stat found;
    tls_file_state state;
    memset(&state, 0, sizeof state);
    if (path[0] != 0 && stat(path, &found) == 0) {
        state.device = found.st_dev;
        state.inode = found.st_ino;
        state.size = found.st_size;
#if defined(__APPLE__)
        state.changed = found.st_ctimespec;
#else
        state.changed = found.st_ctim;
#endif
    }
    return state;
}

static void read_file_states(const rl_tls_options *options, tls_file_state *files)
{
    const char *const paths[N_FILES] = {options->ca_file, options->certificate_file,
                                        options->key_file};
    for (int i = 0; i < N_FILES; i++) {
        files[i] = file_state(paths[i]);
    }
}

/* Load the files again if one has changed. Their states are from before the loading, so that a
 * later change is noticed. */
static void tls_refresh(rl_tls *tls)
{
    char error[RL_ERROR_SIZE];
    tls_file_state files[N_FILES];
    read_file_states(&tls->options, files);
    if (memcmp(files, tls->files, sizeof files) == 0) {
        return;
    }
    SSL_CTX *context = tls_load(&tls->options, error);
    if (context != NULL) {
        SSL_CTX_free(tls->context);
        tls->context = context;
        memcpy(tls->files, files, sizeof files);
    }
}

rl_tls *rl_tls_new(const rl_tls_options *options, char *error)
{
    snprintf(error, RL_ERROR_SIZE, "out of memory for TLS");
    rl_tls *tls = rl_alloc_zeroed(sizeof *tls);
    if (tls == NULL) {
        return NULL;
    }
    pthread_mutex_init(&tls->lock, NULL);
    tls->options = *options;
    tls->method = new_method();
    read_file_states(options, tls->files);
    tls->context = tls->method != NULL ? tls_load(&tls->options, error) : NULL;
    if (tls->context == NULL) {
        rl_tls_free(tls);
        return NULL;
    }
    return tls;
}

void rl_tls_free(rl_tls *tls)
{
    if (tls != NULL) {
        SSL_CTX_free(tls->context);
        BIO_meth_free(tls->method);
        pthread_mutex_destroy(&tls->lock);
        rl_free(tls);
    }
}

void rl_tls_before_fork(rl_tls *tls)
{
    pthread_mutex_lock(&tls->lock);
}

void rl_tls_after_fork(rl_tls *tls)
{
    pthread_mutex_unlock(&tls->lock);
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

static SSL *tls_new_ssl(rl_tls *tls)
{
    pthread_mutex_lock(&tls->lock);
    tls_refresh(tls);
    SSL *ssl = SSL_new(tls->context);
    pthread_mutex_unlock(&tls->lock);
    return ssl;
}

rl_tls_session *rl_tls_session_new(rl_tls *tls, int fd, const char *host)
{
    rl_tls_session *session = rl_alloc_zeroed(sizeof *session);
    if (session == NULL) {
        return NULL;
    }
    session->ssl = tls_new_ssl(tls);
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
