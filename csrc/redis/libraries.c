#include "redis/libraries.h"

#include <hiredis/hiredis.h>
#include <openssl/crypto.h>

#define TEXT(number) #number
#define TEXT_OF(number) TEXT(number)

const char *rl_hiredis_version(void)
{
    return TEXT_OF(HIREDIS_MAJOR) "." TEXT_OF(HIREDIS_MINOR) "." TEXT_OF(HIREDIS_PATCH);
}

const char *rl_openssl_version(void)
{
    return OpenSSL_version(OPENSSL_VERSION);
}
