/* redis/libraries.h -- the versions of the libraries that talk to Redis. */
#ifndef RL_REDIS_LIBRARIES_H
#define RL_REDIS_LIBRARIES_H

/* Return the version of hiredis that this was compiled with, such as "1.2.0". */
const char *rl_hiredis_version(void);

/* Return the version of the OpenSSL that is loaded, such as "OpenSSL 3.0.15 3 Sep 2024". */
const char *rl_openssl_version(void);

#endif
