/* http/masked_key.h -- shorten a client's key so that it does not name a person.
 *
 *     203.0.113.9                       203.0.113.0/24
 *     2001:db8:1:2::/64                 2001:db8:1::/48
 *     ip:203.0.113.9                    ip:203.0.113.0/24
 *     user:joanna                       user:jo
 *     header:x-api-key:5f3b9c2a77d1e0   header:x-api-key:5f3b
 *
 * The label of a source of keys stays. Of a value that is no address, a third of its characters
 * stay, at most four. So two clients may have one shortened key: show a hash beside it. */
#ifndef RL_HTTP_MASKED_KEY_H
#define RL_HTTP_MASKED_KEY_H

#include <stddef.h>

#define RL_MASKED_KEY_MAX 63

/* Write the shortened key; return its length, at most RL_MASKED_KEY_MAX. The key may be any
 * bytes; valid UTF-8 stays valid. */
size_t rl_masked_key(const char *key, size_t len, char *out);

#endif
