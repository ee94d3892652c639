/* redis/url_parts.h -- private to the two files of the address reader:
 *
 *     url.c           scheme, credentials, hosts, path
 *     url_options.c   values, and the options after the '?' */
#ifndef RL_REDIS_URL_PARTS_H
#define RL_REDIS_URL_PARTS_H

#include <string.h>

#include "redis/url.h"

/* A part of the text. */
typedef struct rl_url_part {
    const char *at;
    size_t len;
} rl_url_part;

/* The state of reading one address. */
typedef struct rl_url_reader {
    rl_options *out;
    char *error;
    uint64_t seen; /* bits of OPTIONS */
    bool is_unix;
    bool is_doubtful; /* the only '@' is after the '?': a password may contain a '?' */
} rl_url_reader;

/* Write the error message. Return false, for the reader to return. */
__attribute__((format(printf, 2, 3))) bool rl_url_complain(const rl_url_reader *in,
                                                           const char *format, ...);

/* Percent-decode into `room` bytes. `name` is the name of the part in a message. */
bool rl_url_decode(const rl_url_reader *in, const char *name, rl_url_part text, char *out,
                   size_t room);

/* Read a whole number from 0 to `most`, in digits alone. */
bool rl_url_read_number(rl_url_part text, uint64_t most, uint64_t *out);
bool rl_url_read_database(const rl_url_reader *in, rl_url_part text);

/* Read one option, name=value. */
bool rl_url_read_option(rl_url_reader *in, rl_url_part text);

/* Return how many bytes of a part to show in a message. */
static inline int rl_url_shown(rl_url_part text)
{
    return text.len < 80 ? (int)text.len : 80;
}

static inline bool rl_url_equals(rl_url_part text, const char *word)
{
    return text.len == strlen(word) && memcmp(text.at, word, text.len) == 0;
}

/* Split *text at the first `separator`: *text becomes what follows it. False: there is no
 * separator, and *head is all of the text. */
static inline bool rl_url_split(rl_url_part *text, char separator, rl_url_part *head)
{
    const char *found = text->len != 0 ? memchr(text->at, separator, text->len) : NULL;
    *head = *text;
    if (found == NULL) {
        *text = (rl_url_part){text->at + text->len, 0};
        return false;
    }
    head->len = (size_t)(found - text->at);
    *text = (rl_url_part){found + 1, text->len - head->len - 1};
    return true;
}

#endif
