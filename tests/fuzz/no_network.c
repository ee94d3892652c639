/* no_network.c -- a fuzzed answer must not cause network access: linked with --wrap, so that no
 * name is looked up and no other host is connected to. */
#include <errno.h>
#include <netdb.h>
#include <netinet/in.h>
#include <sys/socket.h>

int __real_getaddrinfo(const char *, const char *, const struct addrinfo *, struct addrinfo **);
int __wrap_getaddrinfo(const char *, const char *, const struct addrinfo *, struct addrinfo **);
int __real_connect(int, const struct sockaddr *, socklen_t);
int __wrap_connect(int, const struct sockaddr *, socklen_t);

int __wrap_getaddrinfo(const char *host, const char *port, const struct addrinfo *hints,
                       struct addrinfo **found)
{
    return hints->ai_flags & AI_NUMERICHOST ? __real_getaddrinfo(host, port, hints, found)
                                            : EAI_NONAME;
}

int __wrap_connect(int fd, const struct sockaddr *address, socklen_t len)
{
    if (address->sa_family == AF_UNIX) {
        return __real_connect(fd, address, len);
    }
    errno = ECONNREFUSED;
    return -1;
}
