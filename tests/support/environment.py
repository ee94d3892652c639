"""What tests may rely on, wherever they run: the variables and the signals of a bare machine."""

from __future__ import annotations

import os
import re
import signal

# Where things are; how the package is built; sanitizers; how the tests themselves run. All else
# would reach the programs that tests start: the address of a Redis, a proxy, a language.
KEPT = re.compile(
    r"PATH|HOME|TMPDIR|TZ|"
    r"CC|(C|CPP|LD)FLAGS|PKG_CONFIG.*|RATE_LIMITER_WERROR|"
    r"(LD|DYLD)_.*|[A-Z]+SAN_OPTIONS|PYTHONMALLOC|"
    r"PYTEST_.*|HYPOTHESIS_PROFILE|RATE_LIMITER_TEST_SERVER|SERVICE_URL"
)


def forget_other_variables() -> None:
    """Leave the variables in KEPT alone in this process, and in all that it starts."""
    for name in [*os.environ]:
        if not KEPT.fullmatch(name):
            del os.environ[name]


def catch_ignored_signals() -> None:
    """Give the programs that tests start the default action of every signal.

    ``nohup`` and background jobs of a script ignore SIGHUP and SIGINT, and programs inherit ignored
    signals. Caught signals are reset for them, so this process catches both and does nothing.
    """
    # Python itself ignores these two, and resets them for what it starts.
    by_python = {signal.SIGPIPE, getattr(signal, "SIGXFSZ", None)}
    for number in signal.valid_signals() - by_python:
        if signal.getsignal(number) is signal.SIG_IGN:
            signal.signal(number, lambda *_: None)
