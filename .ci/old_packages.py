"""Install the older versions of packages that docs/migration tells of beside the newer ones.

They go into folders of their own in the environment that runs this, by default, or in that of the
interpreter which is named: tests/test_guides.py finds them there.
"""

import subprocess
import sys
from pathlib import Path

PACKAGES = {"fastapi-limiter-0.1": "fastapi-limiter==0.1.6"}


def main(program: str = sys.executable) -> None:
    """Install all of them for the interpreter `program`."""
    for folder, requirement in PACKAGES.items():
        target = Path(program).parent.parent / folder
        command = [sys.executable, "-m", "pip", "install", "-qq", "--no-deps", "--upgrade"]
        subprocess.run([*command, "--target", target, requirement], check=True)


if __name__ == "__main__":
    main(*sys.argv[1:])
