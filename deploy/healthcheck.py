"""Exit with 0 if a demo responds, else with an error: `python deploy/healthcheck.py [URL]`.

Any status below 500 is fine: a service without its Redis is degraded, but it responds.
"""

import os
import sys
import urllib.error
import urllib.request

PORT = os.environ.get("API_PORT") or os.environ.get("PORT") or "8000"
URL = sys.argv[1] if len(sys.argv) > 1 else f"http://127.0.0.1:{PORT}/health"

try:
    with urllib.request.urlopen(URL, timeout=3):
        pass
except urllib.error.HTTPError as error:
    if error.code >= 500:
        sys.exit(f"{URL} answers {error.code}")
except OSError as error:
    sys.exit(f"{URL} does not answer: {error}")
