/* redis/url.h -- read the address of a Redis server.
 *
 *     redis://[[user]:password@]host[:port][/db][?option=value&...]
 *     unix://[[user]:password@]/path/of.sock[?db=0&...]
 *     redis+sentinel://[[user]:password@]host[:port],.../master[/db][?...]
 *     redis+cluster://[[user]:password@]host[:port],...[?...]
 *
 * rediss://, rediss+sentinel:// and rediss+cluster:// go over TLS; valkey stands for
 * redis anywhere; redis+unix:// is unix://. A host in brackets is an IPv6 address. User,
 * password, path, master and the values of options that are texts are percent-decoded.
 *
 * Options, each at most once, with the names that redis-py uses:
 *     db username password client_name
 *     timeout (or socket_timeout)                  seconds for a decision, 0.1
 *     connect_timeout (or socket_connect_timeout)  seconds for a connection, 2
 *     ssl_ca_certs ssl_ca_path ssl_certfile ssl_keyfile ssl_password ssl_server_name
 *     ssl_check_hostname (true, false)  ssl_cert_reqs (required, none)
 *     sentinel_username sentinel_password
 * These are accepted and ignored: protocol decode_responses encoding
 *     health_check_interval retry_on_timeout max_connections socket_keepalive */
#ifndef RL_REDIS_URL_H
#define RL_REDIS_URL_H

#include "engine/bucket.h"
#include "redis/options.h"

#define RL_URL_ERROR_SIZE 512

/* Read an address. RL_OK; or RL_EURL, then *error (RL_URL_ERROR_SIZE bytes) names the wrong
 * part and the expected form, and never shows a password. */
rl_status rl_url_parse(const char *text, size_t len, rl_options *out, char *error);

#endif
