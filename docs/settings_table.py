"""Print the table of docs/settings.md from the code: `python docs/settings_table.py`."""

from __future__ import annotations

from pydantic import AliasChoices
from rate_limiter.settings import Settings


def table() -> str:
    """Return the table."""
    lines = ["| variable | meaning | default |", "| --- | --- | --- |"]
    for field in Settings.model_fields.values():
        alias = field.validation_alias
        names = alias.choices if isinstance(alias, AliasChoices) else [alias]
        default = field.default
        if isinstance(default, list):
            default = ",".join(default)
        shown = "" if default in (None, "") else f"`{default}`"
        variables = ", ".join(f"`{name}`" for name in names)
        lines.append(f"| {variables} | {field.description} | {shown} |")
    return "\n".join(lines)


if __name__ == "__main__":
    print(table())
