"""Install the older versions of packages that docs/migration tells of beside the newer ones.

They go into folders of their own in the environment that runs this; tests/guides.py finds them
there.
"""

import subprocess
import sys
from pathlib import Path

PACKAGES = {"fastapi-limiter-0.1": "fastapi-limiter==0.1.6"}


def main() -> None:
    """Install all of them."""
    for folder, requirement in PACKAGES.items():
        target = Path(sys.prefix) / folder
        command = [sys.executable, "-m", "pip", "install", "-qq", "--no-deps", "--upgrade"]
        subprocess.run([*command, "--target", target, requirement], check=True)


if __name__ == "__main__":
    main()
