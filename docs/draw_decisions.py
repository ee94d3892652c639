"""Draw the images of docs/how-it-decides.md and architecture.md: requests, a bucket, the layers.

    python docs/draw_decisions.py

The points of the charts are what the engine says at the times of a ManualClock.
"""

from __future__ import annotations

from typing import NamedTuple

from rate_limiter import ManualClock, RateLimiter
from svg import BLUE, GREEN, GREY, IMAGES, INK, ORANGE, RED, Chart, Drawing

LIMIT = "60/minute; burst=10"
CAPACITY, RATE = 10, 1.0
END_S = 30
STEPS_S = 20  # steps a second
# A burst of 14, then two requests a second for ten seconds, then one that costs 8.
REQUESTS_S = [
    *((3 + 0.05 * number, 1) for number in range(14)),
    *((7 + 0.5 * number, 1) for number in range(20)),
    (26, 8),
]


class Moment(NamedTuple):
    """What the engine returns at one time."""

    now_s: float
    tokens: float
    full_after_s: float


class Request(NamedTuple):
    """What it decides about one request, and the bucket behind it."""

    now_s: float
    cost: int
    allowed: bool
    tokens: float
    full_after_s: float


def history() -> tuple[list[Moment], list[Request]]:
    """Return the bucket at every step, before and after each request, and the requests."""
    clock = ManualClock(0)
    limiter = RateLimiter(LIMIT, clock=clock)
    costs = {round(time_s * STEPS_S): cost for time_s, cost in REQUESTS_S}
    moments, requests = [], []
    for step in range(END_S * STEPS_S + 1):
        now_s = step / STEPS_S
        clock.set_ns(step * 10**9 // STEPS_S)
        seen = limiter.peek("client", 0)
        moments.append(Moment(now_s, seen.remaining, seen.reset_after))
        if step in costs:
            given = limiter.hit("client", costs[step])
            seen = limiter.peek("client", 0)
            moments.append(Moment(now_s, seen.remaining, seen.reset_after))
            requests.append(
                Request(now_s, costs[step], given.allowed, seen.remaining, seen.reset_after)
            )
    return moments, requests


def tokens_chart() -> Chart:
    """Draw the tokens of a bucket over time, and what became of each request."""
    chart = Chart(
        "The tokens in a bucket over time: a burst empties it, then it admits at the refill rate",
        ("seconds", 0, END_S),
        ("tokens", -1, 12),
        x_step=2,
        y_step=1,
    )
    moments, requests = history()
    chart.curve([(0, CAPACITY), (END_S, CAPACITY)], GREY, 1.5, "5 4")
    chart.curve([(one.now_s, one.tokens) for one in moments])
    for one in requests:
        if one.allowed:
            chart.dot(*chart.at(one.now_s, one.tokens), GREEN)
        else:
            chart.cross(*chart.at(one.now_s, -0.5))
    chart.legend([(BLUE, "tokens"), (GREEN, "passes"), (RED, "denied")], left=170)
    chart.text(*chart.at(0.4, CAPACITY + 0.3), "capacity", anchor="start", size=12, colour=GREY)
    return chart


def full_at_chart() -> Chart:
    """Draw the one number that is stored: when the bucket will be full."""
    chart = Chart(
        "The time at which the bucket is full, between now and now plus capacity / rate",
        ("now, in seconds", 0, END_S),
        ("full at, in seconds", 0, 40),
        x_step=2,
        y_step=5,
    )
    moments, requests = history()
    fill_s = CAPACITY / RATE
    chart.curve([(0, 0), (END_S, END_S)], GREY, 1.5, "5 4")
    chart.curve([(0, fill_s), (END_S, END_S + fill_s)], ORANGE, 1.5, "5 4")
    chart.curve([(one.now_s, one.now_s + one.full_after_s) for one in moments])
    for one in requests:
        if one.allowed:
            chart.dot(*chart.at(one.now_s, one.now_s + one.full_after_s), GREEN)
        else:
            chart.cross(*chart.at(one.now_s, one.now_s + one.full_after_s))
    chart.legend(
        [
            (BLUE, "full at"),
            (GREY, "now"),
            (ORANGE, "now + capacity / rate"),
            (GREEN, "passes: full at + cost / rate"),
            (RED, "would be above: denied"),
        ]
    )
    return chart


def request_drawing() -> Drawing:
    """Draw the way of a request."""
    drawing = Drawing(720, 300, "A request gets a key, a limit, a decision, and headers or a 429")
    top = 24
    drawing.label(10, top, 128, ["request", "ASGI scope or", "WSGI environ"])
    drawing.label(176, top, 150, ["key", "who is it from?", "ip:203.0.113.9"])
    drawing.label(364, top, 150, ["limit", "what may it do?", "100/minute, cost 1"])
    drawing.label(552, top, 158, ["decision", "one step in C", "or in one script"])
    for left, right in ((138, 176), (326, 364), (514, 552)):
        drawing.arrow((left, top + 39), (right, top + 39))
    drawing.label(364, 190, 150, ["store", "memory, shared", "memory, or Redis"])
    drawing.arrow((514, 229), (600, 229), (600, top + 78))
    drawing.text(557, 222, "one number", size=12.5, colour=GREY)
    drawing.label(176, 190, 150, ["429", "Retry-After", "and the headers"])
    drawing.label(10, 190, 128, ["application", "its response gets", "the headers"])
    drawing.arrow((660, top + 78), (660, 150), (251, 150), (251, 190), colour=RED)
    drawing.text(440, 144, "denied", size=12.5, colour=RED)
    drawing.arrow((690, top + 78), (690, 128), (74, 128), (74, 190), colour=GREEN)
    drawing.text(300, 122, "passes", size=12.5, colour=GREEN)
    return drawing


def path_drawing() -> Drawing:
    """Draw the steps of a check, and what follows from its verdict."""
    drawing = Drawing(
        720,
        410,
        "A request is checked in C, from the bypass to the limits; its record gets a verdict, and "
        "the response the headers",
    )
    drawing.label(10, 10, 216, ["request", "ASGI scope or WSGI environ"])
    drawing.arrow((60, 68), (60, 110))
    drawing.text(72, 94, "check.c, one call", anchor="start", size=12.5, colour=GREY)
    steps = [
        ("bypass?", "not limited"),
        ("tier", "free, pro"),
        ("rule", "by path"),
        ("key", "whose bucket"),
        ("cost", "tokens"),
        ("limits", "all or none"),
    ]
    for column, lines in enumerate(steps):
        left = 10 + 120 * column
        drawing.label(left, 110, 100, lines)
        if column:
            drawing.arrow((left - 20, 139), (left, 139))
    drawing.arrow((660, 168), (660, 220))
    drawing.label(560, 220, 150, ["verdict", "of one rule"])
    drawing.arrow((560, 249), (490, 249))
    drawing.label(310, 220, 180, ["record", "the verdicts so far"])
    drawing.arrow((310, 249), (226, 249), colour=RED)
    drawing.text(268, 242, "denied", size=12.5, colour=RED)
    drawing.label(10, 220, 216, ["429 or 503", "others give tokens back"])
    drawing.arrow((400, 278), (400, 336), colour=GREEN)
    drawing.text(412, 312, "passes", anchor="start", size=12.5, colour=GREEN)
    drawing.label(310, 336, 180, ["application", "reads the record"])
    drawing.arrow((310, 365), (226, 365))
    drawing.arrow((118, 278), (118, 336))
    drawing.label(10, 336, 216, ["response", "gets the headers once"])
    return drawing


def bucket_drawing() -> Drawing:
    """Draw a bucket with the names of its parts."""
    drawing = Drawing(720, 250, "A bucket: tokens drip in at the refill rate, requests take them")
    left, right, top, bottom = 250, 430, 70, 210
    drawing.box(left, 130, right - left, bottom - 130, fill="#bbdefb", edge="#bbdefb")
    drawing.line([(left, top), (left, bottom), (right, bottom), (right, top)], width=3)
    drawing.arrow((340, 20), (340, 62), colour=BLUE)
    drawing.text(352, 36, "refill_rate: tokens a second, until it is full", anchor="start")
    drawing.line([(236, top), (left - 2, top)], GREY)
    drawing.text(228, top + 5, "capacity: all it holds", anchor="end")
    drawing.line([(236, 130), (left - 2, 130)], GREY)
    drawing.text(228, 135, "remaining", anchor="end")
    drawing.text(340, 176, "tokens", colour=BLUE)
    drawing.arrow((right + 2, 190), (464, 190), colour=GREEN)
    drawing.text(470, 186, "cost: a request takes it whole,", anchor="start")
    drawing.text(470, 204, "or is denied and takes nothing", anchor="start")
    drawing.text(470, 106, "retry_after: until its cost is there", anchor="start", colour=GREY)
    drawing.text(470, 126, "reset_after: until it is full", anchor="start", colour=GREY)
    return drawing


def layers_drawing() -> Drawing:
    """Draw the three layers, from an application down to where the buckets live."""
    drawing = Drawing(720, 432, "Python over the binding over the C code, over three stores")
    layers = [
        (
            "Python",
            "configuration, callables",
            ["ASGI, WSGI, FastAPI, Flask", "python/rate_limiter"],
        ),
        (
            "binding",
            "requests, event loops",
            ["the only files with Python.h", "csrc/python"],
        ),
        (
            "C code",
            "arithmetic, Redis, HTTP",
            ["does not use Python", "csrc/engine, csrc/redis, csrc/http"],
        ),
    ]
    for row, (name, purpose, files) in enumerate(layers):
        top = 16 + 106 * row
        drawing.label(130, top, 220, [name, purpose])
        for line, text in enumerate(files):
            drawing.text(374, top + 26 + 20 * line, text, anchor="start", size=12.5, colour=GREY)
        drawing.arrow((240, top + 58), (240, top + 106), colour=INK)
    drawing.text(252, 98, "one call", anchor="start", size=12.5, colour=GREY)
    drawing.line([(110, 334), (610, 334)])
    stores = [
        ("memory", "a table per process"),
        ("shared memory", "the same, in a file"),
        ("Redis", "scripts, by its clock"),
    ]
    for column, lines in enumerate(stores):
        left = 20 + 240 * column
        drawing.label(left, 358, 200, lines)
        x = (110, 360, 610)[column]
        drawing.arrow((x, 334), (x, 358))
    return drawing


def drawings() -> dict[str, str]:
    """Return the files of docs/images by name."""
    return {
        "request.svg": str(request_drawing()),
        "path.svg": str(path_drawing()),
        "bucket.svg": str(bucket_drawing()),
        "tokens.svg": str(tokens_chart()),
        "full_at.svg": str(full_at_chart()),
        "layers.svg": str(layers_drawing()),
    }


if __name__ == "__main__":
    for file, text in drawings().items():
        (IMAGES / file).write_text(text, encoding="utf-8")
