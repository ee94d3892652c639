"""try_limiter.py by another name: `python demo/distributed/test_limiter.py`. No test for pytest."""

import runpy
from pathlib import Path

if __name__ == "__main__":
    runpy.run_path(str(Path(__file__).with_name("try_limiter.py")), run_name="__main__")
