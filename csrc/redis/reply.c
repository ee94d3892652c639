#include "redis/reply.h"

#include <stdbool.h>
#include <string.h>

#define NOT_REDIS "it does not speak the protocol of Redis"
#define TOO_LARGE NOT_REDIS ": a reply is larger than 8 MB"

/* An element is complete, and with it each array that it is the last element of. */
static void end_element(rl_reply_scan *scan)
{
    scan->type = 0;
    while (scan->depth > 0 && --scan->left[scan->depth - 1] == 0) {
        scan->depth--;
    }
    if (scan->depth == 0) {
        scan->ended++;
        scan->size = 0;
        scan->elements = 0;
    }
}

/* Read "-1" or a number without leading zeros, as hiredis does. False: not a number. */
static bool read_length(const char *digits, size_t len, bool *is_nil, size_t *out)
{
    *is_nil = len == 2 && memcmp(digits, "-1", 2) == 0;
    *out = 0;
    if (*is_nil) {
        return true;
    }
    if (len == 0 || (digits[0] == '0' && len > 1)) {
        return false;
    }
    for (size_t i = 0; i < len; i++) {
        if (digits[i] < '0' || digits[i] > '9') {
            return false;
        }
        if (*out <= RL_REPLY_SIZE_MAX) { /* a larger one is refused anyway */
            *out = 10 * *out + (size_t)(digits[i] - '0');
        }
    }
    return true;
}

static const char *begin_string(rl_reply_scan *scan, size_t len)
{
    if (len > RL_REPLY_SIZE_MAX - scan->size) {
        return TOO_LARGE;
    }
    scan->string_left = len + 2;
    return NULL;
}

static const char *begin_array(rl_reply_scan *scan, size_t n)
{
    if (n > RL_REPLY_ELEMENTS_MAX - scan->elements) {
        return NOT_REDIS ": a reply has too many elements";
    }
    if (scan->depth == RL_REPLY_DEPTH_MAX) {
        return NOT_REDIS ": a reply is nested too deeply";
    }
    scan->elements += n;
    scan->left[scan->depth++] = n;
    scan->type = 0;
    return NULL;
}

static const char *end_line(rl_reply_scan *scan)
{
    bool is_nil = true;
    size_t length = 0;
    if (scan->type == '$' || scan->type == '*') {
        if (!read_length(scan->line, scan->line_len - 2, &is_nil, &length)) {
            return NOT_REDIS;
        }
    }
    if (!is_nil && scan->type == '$') {
        return begin_string(scan, length);
    }
    if (!is_nil && length != 0) {
        return begin_array(scan, length);
    }
    end_element(scan);
    return NULL;
}

static const char *scan_byte(rl_reply_scan *scan, char byte)
{
    if (scan->type == 0) {
        scan->type = byte;
        scan->line_len = 0;
        scan->previous = 0;
        return memchr("+-:$*", byte, 5) != NULL ? NULL : NOT_REDIS;
    }
    bool ends = scan->previous == '\r' && byte == '\n';
    if (scan->line_len < sizeof scan->line) {
        scan->line[scan->line_len] = byte;
    } else if (scan->type == '$' || scan->type == '*') {
        return NOT_REDIS; /* no length is that long */
    }
    scan->line_len++;
    scan->previous = byte;
    if (ends) {
        return end_line(scan);
    }
    return scan->line_len < RL_REPLY_LINE_MAX ? NULL : NOT_REDIS ": a line is longer than 64 KB";
}

size_t rl_reply_scan_bytes(rl_reply_scan *scan, const char *bytes, size_t len, const char **error)
{
    size_t whole = 0; /* bytes up to the end of the last complete reply */
    *error = NULL;
    for (size_t i = 0; i < len;) {
        size_t n = 1;
        uint64_t ended = scan->ended;
        if (scan->string_left != 0) {
            n = len - i < scan->string_left ? len - i : scan->string_left;
            scan->size += n;
            scan->string_left -= n;
            if (scan->string_left == 0) {
                end_element(scan);
            }
        } else {
            scan->size++;
            *error = scan->size <= RL_REPLY_SIZE_MAX ? scan_byte(scan, bytes[i]) : TOO_LARGE;
            if (*error != NULL) {
                return whole;
            }
        }
        i += n;
        if (scan->ended != ended) {
            whole = i;
        }
    }
    return len;
}

uint64_t rl_reply_progress(const rl_reply_scan *scan)
{
    /* A reply has fewer parts than the factor, so the number only grows. */
    return scan->ended * 2 * (RL_REPLY_SIZE_MAX / RL_REPLY_PART) + scan->size / RL_REPLY_PART;
}
