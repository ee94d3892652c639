/* python/path.h -- the path of a request: what the files that decide about requests share.
 *
 *                 request.c     what is read of a request: path, method, peer, header, cookie
 *                 sources.c     where a key, a tier or a bypass comes from
 *     scope ──>   check.c       bypass? ─> tier ─> rule ─> key ─> its limits ─> cost ─> decide ─> Verdict
 *                 check_limits.c    from "its limits" on
 *                 tiers.c       the tiers of a request
 *                 check_object.c    a check while something is awaited
 *                 policy.c      the configuration that a check follows
 *                 policy_object.c   the configuration in force
 *                 verdict.c     what one rule decided
 *                 record.c      the verdicts of a request
 *                 record_fields.c   the header fields that describe them
 *                 record_object.c   RateLimitRecord, as the application reads it
 *                 asgi.c, wsgi.c    pass or deny
 *                 asgi_args.c       the arguments of an ASGI application
 *                 asgi_sender.c, asgi_recorder.c    add the fields to a response
 *                 wsgi_recorder.c   the same, and settle the request
 *
 * A request is an ASGI scope or a WSGI environ: a dict from outside, so each member may be missing
 * or of a wrong type, and then counts as missing. */
#ifndef RL_PYTHON_PATH_H
#define RL_PYTHON_PATH_H

#include <string.h>

#include "http/client_address.h"
#include "http/fields.h"
#include "http/route.h"
#include "python/limiter.h"

/* ---- request.c ------------------------------------------------------------------------------- */

typedef enum request_kind { REQUEST_ASGI, REQUEST_WSGI } request_kind;

typedef struct request {
    const core_state *state;
    PyObject *scope; /* borrowed; a dict */
    request_kind kind;
    bool is_werkzeug; /* the path begins with one slash, however many the client sent */
} request;

/* The name of a header, as both kinds of request spell it. */
typedef struct header_name {
    PyObject *bytes;   /* strong; b"x-api-key" */
    PyObject *environ; /* strong; "HTTP_X_API_KEY" */
} header_name;

/* Make one of the bytes in lower case. 0, or -1 with an exception set. */
int header_name_init(header_name *name, PyObject *bytes);
void header_name_clear(header_name *name);

/* The values of a header, one for each line. */
#define REQUEST_FEW_VALUES 8
typedef struct request_values {
    rl_text *texts;    /* `few`, or owned; Latin-1 */
    PyObject **owners; /* strong; `few_owners`, or behind the texts */
    size_t n;
    size_t room;
    rl_text few[REQUEST_FEW_VALUES];
    PyObject *few_owners[REQUEST_FEW_VALUES];
} request_values;

void request_values_init(request_values *values);
void request_values_clear(request_values *values);

/* Add a str or bytes, which `what` names in the error. 0, or -1 with an exception set. */
int request_values_add(request_values *values, const char *what, PyObject *value);

/* Add all values of a header. 0, or -1 with an exception set. */
int request_header(const request *request, const header_name *name, request_values *out);

/* Read a member of the dict: a new reference, NULL without an exception when it is missing, or
 * NULL with an exception set. */
PyObject *request_get(const request *request, core_name name);

/* The same for any dict. */
PyObject *core_get(const core_state *state, PyObject *dict, core_name name);

/* The member "type" of a scope or a message, as core_get() returns it; faster where it is the first
 * one, as in most. */
PyObject *core_get_type(const core_state *state, PyObject *dict);

/* Return true if a text equals this name. */
static inline bool core_is_name(const core_state *state, PyObject *text, core_name name)
{
    PyObject *wanted = state->names[name];
    if (text == wanted || !PyUnicode_Check(text)) {
        return text == wanted;
    }
    Py_ssize_t len = PyUnicode_GET_LENGTH(wanted); /* names are ASCII */
    return PyUnicode_GET_LENGTH(text) == len && PyUnicode_IS_ASCII(text) &&
           memcmp(PyUnicode_1BYTE_DATA(text), PyUnicode_1BYTE_DATA(wanted), (size_t)len) == 0;
}

/* The path that the application routes by: without the root_path or SCRIPT_NAME that it is
 * mounted at. A new str. */
PyObject *request_path(const request *request);

/* The method in upper case, "WEBSOCKET" for a websocket. A new str. */
PyObject *request_method(const request *request);

/* The address at the other end of the connection: a new str, or None. */
PyObject *request_peer(const request *request);

/* ---- proxies.c --------------------------------------------------------------------------------- */

/* ProxyWalk. Immutable. */
typedef struct walk_object {
    PyObject_HEAD
    core_state *state;    /* borrowed from the type */
    rl_network *networks; /* owned; those of `proxies` */
    rl_proxies proxies;
    header_name header;
    unsigned ipv6_prefix;
    bool is_plain; /* no proxy is trusted, and a peer's key is that of client_key() */
} walk_object;

/* The key of the client of a request: a new str. */
PyObject *walk_request_key(const walk_object *walk, const request *request);

/* Find the address of the client; RL_CLIENT_NONE also for a malformed header. 0, or -1 with an
 * exception set. */
int walk_request_address(const walk_object *walk, const request *request, rl_client_source *source,
                         rl_address *out);

/* ---- sources.c --------------------------------------------------------------------------------- */

typedef enum source_kind {
    SOURCE_IP,      /* the client's address */
    SOURCE_ALL,     /* one key for all */
    SOURCE_HEADER,  /* a header's value; `call` reads unusual spellings */
    SOURCE_COOKIE,  /* a cookie's value; `call` reads unusual spellings */
    SOURCE_CALL,    /* what a function of the request returns */
    SOURCE_NETWORK, /* true for addresses in a network */
    SOURCE_SECRET,  /* true for a header with this value */
} source_kind;

typedef struct source {
    source_kind kind;
    PyObject *label; /* strong; "header:x-api-key:"; NULL: values are used as they are */
    PyObject *call;  /* strong, or NULL */
    bool of_subject; /* `call` is the user's, and gets what the framework calls a request */
    header_name header;
    PyObject *cookie; /* strong; ASCII bytes */
    PyObject *secret; /* strong; bytes */
    rl_network network;
} source;

typedef struct source_chain {
    source *items; /* owned */
    size_t n;
} source_chain;

/* Read a tuple of descriptions, see policy/keys.py. 0, or -1 with an exception set; clear the
 * chain in both cases. */
int source_chain_read(PyObject *descriptions, source_chain *out);
void source_chain_clear(source_chain *chain);

/* Return true if the last source always has a value, as that of a key must. */
bool source_chain_is_total(const source_chain *chain);
int source_chain_traverse(const source_chain *chain, visitproc visit, void *arg);

/* What was read: a value, nothing, or a function that must be called. */
typedef enum source_status {
    SOURCE_ERROR,
    SOURCE_FOUND,
    SOURCE_ABSENT,
    SOURCE_UNUSUAL
} source_status;

/* Read a value without calling Python: *out is a new str, or True of a bypass. */
source_status source_read(const source *source, const walk_object *walk, const request *request,
                          PyObject **out);

/* Return the key of a value that a function returned: with the label, and `shortened` where it is
 * too long. A new reference, or NULL: without an exception where there is no value. */
PyObject *source_key(const source *source, PyObject *shortened, PyObject *value);

/* ---- policy.c ------------------------------------------------------------------------------------ */

/* What a check does, in this order. */
typedef enum check_phase {
    CHECK_BYPASS,
    CHECK_TIER,
    CHECK_OWN_KEY,
    CHECK_FIND,
    CHECK_RULE_KEY,
    CHECK_RULE_LIMITS,
    CHECK_COST,
    CHECK_LIMITS,
} check_phase;

/* One rule with its limits. */
typedef struct policy_rule {
    PyObject *active;        /* strong; an ActiveRule */
    limiter_object *limiter; /* strong; NULL: `hit_each` decides */
    PyObject *hit_each;      /* strong; a function of a key and a cost */
    source_chain key;        /* none: that of the policy */
    PyObject *cost;          /* strong; a number or a function; NULL: 1 */
    size_t n_limits;
    rl_limit_state *limits; /* owned; the decisions are empty */
    /* strong; a function of the subject and the key that returns GivenLimits, or None: then the
     * request is denied; NULL: the limits above count */
    PyObject *limits_of;
    rl_text given_names[RL_TABLE_LIMITS_MAX + 1]; /* of one given limit; then those of several */
    PyObject *given_names_held;                   /* strong; a tuple, which keeps these names */
    PyObject *names;       /* strong; a tuple, which keeps the names of the limits */
    PyObject *measured_by; /* strong; the Meter of a rule that denies; NULL: not measured */
    core_meter *meter;     /* of measured_by */
    bool is_exempt;
    bool is_deny;   /* denies every request, without a limiter */
    bool is_shadow; /* counts, and never denies */
    bool settles;   /* the cost may change after the response */
} policy_rule;

/* PolicyVersion: the configuration that checks follow. Immutable. */
typedef struct version_object {
    PyObject_HEAD
    core_state *state;   /* borrowed from the type */
    PyObject *owner;     /* strong; the Policy */
    PyObject *shortened; /* strong; a function that shortens long values of keys */
    policy_rule *rules;  /* owned */
    size_t n_rules;
    PyObject *routes; /* strong; RuleRoutes; NULL: the first rule is for every request */
    source_chain bypass;
    source_chain tier;    /* one source at most */
    PyObject *tier_ranks; /* strong; a dict of str -> int */
    source_chain key;
    walk_object *walk; /* strong */
    rl_field_style style;
    request_kind kind;
    bool routes_like_werkzeug;
    bool uses_keys;        /* some rule names keys */
    check_phase begins_at; /* the first phase in which there is something to do */
} version_object;

/* ---- policy_object.c ----------------------------------------------------------------------------- */

/* Policy: the base of policy.Policy. It has one version at a time. */
typedef struct policy_object {
    PyObject_HEAD
    core_state *state;       /* borrowed from the type */
    version_object *version; /* strong; NULL before the first one; changes under reload */
    bool refreshes;          /* the rules may change: _refresh() is called for each request */
} policy_object;

/* Return the version in force, after a reload where one is due: a new reference, or NULL with an
 * exception set. */
version_object *policy_version(policy_object *policy);

/* The style of a FieldStyle. Borrowed. NULL with an exception set for another object. */
const rl_field_style *style_value(const core_state *state, PyObject *style);

/* The rules of RuleRoutes. Borrowed. */
const rl_routes *routes_value(PyObject *routes);

/* ---- verdict.c ------------------------------------------------------------------------------------ */

/* Verdict: what the limits of one rule decided about a request. It is made before the decision, so
 * that nothing can fail afterwards; immutable once it is in a record. */
typedef struct verdict_object {
    PyObject_VAR_HEAD version_object *version; /* strong; NULL: a decision without a rule */
    const policy_rule *rule;                   /* of the version, or NULL */
    PyObject *key;                             /* strong, or NULL */
    struct verdict_object *next;               /* strong; in the record, or NULL */
    double cost;
    PyObject *costs; /* strong; a tuple of floats, one for each limit; NULL: `cost` is for all */
    given_limits_object *given; /* strong; NULL: the limits are those of the rule */
    rl_decision decision;       /* of the tightest limit */
    rl_decision each[];         /* Py_SIZE of them */
} verdict_object;

/* Make a verdict of a rule, still without decisions, for `n` limits: those of the rule, or given
 * ones (not NULL). `costs` (may be NULL) is stolen, also on failure. NULL with an exception set. */
verdict_object *verdict_new(version_object *version, const policy_rule *rule, PyObject *key,
                            size_t n, given_limits_object *given, double cost, PyObject *costs);

/* Return limit i of a verdict of a rule, with its decision. */
rl_limit_state verdict_limit(const verdict_object *verdict, Py_ssize_t i);

/* Make a verdict without a rule. NULL with an exception set. */
verdict_object *verdict_of_decision(core_state *state, const rl_decision *decision);

/* Return true for a verdict that denies the request. */
bool verdict_is_denial(const verdict_object *verdict);

/* Return true for a shadow rule that would have denied: it is not shown. */
bool verdict_is_hidden(const verdict_object *verdict);

/* Return the style of its header fields, and whether it has any. */
const rl_field_style *verdict_style(const verdict_object *verdict);
bool verdict_has_fields(const verdict_object *verdict);

/* ---- record.c ------------------------------------------------------------------------------------- */

/* RateLimitRecord: the verdicts about one request, of all limits that it passes: a list that they
 * form themselves, so that adding one cannot fail. */
typedef struct record_object {
    PyObject_HEAD
    core_state *state;     /* borrowed from the type */
    verdict_object *first; /* strong; NULL: there is none */
    verdict_object *last;  /* borrowed from the list */
    size_t n;
    double spread;      /* of Retry-After, set once; below 0: not yet */
    bool has_sender;    /* something adds the header fields to the response */
    bool is_answered;   /* the response has begun */
    PyObject *status;   /* strong; of a WSGI response; NULL: it has not begun */
    PyObject *response; /* strong; its headers, a list */
} record_object;

/* Return the record of a request, made if there is none, or only that of an earlier request with the
 * same dict: a new reference, or NULL with an exception set. Once a websocket is accepted, each call
 * makes its own record. */
record_object *record_of_request(const request *request);

/* Add a verdict that no record has. */
void record_add(record_object *record, verdict_object *verdict);

/* Give back what the limits of a request took, since it does not pass, and drop their verdicts; all
 * but `denial`, which may be NULL. What the rule that denies took before stays taken: it let earlier
 * work of the request run, such as other items of a batch. Verdicts that only Python can settle
 * stay: those of remote stores, and those of rules from before a reload. */
void record_give_back(record_object *record, const verdict_object *denial);

/* Drop all verdicts but one, which may be NULL or none of the record's. */
void record_drop_others(record_object *record, const verdict_object *kept);

/* Return the tightest verdict, of those with fields or of all. Borrowed; NULL: there is none. */
const verdict_object *record_tightest(const record_object *record, bool with_fields);

/* ---- record_fields.c ------------------------------------------------------------------------------ */

/* The header fields of a record. */
#define RENDERED_FEW 768
typedef struct rendered {
    rl_field fields[RL_FIELD_COUNT]; /* their values are in `few` or `many` */
    size_t n;
    char *many; /* owned, or NULL */
    char few[RENDERED_FEW];
} rendered;

/* Write the fields of the tightest limit, none if no limit shows any. 0, or -1 with an exception
 * set; clear them in both cases. */
int record_render(record_object *record, rendered *out);
void rendered_clear(rendered *rendered);

/* Read the share of the jitter, the same for all fields of a response. 0, or -1 with an exception
 * set. */
int record_spread(record_object *record, const rl_field_style *style, double *out);

/* Return a list of the headers of a response, an iterable of pairs, NULL or None, with the fields behind them:
 * pairs of bytes for ASGI, of str for WSGI. Fields that the application has set stay, and are not
 * added; a response with its own limit keeps all its X-RateLimit fields.
 * Access-Control-Expose-Headers is a list that several lines may continue. A new reference, or NULL
 * with an exception set. */
PyObject *rendered_append(core_state *state, request_kind kind, PyObject *headers,
                          const rendered *rendered);

/* ---- tiers.c --------------------------------------------------------------------------------------- */

#define TIERS_MAX 32

/* The ranks of the tiers of a request, the highest first, each once. */
typedef struct tier_ranks {
    int ranks[TIERS_MAX];
    size_t n;
} tier_ranks;

/* Add what a source of tiers returned: a name, None or several. `known` has the rank of each tier
 * that a rule names; others do not count. 0, or -1 with an exception set. */
int tier_ranks_add(tier_ranks *tiers, PyObject *known, PyObject *value);

/* ---- check.c --------------------------------------------------------------------------------------- */

typedef enum check_status {
    CHECK_ERROR, /* an exception is set; verdicts of the record are still taken */
    CHECK_FREE,  /* the request has no limits */
    CHECK_ALLOWED,
    CHECK_DENIED,
    CHECK_AWAIT, /* `awaitable` must be awaited, and check_run called again */
} check_status;

/* The state of one check: on the stack, and on the heap while something is awaited. */
typedef struct check {
    version_object *version; /* strong */
    PyObject *scope;         /* strong */
    PyObject *subject;       /* strong; what the user's functions get */
    PyObject *path;          /* strong; NULL: that of the request */
    PyObject *method;        /* strong; NULL: that of the request */
    PyObject *found;         /* strong; a list that gets the rules and keys; NULL: decide */
    check_phase phase;
    size_t step; /* in a chain of sources */
    tier_ranks tiers;
    PyObject *own_key; /* strong; by the policy's sources; NULL: not read */
    uint32_t rules[RL_ROUTE_READINGS];
    size_t n_rules;
    size_t at;                  /* of these rules */
    PyObject *key;              /* strong */
    given_limits_object *given; /* strong; of a rule with limits_of; NULL: none were found */
    PyObject *cost;             /* strong; NULL: 1 */
    PyObject *awaitable;        /* strong; NULL: nothing is awaited */
    PyObject *awaited;          /* strong; what it returned */
    record_object *record;      /* strong; NULL: nothing was decided */
    verdict_object *verdict;    /* strong; the last one that was decided */
    verdict_object *pending;    /* strong; the one of the limits that decide now, or NULL */
    PyObject *send;   /* borrowed; of ASGI: the record needs a Sender; NULL: it does not */
    bool gives_back;  /* a denial is final: no subclass of a middleware may let it pass */
    PyObject *sender; /* strong; made before anything is taken, or NULL */
} check;

/* Begin a check; clear it at the end. Steals the version. */
void check_init(check *check, version_object *version, PyObject *scope, PyObject *subject);
void check_clear(check *check);

/* Decide about a request, or go on with `awaited`. */
check_status check_run(check *check);

/* Return the part of the check that is under way: ("cost", its ActiveRule or None). A new
 * reference, or NULL with an exception set. */
PyObject *check_place(check *check);

/* ---- check_object.c -------------------------------------------------------------------------------- */

/* Move a check that waits into a Check. NULL with an exception set. */
PyObject *check_object_new(core_state *state, check *check);

/* The check of a Check. NULL with an exception set. */
check *check_object_value(const core_state *state, PyObject *object);

/* ---- asgi_sender.c --------------------------------------------------------------------------------- */

/* Wrap the `send` of an ASGI request: the response gets the fields of a record. NULL with an
 * exception set. */
PyObject *asgi_sender_new(core_state *state, PyObject *send, record_object *record);

/* Return the `send` with which the response gets the fields of a record: one Sender for all limits of
 * a request. A new reference, or NULL with an exception set. */
PyObject *asgi_sender_of(core_state *state, record_object *record, PyObject *send);

/* ---- wsgi.c ---------------------------------------------------------------------------------------- */

/* Wrap the `start_response` of a WSGI request: the response gets the fields of its record, unless
 * another StartResponse adds them. A new reference, or NULL with an exception set. */
PyObject *wsgi_start_new(core_state *state, PyObject *environ, PyObject *start_response);

/* ---- asgi_args.c ----------------------------------------------------------------------------------- */

/* The arguments of an ASGI application. */
typedef struct asgi_args {
    PyObject *scope, *receive, *send; /* borrowed */
} asgi_args;

/* Read them from a call with so many arguments by position and by name. 0, or -1 with an exception
 * set. */
int asgi_read_args(PyObject *const *args, Py_ssize_t nargs, Py_ssize_t nkwargs, asgi_args *out);

/* Return 1 for a request or a websocket, 0, or -1 with an exception set. */
int asgi_is_request(const core_state *state, PyObject *scope);

/* Call an ASGI application. A new reference, or NULL with an exception set. */
PyObject *asgi_call_app(PyObject *app, const asgi_args *args, PyObject *send);

#endif
