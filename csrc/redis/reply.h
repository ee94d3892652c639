/* redis/reply.h -- bounds on the replies of a server, checked before hiredis reads them.
 *
 * hiredis buffers as much as a server announces, and its releases differ in their bounds: 1.2
 * nests arrays without limit, and then overflows the stack when it frees them. So the bytes of a
 * connection are checked here first, and hiredis gets only replies within the bounds below. A
 * reply is refused at the header that exceeds a bound, not when its bytes have arrived.
 *
 *     transport ── bytes ──> rl_reply_scan_bytes ── replies within bounds ──> hiredis
 *
 * Only the types of RESP2 are accepted (+ - : $ *), because no command enables RESP3. A decision
 * is a few hundred bytes. The bounds allow the largest replies to our commands:
 * CLUSTER SLOTS with 16,384 ranges of one slot each, of a master and two replicas (4 MB, 330,000
 * elements, arrays four deep), and rules that are stored in Redis. */
#ifndef RL_REDIS_REPLY_H
#define RL_REDIS_REPLY_H

#include <stddef.h>
#include <stdint.h>

#define RL_REPLY_SIZE_MAX ((size_t)8 << 20)     /* bytes of a reply, headers included */
#define RL_REPLY_ELEMENTS_MAX ((size_t)1 << 19) /* elements of all its arrays together */
#define RL_REPLY_LINE_MAX ((size_t)64 << 10)    /* bytes of a status, an error or an integer */
#define RL_REPLY_DEPTH_MAX 7                    /* arrays within arrays; as in hiredis 0.14 */

/* During a long reply, every so many bytes count as progress. */
#define RL_REPLY_PART ((size_t)16 << 10)

/* The position in the stream of replies. Starts as all zero. */
typedef struct rl_reply_scan {
    uint64_t ended;                  /* replies that are complete */
    size_t size;                     /* bytes of the reply that has begun */
    size_t elements;                 /* that its arrays have announced */
    size_t string_left;              /* bytes of a string that are missing, its CRLF included */
    size_t line_len;                 /* bytes of the line that has begun, behind its type */
    char type;                       /* of that line; 0: none has begun */
    char line[24];                   /* its beginning: room for any length */
    char previous;                   /* the byte before this one in it */
    int depth;                       /* arrays that are not complete, */
    size_t left[RL_REPLY_DEPTH_MAX]; /* and how many elements each one lacks */
} rl_reply_scan;

/* Check the next bytes. Return how many of them may go to hiredis: all, or with *error set (a
 * static text) those of the complete replies before the refused one. After an error the
 * scan must not be used again. */
size_t rl_reply_scan_bytes(rl_reply_scan *scan, const char *bytes, size_t len, const char **error);

/* Return a number that changes with each progress of the server: a complete reply, or
 * RL_REPLY_PART more bytes of a large one. Single bytes are no progress. */
uint64_t rl_reply_progress(const rl_reply_scan *scan);

#endif
