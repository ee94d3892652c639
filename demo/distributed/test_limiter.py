"""Another name of try_limiter.py: `python demo/distributed/test_limiter.py`. Not a pytest test."""

import runpy
from pathlib import Path

if __name__ == "__main__":
    runpy.run_path(str(Path(__file__).with_name("try_limiter.py")), run_name="__main__")
