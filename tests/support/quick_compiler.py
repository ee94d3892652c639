"""A C compiler that optimises nothing, for tests of how the package is built.

setup.py names its own level of optimisation, so the compiler has to leave it out.
"""

from __future__ import annotations

from pathlib import Path

COMPILER = """\
#!/bin/sh
for word; do
    shift
    case $word in -O* | -flto | -g | -D_FORTIFY_SOURCE=*) ;; *) set -- "$@" "$word" ;; esac
done
exec gcc -O0 "$@"
"""


def quick_compiler(folder: Path) -> dict[str, str]:
    """Write the compiler into a folder; return the variable that makes setup.py use it."""
    program = folder / "quick-gcc"
    program.write_text(COMPILER, encoding="utf-8")
    program.chmod(0o755)
    return {"CC": str(program)}
