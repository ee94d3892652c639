/* fake_redis.h -- a server in a thread, with answers written by the test. */
#ifndef FAKE_REDIS_H
#define FAKE_REDIS_H

#include <hiredis/hiredis.h>
#include <stdint.h>

#define FAKE_CLOSE (-1) /* an answer: end the connection */
/* An answer: `len` bytes, and then the last `tail` of them repeatedly until the client ends the
 * connection. */
#define FAKE_ENDLESS(len, tail) ((int)((unsigned)(len) | (unsigned)(tail) << 16))

typedef struct fake_redis fake_redis;

/* Answer command number `number` of its connection, counted from 0: put bytes into `out` (room for
 * 4096) and return how many, FAKE_ENDLESS or FAKE_CLOSE. Runs in the thread of the connection. */
typedef int fake_answer(void *context, unsigned number, const redisReply *command, char *out);

/* Listen on a free loopback port. Answers are sent in pieces of at most `piece` bytes. */
fake_redis *fake_redis_start(fake_answer *answer, void *context, size_t piece);
uint16_t fake_redis_port(const fake_redis *server);

/* End all connections and threads. */
void fake_redis_stop(fake_redis *server);

/* Answer "+OK" to the commands of a handshake; -2: another command. */
int fake_handshake(const redisReply *command, char *out);

#endif
