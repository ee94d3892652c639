"""Bodies of denied responses: JSON, problem details (RFC 9457) or a template."""

from __future__ import annotations

import json
import math
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, TypeAlias

from rate_limiter._core import Decision, Verdict
from rate_limiter.limit import Limit
from rate_limiter.policy.active_rules import ActiveRule, DenyingRule
from rate_limiter.policy.headers import DENIED_DETAIL, reset_at_s
from rate_limiter.policy.settling import record_of

QUOTA_EXCEEDED = "https://iana.org/assignments/http-problem-types#quota-exceeded"
"""The problem type of draft-ietf-httpapi-ratelimit-headers."""

Template: TypeAlias = "str | Mapping[str, Any]"

_FIELD = re.compile(r"\{(\w+)\}")
FIELDS = (
    "detail",
    "key",
    "limit",
    "remaining",
    "reset_after",
    "reset_at",
    "retry_after",
    "rule",
    "window",
)


@dataclass(frozen=True)
class Denial:
    """A denied request: the rule and limit that denied it, its key and the decision.

    Attributes:
        limit: None for a rule that denies every request.
    """

    rule: str
    limit: Limit | None
    key: str | bytes
    decision: Decision
    retry_after_s: int | None
    violated: tuple[str, ...] = ()

    def fields(self) -> dict[str, Any]:
        """Return the fields of templates. Times are whole seconds, None for never."""
        decision = self.decision
        limit = self.limit
        never_full = limit is None or math.isinf(decision.reset_after)
        period_s = math.inf if limit is None else limit.period_s
        return {
            "detail": DENIED_DETAIL,
            "key": self.key if isinstance(self.key, str) else self.key.decode("utf-8", "replace"),
            "limit": math.floor(decision.limit),
            "remaining": math.floor(decision.remaining),
            "reset_after": None if never_full else math.ceil(decision.reset_after),
            "reset_at": None if limit is None or never_full else reset_at_s(decision, limit),
            "retry_after": self.retry_after_s,
            "rule": self.rule,
            "window": None if math.isinf(period_s) else math.ceil(period_s),
        }


def denial_of(request: Any, verdict: Verdict) -> Denial:
    """Return the values that the body of a denied response is made of."""
    record = record_of(request)
    retry_after_s = None if record is None else record._retry_after_s()
    active: ActiveRule | DenyingRule = verdict.active
    named = active.named(verdict.given)
    each = [(*pair, one) for pair, one in zip(named, verdict.decisions, strict=True)]
    decision = verdict.decision
    tightest = [limit for _, limit, one in each if one == decision]
    limit = next(iter(tightest or [one for _, one in named]), None)
    violated = tuple(name for name, _, one in each if not one.allowed)
    return Denial(active.rule.name, limit, verdict.key, decision, retry_after_s, violated)


@dataclass(frozen=True)
class Answer:
    """A response: status, type and body."""

    status: int
    media_type: str
    body: bytes


DenialRenderer: TypeAlias = Callable[[Denial], Answer]


def denial_renderer(denied: Template | None) -> DenialRenderer:
    """Return the function that renders the body of a denied response.

    Args:
        denied: None or ``"json"`` for ``{"detail": ...}``; ``"problem"`` for problem+json; a
            mapping for JSON, or another text for plain text, in which ``{limit}`` and the other
            fields are filled in. A text that consists of one field keeps the field's type.

    Raises:
        TypeError, ValueError: `denied` is something else, or names an unknown field.
    """
    if denied is None or denied == "json":
        return lambda denial: _json(429, {"detail": DENIED_DETAIL})
    if denied == "problem":
        return _problem
    if isinstance(denied, Mapping):
        _check(denied)
        return lambda denial: _json(429, _filled(denied, denial.fields()))
    if isinstance(denied, str):
        text = denied
        _check(text)
        return lambda denial: Answer(
            429,
            "text/plain; charset=utf-8",
            str(_filled(text, denial.fields())).encode(),
        )
    raise TypeError(
        f"denied must be 'json', 'problem', a template (dict or str) or a callable, got {denied!r}"
    )


def _problem(denial: Denial) -> Answer:
    fields = denial.fields()
    body = {
        "type": QUOTA_EXCEEDED,
        "title": "Request cannot be satisfied as assigned quota has been exceeded",
        "status": 429,
        "detail": DENIED_DETAIL,
        "violated-policies": list(denial.violated),
        "retry_after": fields["retry_after"],
    }
    return Answer(429, "application/problem+json", json.dumps(body).encode())


def _json(status: int, body: object) -> Answer:
    return Answer(status, "application/json", json.dumps(body).encode())


def _filled(template: Any, fields: Mapping[str, Any]) -> Any:
    if isinstance(template, str):
        alone = _FIELD.fullmatch(template)
        if alone:
            return fields[alone[1]]
        return _FIELD.sub(lambda found: str(fields[found[1]]), template)
    if isinstance(template, Mapping):
        return {name: _filled(value, fields) for name, value in template.items()}
    if isinstance(template, (list, tuple)):
        return [_filled(one, fields) for one in template]
    return template


def _check(template: Any) -> None:
    if isinstance(template, str):
        for name in _FIELD.findall(template):
            if name not in FIELDS:
                raise ValueError(
                    f"denied: there is no field {{{name}}}; known are {', '.join(FIELDS)}"
                )
    elif isinstance(template, Mapping):
        for value in template.values():
            _check(value)
    elif isinstance(template, (list, tuple)):
        for value in template:
            _check(value)
    elif template is not None and not isinstance(template, (bool, int, float)):
        raise TypeError(f"denied: a template is made of texts, numbers and lists, got {template!r}")
