"""Serve a demo: `python -m demo NAME [PORT]`. Without a name, list them.

What there is stands in demos.txt; how each is started and what to try, in its README.md.
"""

from __future__ import annotations

import os
import re
import shlex
import socket
import sys
from dataclasses import dataclass
from pathlib import Path

FOLDER = Path(__file__).resolve().parent


@dataclass(frozen=True)
class Demo:
    """One line of demos.txt."""

    name: str
    number: str
    port: int
    summary: str

    @property
    def readme(self) -> str:
        """Its README.md."""
        return (FOLDER / self.name / "README.md").read_text(encoding="utf-8")

    def commands(self, port: int | str) -> list[str]:
        """Return what stands under "By hand" of its README, on another port."""
        found = re.search(r"By hand.*?```console\n(.*?)```", self.readme, re.DOTALL)
        lines = re.findall(r"^\$ (.*)$", found[1] if found else "", re.MULTILINE)
        return [re.sub(rf"\b{self.port}\b", str(port), line) for line in lines]

    def to_try(self, port: int | str) -> list[str]:
        """Return the commands under "Try it" of its README, on another port."""
        found = re.search(r"## Try it\n(.*?)(?=\n## |\Z)", self.readme, re.DOTALL)
        lines = re.findall(r"^\$ (.*)$", found[1] if found else "", re.MULTILINE)
        return [line.replace(f":{self.port}", f":{port}") for line in lines]


def demos() -> list[Demo]:
    """Return the lines of demos.txt."""
    text = (FOLDER / "demos.txt").read_text(encoding="utf-8")
    rows = [line.split(maxsplit=3) for line in text.splitlines() if not line.startswith("#")]
    return [Demo(name, number, int(port), summary) for name, number, port, summary in rows]


def find(name: str) -> Demo:
    """Return the demo of a name or a number.

    Raises:
        SystemExit: there is none; the message names them all.
    """
    for demo in demos():
        if name in (demo.name, demo.number):
            return demo
    known = ", ".join(demo.name for demo in demos())
    raise SystemExit(f"there is no demo {name!r}: expected one of {known}")


def free_port(text: str, demo: Demo) -> int:
    """Return the port that a text names.

    Raises:
        SystemExit: it is no port, or somebody listens there.
    """
    if not text.isascii() or not text.isdigit() or not 0 < int(text) < 65536:
        raise SystemExit(f"PORT={text!r} is not a port: expected a number from 1 to 65535")
    port = int(text)
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind(("127.0.0.1", port))
        except OSError as error:
            other = port % 65535 + 1
            raise SystemExit(
                f"cannot serve on port {port} ({error.strerror}): "
                f"try  make demo DEMO={demo.name} PORT={other}"
            ) from None
    return port


def serve(demo: Demo, port: int) -> None:
    """Become the server of a demo."""
    print(f"\n{demo.name}: {demo.summary}. Try in another terminal:\n")
    print(*(f"  {line}" for line in demo.to_try(port)), sep="\n")
    print("\nIt runs with and without Redis, and says which; Ctrl-C stops it.\n", flush=True)
    # The programs of this interpreter's environment come first: uvicorn, and python itself.
    os.environ["PATH"] = f"{Path(sys.executable).parent}{os.pathsep}{os.environ.get('PATH', '')}"
    os.environ.setdefault("UVICORN_LIFESPAN", "on")  # an error there ends the start
    os.chdir(FOLDER.parent)
    os.execvp("env", ["env", *shlex.split(demo.commands(port)[0])])


def main(arguments: list[str]) -> None:
    """List the demos, or serve one."""
    if not arguments:
        for demo in demos():
            print(f"{demo.name:<12} {demo.number}  port {demo.port}  {demo.summary}")
        return
    demo = find(arguments[0])
    serve(demo, free_port(arguments[1] if arguments[1:] else str(demo.port), demo))


if __name__ == "__main__":
    main(sys.argv[1:])
