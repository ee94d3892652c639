"""Keep secrets out of what people read: reprs, errors, logs, metrics, the output of commands.

    redis://:password@host/0        is shown as  redis://***@host/0
    redis://host/0?password=secret  is shown as  redis://host/0?password=***

When an address is malformed, more is hidden rather than less.
"""

from __future__ import annotations

import re
from typing import Any

HIDDEN = "***"

_SCHEME = r"\b[A-Za-z][\w+.-]*:/{1,2}"  # a Path has one slash
# Up to the last '@': an unescaped '@' belongs to the password. Also where the scheme is mistyped.
_LOGIN = re.compile(rf"""({_SCHEME}).*@|[^\s'"=]*:[^\s'"]*@""")
# user:password, with the host forgotten: what follows the colon is no port.
_PORT = r"""\d{1,5}(?:[/?#,;:.)\]\s'"]|$)"""
_LOGIN_ALONE = re.compile(rf"""({_SCHEME})[^\s/?#'"@,\[:]*:(?!{_PORT})[^\s'"]*""")
# To the end of the address: an unescaped '&' belongs to the password.
_OPTION = re.compile(
    r"""([?&;](?:[\w.-]*(?:pass|pwd|secret|token|api[_-]?key|auth|cred|sig)[\w.-]*|key)=)[^\s'"]*""",
    re.IGNORECASE,
)


def redacted(text: str) -> str:
    """Return a text with the user names, passwords and tokens of its addresses hidden."""
    text = _OPTION.sub(rf"\1{HIDDEN}", text)  # first: an '@' in a value ends no login
    text = _LOGIN.sub(lambda found: f"{found[1] or ''}{HIDDEN}@", text)
    return _LOGIN_ALONE.sub(rf"\1{HIDDEN}", text)


def shown(value: object) -> str:
    """Return the repr of a value that somebody gave, for a message."""
    return redacted(repr(value))


class Hidden(str):
    """A str whose repr shows something else.

    Attributes:
        shown: what the repr shows.
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
    """Return what a dump shows of a value, or of the values in a list."""
    if isinstance(value, list):
        return [dumped(one) for one in value]
    return getattr(value, "shown", value)
