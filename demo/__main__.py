"""Serve a demo: `python -m demo NAME [PORT]`. Without a name, list them.

demos.txt lists the demos. The README.md of each shows how to start and try it.
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
        """The text of its README.md."""
        return (FOLDER / self.name / "README.md").read_text(encoding="utf-8")

    def commands(self, port: int | str) -> list[str]:
        """Return the commands under "By hand" of its README, with another port."""
        found = re.search(r"By hand.*?```console\n(.*?)```", self.readme, re.DOTALL)
        lines = re.findall(r"^\$ (.*)$", found[1] if found else "", re.MULTILINE)
        return [re.sub(rf"\b{self.port}\b", str(port), line) for line in lines]

    def to_try(self, port: int | str) -> list[str]:
        """Return the commands under "Try it" of its README, with another port, for any folder."""
        found = re.search(r"## Try it\n(.*?)(?=\n## |\Z)", self.readme, re.DOTALL)
        lines = re.findall(r"^\$ (.*)$", found[1] if found else "", re.MULTILINE)
        here = f"{shlex.quote(sys.executable)} {shlex.quote(str(FOLDER))}/"
        return [
            line.replace(f":{self.port}", f":{port}").replace("python demo/", here, 1)
            for line in lines
        ]


def demos() -> list[Demo]:
    """Return the lines of demos.txt."""
    text = (FOLDER / "demos.txt").read_text(encoding="utf-8")
    rows = [line.split(maxsplit=3) for line in text.splitlines() if not line.startswith("#")]
    return [Demo(name, number, int(port), summary) for name, number, port, summary in rows]


def find(name: str) -> Demo:
    """Return the demo of a name or a number.

    Raises:
        SystemExit: it is unknown; the message lists all demos.
    """
    for demo in demos():
        if name in (demo.name, demo.number):
            return demo
    known = ", ".join(demo.name for demo in demos())
    raise SystemExit(f"there is no demo {name!r}: expected one of {known}")


def free_port(text: str, demo: Demo) -> int:
    """Return the port in a text.

    Raises:
        SystemExit: it is not a port, or it is in use.
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
    """Replace this process by the server of a demo."""
    print(f"\n{demo.name}: {demo.summary}. Try in another terminal:\n")
    print(*(f"  {line}" for line in demo.to_try(port)), sep="\n")
    print("\nIt runs with and without Redis, and says which; Ctrl-C stops it.\n", flush=True)
    # Use the programs of this interpreter's environment: uvicorn and python.
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
