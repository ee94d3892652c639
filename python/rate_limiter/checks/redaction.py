"""Hide secrets in reprs, errors, logs, metrics and the output of commands.

    redis://:password@host/0        is shown as  redis://***@host/0
    redis://host/0?password=secret  is shown as  redis://host/0?password=***

In a malformed address, too much is hidden rather than too little.
"""

from __future__ import annotations

import re
from typing import Any

HIDDEN = "***"

# All patterns take linear time: a text may be long, and from anyone.
_SCHEME = re.compile(r"\b[A-Za-z][\w+.-]{0,30}:/{1,2}")  # a Path has one slash
_WORD = re.compile(r"""[^\s'"]+""")
# user:password without a host: the text after the colon is no port.
_LOGIN_ALONE = re.compile(
    rf"""({_SCHEME.pattern})[^\s/?#'"@,\[:]*:(?!\d{{1,5}}(?:[/?#,;:.)\]\s'"]|$))[^\s'"]*"""
)
# Up to the end of the address: an unescaped '&' belongs to the password.
_OPTION = re.compile(
    r"""([?&;](?:[\w.-]{0,40}(?:pass|pwd|secret|token|api[_-]?key|auth|cred|sig)[\w.-]{0,40}|key)=)"""
    r"""[^\s'"]*""",
    re.IGNORECASE,
)


def redacted(text: str) -> str:
    """Return a text with the user names, passwords and tokens of its addresses hidden."""
    return "\n".join(map(_redacted_line, text.split("\n")))


def _redacted_line(line: str) -> str:
    line = _OPTION.sub(rf"\1{HIDDEN}", line)  # first, because an '@' in a value ends no login
    scheme, at = _SCHEME.search(line), line.rfind("@")
    if scheme is None or scheme.end() > at:
        line = _without_logins(line)
    else:  # up to the last '@': an unescaped one belongs to the password
        before = _without_logins(line[: scheme.start()])
        line = f"{before}{scheme[0]}{HIDDEN}{line[at:]}"
    return _LOGIN_ALONE.sub(rf"\1{HIDDEN}", line)


def _without_logins(text: str) -> str:
    """Hide the logins of addresses whose scheme is missing or mistyped."""

    def hide(word: re.Match[str]) -> str:
        login, at, place = word[0].rpartition("@")
        return f"{HIDDEN}@{place}" if at and ":" in login else word[0]

    return _WORD.sub(hide, text)


def shown(value: object) -> str:
    """Return the repr of a value, without secrets, for a message."""
    return redacted(repr(value))


class Hidden(str):
    """A str whose repr shows another text.

    Attributes:
        shown: the text in the repr.
    """

    shown: str

    def __new__(cls, text: str, shown: str = HIDDEN) -> Hidden:
        """See the class."""
        made = super().__new__(cls, text)
        made.shown = shown
        return made

    def __repr__(self) -> str:
        return repr(self.shown)


def hidden_address(text: str) -> Hidden:
    """Return an address whose repr shows it without its secrets."""
    return Hidden(text, redacted(text))


def dumped(value: Any) -> Any:
    """Return a value, or the values of a list, as dumps show them."""
    if isinstance(value, list):
        return [dumped(one) for one in value]
    return getattr(value, "shown", value)
