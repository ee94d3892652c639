"""Install older versions of packages that the tests use in addition to the newer ones.

Each goes into a separate folder of the environment. tests/support/guides.py uses the version that
docs/migration describes, tests/project/test_differential.py the oldest FastAPI that the package
supports, with its Starlette.
"""

import subprocess
import sys
from pathlib import Path

PACKAGES = {
    "fastapi-limiter-0.1": ["fastapi-limiter==0.1.6"],
    "fastapi-0.116": ["fastapi==0.116.*", "starlette>=0.40.0,<0.49.0"],
}


def main() -> None:
    """Install all of them."""
    for folder, requirements in PACKAGES.items():
        target = Path(sys.prefix) / folder
        command = [sys.executable, "-m", "pip", "install", "-qq", "--no-deps", "--upgrade"]
        subprocess.run([*command, "--target", target, *requirements], check=True)


if __name__ == "__main__":
    main()
