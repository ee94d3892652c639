"""Requests as bytes, each with a few parts spelled in another way than a client is meant to.

A case is made of nothing but a seed and its number, so each can be sent again.
"""

from __future__ import annotations

import base64
import random
from collections.abc import Callable
from dataclasses import dataclass

from support.differential_routes import API_KEY, COOKIE, TARGETS

Random = random.Random
Spelling = Callable[[Random, str], str]

MOST = 999_999  # that a request costs: so much that no two buckets have lost the same
IDENTITIES = ("alice", "bob-17", "c4r01")
ADDRESSES = ("203.0.113.7", "198.51.100.23", "2001:db8:1:2::7")


@dataclass
class Case:
    """A request."""

    app: str
    number: int | None  # None: spelled as it is meant to be
    method: str
    target: str
    headers: list[tuple[str, str]]
    cost: int
    version: str = "HTTP/1.1"
    websocket: bool = False

    def bytes(self) -> bytes:
        """Return the request as it is sent; texts are Latin-1, and so may hold any byte."""
        fixed = [("X-App", self.app), ("X-Cost", str(self.cost))]
        if not any(name.lower() == "host" for name, _ in self.headers):
            fixed.append(("Host", "localhost"))
        fixed.append(("Content-Length", "0"))
        if self.websocket:
            fixed[-1:] = WEBSOCKET
        lines = [f"{self.method} {self.target} {self.version}"]
        lines += [f"{name}: {value}" for name, value in fixed]
        lines += [f"{name}:{value}" for name, value in self.headers]
        return ("\r\n".join(lines) + "\r\n\r\n").encode("latin-1")


WEBSOCKET = [
    ("Connection", "Upgrade"),
    ("Upgrade", "websocket"),
    ("Sec-WebSocket-Version", "13"),
    ("Sec-WebSocket-Key", "dGhlIHNhbXBsZSBub25jZQ=="),
]


def source_of(app: str) -> str:
    """Return what an application's limiter counts by."""
    return app.split()[-1]


# --- Requests as they are meant to be ------------------------------------------------------------


def identities_of(source: str) -> tuple[str, ...]:
    """Return whom plain requests are from."""
    return ADDRESSES if source in ("forwarded-for", "forwarded") else IDENTITIES


def identity_headers(source: str, who: str) -> list[tuple[str, str]]:
    """Return the headers that say whom a request is from."""
    if source == "cookie":
        return [("Cookie", f" {COOKIE}={who}")]
    if source == "api-key":
        return [(API_KEY, f" {who}")]
    if source == "authorization":
        token = _basic(who) if who.startswith("c") else f"Bearer {who}"
        return [("Authorization", f" {token}")]
    if source == "forwarded-for":
        return [("X-Forwarded-For", f" {who}")]
    return [("Forwarded", f' for="[{who}]"' if ":" in who else f" for={who}")]


def _basic(user: str) -> str:
    return "Basic " + base64.b64encode(f"{user}:secret??>".encode()).decode()


def plain_case(random: Random, app: str, who: str | None, method: str, target: str) -> Case:
    """Return a request that is spelled as it is meant to be."""
    prefix = "/v1" if "mounted" in app else ""
    headers = identity_headers(source_of(app), who) if who is not None else []
    return Case(app, None, method, prefix + target, headers, random.randint(1, MOST))


def plain_cases(random: Random, app: str) -> list[Case]:
    """Return a request for each route from each client, and one that does not say from whom."""
    return [
        plain_case(random, app, who, method, target)
        for who in (None, *identities_of(source_of(app)))
        for method, target in TARGETS
    ]


# --- Mutated requests ----------------------------------------------------------------------------


def mutated_case(seed: str, number: int, apps: list[str]) -> Case:
    """Return a request with one to three parts spelled in another way."""
    random = Random(f"{seed}/{number}")
    app = random.choice(apps)
    source = source_of(app)
    who = random.choice(identities_of(source))
    case = plain_case(random, app, who, *random.choice(TARGETS))
    case.number = number
    is_asgi = not app.startswith("flask")
    if is_asgi and "depends" not in app and random.random() < 0.06:
        case.websocket, case.method = True, "GET"
        case.target = case.target[: 3 * ("mounted" in app)] + random.choice(["/ws", "/other"])
        case.target = respelled_path(random, case.target, WEBSOCKET_PATHS)
        return case
    parts = random.choices(["target", "method", "identity", "other"], [5, 2, 6, 2], k=3)
    for part in dict.fromkeys(parts[: random.randint(1, 3)]):
        if part == "target":
            case.target = respelled_path(random, case.target, PATHS)
        elif part == "method":
            case.method = random.choice(METHODS)(random, case.method)
        elif part == "identity":
            case.headers = respelled_identity(random, source, who)
        else:
            random.choice(OTHERS)(random, case)
    return case


def _at(random: Random, text: str) -> int:
    return random.randrange(len(text)) if text else 0


def _insert(random: Random, text: str, what: str) -> str:
    at = random.randint(0, len(text))
    return text[:at] + what + text[at:]


# --- Paths ---


def respelled_path(random: Random, path: str, spellings: list[Spelling]) -> str:
    for _ in range(random.choice([1, 1, 1, 2, 3])):
        path = random.choice(spellings)(random, path)
    return path


def _percent(random: Random, path: str) -> str:
    at = _at(random, path)
    code = random.choice(["%{:02x}", "%{:02X}", "%25{:02x}"]).format(ord(path[at]) & 0xFF)
    return path[:at] + code + path[at + 1 :]


def _slash(random: Random, path: str) -> str:
    at = random.choice([at for at, char in enumerate(path) if char == "/"] or [0])
    put = random.choice(["/", "//", "/./", "%2F", "%2f", "/%2e/", "/x/../", "\\", "%5c", "/;/"])
    return path[:at] + put + path[at + (random.random() < 0.5) :]


ENDINGS = [
    *("%0A", "%0a", "%00", "%0D", "%0D%0A", "%0A%0A", "%20", "%09", "%85", "%E2%80%A8", "%1c"),
    *("/", "//", "/.", "/..", "/%2e", "/%2F", "%2F", "%2F%0A", "/%0A", ".", ";", ";a=b"),
    *("?", "?a=b", "?/x", "#", "#x", "%23", "%3F", "%3f/", "\xe9", "%C3%A9", "%FF", "%"),
]

_WHOLE: list[Spelling] = [
    lambda _, path: "http://localhost" + path,
    lambda _, path: "https://other.example:80" + path,
    lambda _, path: "//other.example" + path,
    lambda _, path: "HTTP://localhost" + path,
    lambda _, path: path.lstrip("/"),
    lambda _, path: "*",
]

WEBSOCKET_PATHS: list[Spelling] = [
    lambda random, path: path + random.choice(ENDINGS),
    lambda random, path: path[0] + _percent(random, path[1:]),
    lambda random, path: path + "/",
    lambda random, path: path + "%0A",
]

PATHS: list[Spelling] = [
    *[lambda random, path: path + random.choice(ENDINGS)] * 4,
    _percent,
    _slash,
    _slash,
    lambda random, path: random.choice(["/", "/.", "/x/..", "/%2e", "\\"]) + path,
    lambda random, path: _insert(random, path, random.choice(ENDINGS)),
    lambda random, path: random.choice([path.upper(), path.title(), path.swapcase()]),
    lambda random, path: random.choice(_WHOLE)(random, path),
]

# --- Methods ---

METHODS: list[Spelling] = [
    lambda _, method: method.lower(),
    lambda _, method: method.lower(),
    lambda _, method: method.title(),
    lambda _, method: method[:-1] + method[-1].lower(),
    lambda random, method: random.choice(["HEAD", "OPTIONS", "PUT", "DELETE", "QUERY", "head"]),
    lambda random, method: {"GET": "POST", "POST": "GET"}.get(method, "GET"),
    lambda random, method: random.choice(["PO ST", "WEBSOCKET", "X-POST", "P\xd6ST"]),
]

# --- Identities ---


def respelled_identity(random: Random, source: str, who: str) -> list[tuple[str, str]]:
    headers = {
        "cookie": _cookie_headers,
        "api-key": _api_key_headers,
        "authorization": _authorization_headers,
        "forwarded-for": _forwarded_for_headers,
        "forwarded": _forwarded_headers,
    }[source](random, who)
    if random.random() < 0.25:
        headers = [(_name(random, name), value) for name, value in headers]
    return headers


def _name(random: Random, name: str) -> str:
    spelled = [name.lower(), name.upper(), name.swapcase(), name.replace("-", "_"), name + " "]
    return random.choice(spelled)


def _someone(random: Random) -> str:
    return random.choice([*IDENTITIES, f"new-{random.randrange(10**6)}"])


def _blanks(random: Random) -> str:
    return random.choice(["", " ", "  ", "\t", " \t ", "\xa0", "\x85", "\x0b", "\x0c", "\r\n "])


def _escaped(random: Random, value: str) -> str:
    """Return a cookie's value in quotes, some of its characters as escapes."""
    made = []
    for char in value:
        way = random.random()
        if way < 0.3:
            made.append(f"\\{ord(char):03o}")
        elif way < 0.4:
            made.append("\\" + char)
        else:
            made.append(char)
    return '"' + "".join(made) + '"'


def _cookie_value(random: Random, who: str) -> str:
    return random.choice(
        [
            who,
            f'"{who}"',
            _escaped(random, who),
            _escaped(random, who),
            _escaped(random, who)[1:-1],
            f'"{who}',
            "%" + who.encode().hex("%"),
            who + random.choice(["\xff", "\xfe", "\xc3\xa9", "\xa0", '\\"', ",", " x", '"']),
        ]
    )


def _cookie_headers(random: Random, who: str) -> list[tuple[str, str]]:
    def pair(value: str) -> str:
        name = random.choice([COOKIE] * 6 + [COOKIE.upper(), f'"{COOKIE}"', "$" + COOKIE, ""])
        blanks = [_blanks(random) if random.random() < 0.2 else "" for _ in range(4)]
        return f"{blanks[0]}{name}{blanks[1]}={blanks[2]}{value}{blanks[3]}"

    pairs = [pair(_cookie_value(random, who))]
    if random.random() < 0.35:
        pairs.append(pair(_cookie_value(random, random.choice([who, _someone(random), ""]))))
    for _ in range(random.choice([0, 0, 1, 2])):
        other = ["a=b", "lang=\xe9", "", COOKIE, f"{COOKIE}2=x", "=x", '$Version="1"', "a=b=c"]
        pairs.insert(random.randint(0, len(pairs)), random.choice(other))
    if random.random() < 0.25:
        return [("Cookie", " " + one) for one in pairs]
    return [("Cookie", " " + random.choice(["; ", ";", ";;", " ; ", ",", ", "]).join(pairs))]


def _api_key_headers(random: Random, who: str) -> list[tuple[str, str]]:
    values = [
        _blanks(random) + who + _blanks(random),
        random.choice([f'"{who}"', who + ",", f"{who}, {who}", who.upper(), who + "\xff", who]),
    ]
    found = [(API_KEY, random.choice(values))]
    if random.random() < 0.3:
        again = random.choice([who, _someone(random), ""])
        found.insert(random.randint(0, 1), (_name(random, API_KEY), " " + again))
    return found


def _authorization_headers(random: Random, who: str) -> list[tuple[str, str]]:
    blank = random.choice([" ", "  ", "   ", "\t", " \t", "\t ", " \xa0"])
    scheme = random.choice(["Bearer", "bearer", "BEARER", "bEaReR", "Bearer:", "Token"])
    token = who
    if who.startswith("c"):
        scheme = random.choice(["Basic", "basic", "BASIC", "Basic", "baSic"])
        token = _basic_token(random, _basic(who).split()[1])
    value = _blanks(random) + scheme + blank + token + _blanks(random)
    found = [("Authorization", value)]
    if random.random() < 0.2:
        again = random.choice([who, _someone(random)])
        found.insert(random.randint(0, 1), ("Authorization", f" Bearer {again}"))
    return found


def _basic_token(random: Random, token: str) -> str:
    return random.choice(
        [
            token,
            token.rstrip("="),
            token + "=",
            token + "====",
            token + "=AA",
            _insert(random, token, random.choice(["!", "-", ".", "\x0c", "\xe9", "*~"])),
            _insert(random, token, " "),
            token.replace("+", "-").replace("/", "_"),
            token.rstrip("=")[:-1] + random.choice("ghij") + "==",
        ]
    )


def _address(random: Random, address: str) -> str:
    if ":" in address:
        words = ["2001:db8:1:2::7", "2001:DB8:1:2::7", "2001:0db8:0001:0002:0:0:0:7"]
        words += ["2001:db8:1:2:ffff::", "2001:db8:1:2::7%eth0"]
        word = random.choice(words)
        return random.choice([word, f"[{word}]", f"[{word}]:80", f"[{word}"])
    spelled = [address, f"{address}:80", f"::ffff:{address}", f"[::ffff:{address}]:443"]
    spelled += [f"[{address}]", f"{address}:", f"0{address}", f"{address}.", f"::FFFF:{address}"]
    return random.choice(spelled)


def _hops(random: Random, who: str) -> list[str]:
    """Return addresses as proxies add them: invented ones, the client, and proxies."""
    invented = ["6.6.6.6", "unknown", "", "_hidden", "127.0.0.1", "10.0.0.1", "x" * 70, "\xe9"]
    proxies = ["10.1.2.3", "127.0.0.9", "[2001:db8:ffff::1]:80", "::ffff:10.0.0.1", "10.0.0.1:x"]
    before = random.choices(invented, k=random.choice([0, 0, 1, 2]))
    after = random.choices(proxies, [4, 4, 4, 4, 1], k=random.choice([0, 0, 1, 2]))
    return [*before, _address(random, who), *after]


def _lines(random: Random, name: str, elements: list[str]) -> list[tuple[str, str]]:
    if random.random() < 0.25:
        return [(name, " " + one) for one in elements]
    return [(name, random.choice([", ", ",", " , ", "\t,\t", ",,", ";"]).join(elements))]


def _forwarded_for_headers(random: Random, who: str) -> list[tuple[str, str]]:
    hops = [_blanks(random) + hop for hop in _hops(random, who)]
    if random.random() < 0.2:
        hops[-1] = f'"{hops[-1]}"'
    return _lines(random, "X-Forwarded-For", hops)


def _forwarded_headers(random: Random, who: str) -> list[tuple[str, str]]:
    elements = []
    for hop in _hops(random, who):
        quoted = f'"{hop}"' if ":" in hop or random.random() < 0.5 else hop
        pairs = [random.choice(["for", "For", "FOR", "for "]) + "=" + quoted]
        if random.random() < 0.4:
            other = ["proto=http", 'by="[::1]"', 'host="a,b;c"', "x", "for=9.9.9.9", 'a="\\""']
            pairs.insert(random.randint(0, 1), random.choice(other))
        elements.append(random.choice([";", "; ", " ;"]).join(pairs))
    return _lines(random, "Forwarded", elements)


# --- All the rest ---


def _host(random: Random, case: Case) -> None:
    names = ["", " other.example", " LOCALHOST:80", " [::1]:8000", " a/b", " a@b", " \xe9", " a b"]
    case.headers.append(("Host", random.choice(names)))


def _header(random: Random, case: Case) -> None:
    others = [
        ("X-HTTP-Method-Override", " POST"),
        ("X-Original-URL", " /health"),
        ("X-Rewrite-URL", " /health"),
        ("X-Forwarded-Prefix", " /v1"),
        ("Script-Name", " /health"),
        ("SCRIPT_NAME", " /health"),
        ("PATH_INFO", " /health"),
        ("X-Forwarded-Host", " other.example"),
        ("X-Forwarded-For", " 203.0.113.99"),
        ("Forwarded", " for=203.0.113.99"),
        ("X-Real-IP", " 203.0.113.99"),
        ("X-Long", " " + "a" * 3000),
        ("Origin", " https://other.example"),
        ("Access-Control-Request-Method", " POST"),
        ("\xe9", " x"),
    ]
    case.headers.insert(random.randint(0, len(case.headers)), random.choice(others))


def _version(random: Random, case: Case) -> None:
    case.version = random.choice(["HTTP/1.0", "HTTP/1.1", "http/1.1", "HTTP/1.2"])


def _no_identity(random: Random, case: Case) -> None:
    case.headers = []


OTHERS: list[Callable[[Random, Case], None]] = [_host, _header, _header, _version, _no_identity]
