"""Send requests and print a line for each: `python demo/distributed/try_limiter.py`."""

import argparse
import urllib.error
import urllib.request


def main() -> None:
    """Print the response to each request."""
    parser = argparse.ArgumentParser(description="Send requests and print what they got.")
    parser.add_argument("--url", default="http://127.0.0.1:8000/")
    parser.add_argument("--requests", type=int, default=30)
    given = parser.parse_args()
    for number in range(1, given.requests + 1):
        try:
            answer = urllib.request.urlopen(given.url, timeout=5)
        except urllib.error.HTTPError as error:
            answer = error
        with answer:
            left = answer.headers.get("X-RateLimit-Remaining", "?")
            wait = answer.headers.get("Retry-After")
            after = f", retry after {wait} s" if wait else ""
            print(f"Request {number}: {answer.status} {answer.reason}, {left} left{after}")


if __name__ == "__main__":
    main()
