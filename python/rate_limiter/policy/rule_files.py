"""Rules from a file of JSON, TOML or YAML, checked by pydantic (the extra ``rules``).

    {
      "default": {"capacity": 20, "refill_rate": 5},
      "upload": {"path": "/files/{id}", "methods": ["POST"], "limits": "5/minute", "cost": 3}
    }

An object of rules by name. ``default`` applies to requests that no other rule matches. A rule
without conditions uses its name as the path: ``special_path``, like ``/special_path``, applies to
``/special_path`` and all paths below it. See docs/rules.md.
"""

from __future__ import annotations

import json
import os
import re
import stat
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal, cast

from rate_limiter.checks.extras import extra_named
from rate_limiter.checks.redaction import redacted
from rate_limiter.limit import Limit, as_limits, check_cost
from rate_limiter.policy.keys import Identities
from rate_limiter.policy.rules import Rule, RuleTable

with extra_named():
    from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, Strict, ValidationError

if TYPE_CHECKING:
    from rate_limiter.jwt import Jwt

DEFAULT = "default"
SUFFIXES = (".json", ".toml", ".yaml", ".yml")
_NAME = re.compile(r"[^\s{}\x00-\x1f]{1,100}")


class RulesError(ValueError):
    """Raised for invalid rules. The message has a line per mistake: place and expected value."""


class FileTable(RuleTable):
    """A RuleTable with the descriptions of its rules, which only readers need.

    Attributes:
        descriptions: by the names of the rules that have one.
    """

    def __init__(self, rules: Iterable[Rule], descriptions: Mapping[str, str]) -> None:
        super().__init__(rules)
        self.descriptions = dict(descriptions)


def _several(value: object) -> object:
    return [value] if isinstance(value, (str, int)) and not isinstance(value, bool) else value


# Text such as "20" or "yes" is a mistake, not a number or a bool.
Number = Annotated[float, Strict()]
Flag = Annotated[bool, Strict()]
Texts = Annotated[list[str], BeforeValidator(_several)]
Statuses = Annotated[
    list[Annotated[str, BeforeValidator(lambda one: str(one) if isinstance(one, int) else one)]],
    BeforeValidator(_several),
]


# Whether a Jwt is there is not known here, so its keys are accepted.
_WITH_TOKENS = Identities(jwt=cast("Jwt", object()))


_NOT_OF_DENIALS = (
    "capacity",
    "refill_rate",
    "limits",
    "tier",
    "cost",
    "key",
    "exempt",
    "on_store_error",
    "refund",
)


class RuleModel(BaseModel):
    """One rule in a file."""

    model_config = ConfigDict(extra="forbid", title="Rule")

    description: str | None = Field(default=None, description="For readers.")
    capacity: Number | None = Field(default=None, ge=0, description="Tokens of a bucket.")
    refill_rate: Number | None = Field(default=None, ge=0, description="Tokens per second.")
    limits: Texts | None = Field(
        None,
        description='Instead of both: "100/minute", "10/second; 1000/hour", '
        '"20/minute; window=sliding".',
    )
    path: Texts = Field([], description='Patterns: "/items/{id}", "/static/**".')
    methods: Texts = Field([], description='Such as ["POST"].')
    tier: Texts = Field([], description="Only clients in these tiers.")
    keys: Texts = Field(
        [],
        description='Only clients with these keys or in these networks: ["203.0.113.0/24"].',
    )
    cost: Number | None = Field(None, ge=0, allow_inf_nan=False, description="Tokens per request.")
    key: str | Annotated[list[str], Field(min_length=1)] | None = Field(
        None, description='Key of a request: "ip", "header:X-API-Key", "jwt:sub", a chain.'
    )
    exempt: Flag = Field(False, description="Do not limit.")
    deny: Flag = Field(False, description="Deny every request.")
    shadow: Flag = Field(False, description="Count but never deny.")
    on_store_error: Literal["memory", "allow", "deny", "raise"] | None = Field(
        None, description="How to decide while Redis is unavailable."
    )
    refund: Statuses = Field(
        [], description='Response statuses whose cost is given back: ["5xx", "404"].'
    )

    def rule(self, name: str) -> Rule:
        """Return the rule.

        Raises:
            ValueError: its fields contradict each other; the message begins with the field.
        """
        has_conditions = self.path or self.methods or self.tier or self.keys
        paths = tuple(self.path)
        if name != DEFAULT and not has_conditions:
            below = "/" + name.strip("/")
            paths = (below,) if below.endswith("**") else (below, f"{below.rstrip('/')}/**")
        limits = self._limits()
        try:
            check_cost(1 if self.cost is None else self.cost, limits)
        except ValueError as error:
            raise ValueError(f"cost: {error}") from None
        return Rule(
            name=name,
            limits=limits,
            paths=paths,
            methods=tuple(method.upper() for method in self.methods),
            tiers=tuple(self.tier),
            keys=tuple(self.keys),
            cost=self.cost,
            key=self._key(),
            exempt=self.exempt,
            shadow=self.shadow,
            on_store_error=self.on_store_error,
            refund=tuple(self.refund),
            deny=self.deny,
        )

    def _key(self) -> str | tuple[str, ...] | None:
        if self.key is None:
            return None
        key = self.key if isinstance(self.key, str) else tuple(self.key)
        try:
            _WITH_TOKENS.key(key)
        except (TypeError, ValueError) as error:
            raise ValueError(f"key: {error}") from None
        return key

    def _limits(self) -> tuple[Limit, ...]:
        pair = (self.capacity, self.refill_rate)
        if self.deny:
            for field in _NOT_OF_DENIALS:
                given = getattr(self, field)
                if given is not None and given is not False and given != []:
                    raise ValueError(f"deny: give either deny or {field}, not both")
            return ()
        if self.exempt:
            if self.limits is not None or pair != (None, None):
                raise ValueError("exempt: a rule that exempts has no limits")
            return ()
        if self.limits is not None:
            if pair != (None, None):
                raise ValueError("limits: give either limits, or capacity and refill_rate")
            try:
                return as_limits(self.limits)
            except ValueError as error:
                raise ValueError(f"limits: {error}") from None
        if self.capacity is None or self.refill_rate is None:
            missing = "capacity" if self.capacity is None else "refill_rate"
            other = "refill_rate" if self.capacity is None else "capacity"
            raise ValueError(
                f"{missing}: missing beside {other}"
                if pair != (None, None)
                else "limits: expected limits such as '100/minute', or capacity and refill_rate"
            )
        try:
            return (Limit(self.capacity, self.refill_rate),)
        except ValueError as error:
            raise ValueError(f"{str(error).partition(' ')[0]}: {error}") from None


def load_rules(path: str | Path) -> FileTable:
    """Return the rules in a file.

    Raises:
        RulesError: it cannot be read, or is invalid; the message names file, line and field, and
            what was expected.
    """
    text = read_text(path)
    return parse_rules(text, Path(path).suffix.lower() or ".json", redacted(str(path)))


def read_text(path: str | Path, *, may_be_pipe: bool = False) -> str:
    """Return the text of a file of rules.

    Raises:
        RulesError: it cannot be read; the message names the file.
    """
    name = redacted(str(path))  # it may be an address, by mistake
    try:
        return _read_bytes(path, may_be_pipe).decode("utf-8")
    except OSError as error:
        raise RulesError(f"{name}: {error.strerror or error}") from None
    except UnicodeDecodeError as error:
        raise RulesError(f"{name}: expected UTF-8: {error}") from None


def _read_bytes(path: str | Path, may_be_pipe: bool) -> bytes:
    # Without O_NONBLOCK, opening a named pipe would wait for a writer.
    fd = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
    with open(fd, "rb") as file:
        kind = os.fstat(fd).st_mode
        if not (stat.S_ISREG(kind) or (may_be_pipe and stat.S_ISFIFO(kind))):
            raise OSError("expected a regular file")
        os.set_blocking(fd, True)
        return file.read()


def parse_rules(text: str, suffix: str = ".json", source: str = "rules") -> FileTable:
    """Return the rules in a text.

    Args:
        text: the rules.
        suffix: the format, one of SUFFIXES.
        source: the name of the text in errors.

    Raises:
        RulesError: the text is invalid.
    """
    text = text.removeprefix("\ufeff")  # some editors begin a file with it
    data = _parsed(text, suffix, source)
    return check_rules(data, text, source)


def check_rules(data: object, text: str = "", source: str = "rules") -> FileTable:
    """Return the rules in `data`; line numbers in errors are those of `text`.

    Raises:
        RulesError: the rules are invalid; the message has a line for every mistake.
    """
    if not isinstance(data, Mapping):
        raise RulesError(f"{source}: expected an object of rules by name, got {_short(data)}")
    rules: list[Rule] = []
    descriptions: dict[str, str] = {}
    wrong: list[str] = []
    for name, value in data.items():
        if name == "$schema" and isinstance(value, str):
            continue
        if not isinstance(name, str) or not _NAME.fullmatch(name):
            wrong.append(f"{source}: rule {name!r}: expected a name without spaces or braces")
            continue
        try:
            model = RuleModel.model_validate(value)
            rules.append(model.rule(name))
            if model.description is not None:
                descriptions[name] = model.description
        except ValidationError as error:
            wrong += [_error_line(one, name, text, source) for one in error.errors()]
        except ValueError as error:
            field = str(error).partition(":")[0]
            wrong.append(f"{_place(text, source, name, field)}: rule {name!r}, {error}")
    if not wrong and not rules:
        wrong.append(f"{source}: expected at least one rule")
    if not wrong:
        try:
            return FileTable(rules, descriptions)
        except ValueError as error:
            wrong.append(f"{source}: {error}")
    raise RulesError("\n".join(wrong))


def as_data(table: RuleTable) -> dict[str, Any]:
    """Return rules as the data of a file."""
    plain: dict[str, Any] = {}
    descriptions = table.descriptions if isinstance(table, FileTable) else {}
    for rule in table.rules.values():
        model = RuleModel(
            description=descriptions.get(rule.name),
            limits=[str(limit) for limit in rule.limits] or None,
            path=list(rule.paths),
            methods=list(rule.methods),
            tier=list(rule.tiers),
            keys=list(rule.keys),
            cost=rule.cost,
            key=list(rule.key) if isinstance(rule.key, tuple) else rule.key,
            exempt=rule.exempt,
            deny=rule.deny,
            shadow=rule.shadow,
            on_store_error=rule.on_store_error,
            refund=list(rule.refund),
        )
        plain[rule.name] = model.model_dump(exclude_defaults=True)
    return plain


def json_schema() -> dict[str, Any]:
    """Return the JSON Schema of a rules file."""
    return {
        "$schema": "https://json-schema.org/draft/2020-12/schema",
        "title": "Rate limits",
        "type": "object",
        "properties": {"$schema": {"type": "string"}},
        "additionalProperties": RuleModel.model_json_schema(),
        "minProperties": 1,
    }


_YAML_MERGE = "tag:yaml.org,2002:merge"

# --- Texts ---------------------------------------------------------------------------------------


def _parsed(text: str, suffix: str, source: str) -> Any:
    if suffix == ".json":
        try:
            return json.loads(text, object_pairs_hook=_without_doubles)
        except json.JSONDecodeError as error:
            raise RulesError(
                f"{source}:{error.lineno}: column {error.colno}: {error.msg}"
            ) from None
        except (ValueError, RecursionError) as error:
            raise RulesError(f"{source}: {error}") from None
    if suffix == ".toml":
        return _parsed_toml(text, source)
    if suffix in (".yaml", ".yml"):
        return _parsed_yaml(text, source)
    raise RulesError(f"{source}: expected a file of {', '.join(SUFFIXES)}, got {suffix!r}")


def _without_doubles(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    _check_distinct(name for name, _ in pairs)
    return dict(pairs)


def _check_distinct(names: Iterable[str]) -> None:
    known: set[str] = set()
    for name in names:
        if name in known:
            raise ValueError(f"{name!r} is there twice")
        known.add(name)


def _parsed_toml(text: str, source: str) -> Any:
    try:
        import tomllib
    except ModuleNotFoundError:  # before Python 3.11
        with extra_named():
            import tomli as tomllib  # type: ignore[no-redef,import-not-found,unused-ignore]
    try:
        return tomllib.loads(text)
    except (tomllib.TOMLDecodeError, RecursionError) as error:
        raise RulesError(f"{source}: {error}") from None


def _parsed_yaml(text: str, source: str) -> Any:
    with extra_named():
        import yaml  # type: ignore[import-untyped,unused-ignore]

    class Loader(yaml.SafeLoader):  # type: ignore[misc,unused-ignore]
        """A loader that refuses duplicate keys; those merged by ``<<`` may be replaced."""

        def compose_mapping_node(self, anchor: Any) -> Any:
            node = super().compose_mapping_node(anchor)
            own = (key for key, _ in node.value if key.tag != _YAML_MERGE)
            _check_distinct(key.value for key in own if isinstance(key, yaml.ScalarNode))
            return node

    try:
        return yaml.load(text, Loader)
    except yaml.YAMLError as error:
        mark = getattr(error, "problem_mark", None)
        line = f":{mark.line + 1}" if mark is not None else ""
        problem = getattr(error, "problem", None) or str(error).partition("\n")[0]
        raise RulesError(f"{source}{line}: {problem}") from None
    except (ValueError, RecursionError) as error:
        raise RulesError(f"{source}: {error}") from None


# --- Errors --------------------------------------------------------------------------------------


def _error_line(error: Any, name: str, text: str, source: str) -> str:
    """Return the line of one of pydantic's errors."""
    field = str(error["loc"][0]) if error["loc"] else ""
    at = ".".join(map(str, error["loc"]))
    where = f"rule {name!r}, {at}" if at else f"rule {name!r}"
    if error["type"] == "extra_forbidden":
        known = ", ".join(RuleModel.model_fields)
        return f"{_place(text, source, name, field)}: {where}: unknown; known are {known}"
    message = error["msg"][0].lower() + error["msg"][1:]
    return f"{_place(text, source, name, field)}: {where}: {message}, got {_short(error['input'])}"


def _place(text: str, source: str, name: str, field: str) -> str:
    """Return the source and, if it can be found, the line of a field of a rule."""
    rule = _find(text, name, 0)
    if rule < 0:
        return source
    at = _find(text, field, rule + len(name)) if field else -1
    return f"{source}:{text.count(chr(10), 0, at if at >= 0 else rule) + 1}"


def _find(text: str, name: str, start: int) -> int:
    """Return the index of `name` as a key of JSON, YAML or TOML from `start` on, else -1."""
    escaped = re.escape(name)
    key = re.compile(rf"""(?m)["']{escaped}["']\s*[:=\]]|^\s*{escaped}\s*[:=]|^\s*\[{escaped}\]""")
    found = key.search(text, start)
    return found.start() + (len(found[0]) - len(found[0].lstrip())) if found else -1


def _short(value: object) -> str:
    text = repr(value)
    return text if len(text) <= 60 else text[:57] + "..."
