/* redis/options.h -- the address of Redis and the settings of connections, as one value.
 *
 * Texts have fixed room, so a value is copied by assignment and never freed. All of
 * them end with a zero byte; an empty text means "not given". redis/url.h makes such a
 * value from an address. */
#ifndef RL_REDIS_OPTIONS_H
#define RL_REDIS_OPTIONS_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#define RL_SERVERS_MAX 32
#define RL_HOST_SIZE 256 /* a DNS name has 253 bytes at most, a socket's path 107 */
#define RL_USER_SIZE 256
#define RL_PASSWORD_SIZE 4096 /* cloud providers hand out tokens of 2 KB */
#define RL_KEY_PASSWORD_SIZE 1024
#define RL_PATH_SIZE 1024
#define RL_NAME_SIZE 128

typedef enum rl_topology_kind { RL_STANDALONE, RL_SENTINEL, RL_CLUSTER } rl_topology_kind;

typedef struct rl_server {
    char host[RL_HOST_SIZE]; /* a name, an address without brackets, or a socket's path */
    uint16_t port;           /* 0: host is the path of a unix socket */
} rl_server;

typedef struct rl_credentials {
    char user[RL_USER_SIZE]; /* empty: the default user */
    char password[RL_PASSWORD_SIZE];
} rl_credentials;

typedef struct rl_tls_options {
    bool on;
    bool any_certificate;       /* do not check the server's certificate: only for tests */
    bool any_name;              /* check the certificate, but not its name */
    char ca_file[RL_PATH_SIZE]; /* empty: the system's authorities */
    char ca_folder[RL_PATH_SIZE];
    char certificate_file[RL_PATH_SIZE]; /* of the client */
    char key_file[RL_PATH_SIZE];
    char key_password[RL_KEY_PASSWORD_SIZE]; /* empty: the key must not be encrypted */
    char server_name[RL_HOST_SIZE];          /* expected in the certificate; empty: the host */
} rl_tls_options;

typedef struct rl_options {
    rl_topology_kind kind;
    size_t n_servers; /* Redis itself, the sentinels, or some nodes of the cluster */
    rl_server servers[RL_SERVERS_MAX];
    char master_name[RL_NAME_SIZE]; /* for Sentinel */
    uint32_t database;
    rl_credentials redis;
    rl_credentials sentinel;
    char client_name[RL_NAME_SIZE]; /* set by CLIENT SETNAME; empty: none */
    rl_tls_options tls;
    int64_t timeout_ns;         /* for one decision, in total */
    int64_t connect_timeout_ns; /* for one connection until it is ready */
} rl_options;

#endif
