"""A real Prometheus scrapes the gateway: each query of the dashboard and each alert is asked."""

from __future__ import annotations

import contextlib
import json
import math
import re
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx
import pytest
import yaml
from support.redis_servers import redis_server, wait_until
from support.servers import ROOT, free_port, serve

FOLDER = ROOT / "deploy"
ALERTS = FOLDER / "prometheus" / "alerts.yml"
SCRAPED_EVERY_S = 0.5


def queries() -> list[tuple[str, str]]:
    """Return the queries of the dashboard, each with its panel."""
    dashboard = json.loads((FOLDER / "grafana" / "dashboard.json").read_text("utf-8"))
    return [
        (f"{panel['title']} {target['legendFormat']}", target["expr"])
        for panel in dashboard["panels"]
        for target in panel.get("targets", ())
    ]


def filled(query: str, time: str) -> str:
    """Return a query with values for the variables of the dashboard."""
    for variable in ("$__rate_interval", "$__range"):
        query = query.replace(variable, time)
    query = query.replace("$job", ".*").replace("$dimension", ".*")
    assert "$" not in query
    return query


@dataclass
class Prometheus:
    """A running Prometheus."""

    url: str

    def ask(self, query: str) -> list[dict[str, Any]]:
        """Return the series that a query gives now."""
        answer = httpx.get(f"{self.url}/api/v1/query", params={"query": query}, timeout=30)
        body = answer.json()
        assert body["status"] == "success", body
        result: list[dict[str, Any]] = body["data"]["result"]
        return result

    def values(self, query: str) -> list[float]:
        return [float(one["value"][1]) for one in self.ask(query)]

    def states_of_alerts(self) -> dict[str, str]:
        """Return whether each alert is firing, pending or inactive."""
        body = httpx.get(f"{self.url}/api/v1/rules", timeout=30).json()
        rules = body["data"]["groups"][0]["rules"]
        assert all(rule["health"] in ("ok", "unknown") for rule in rules), rules
        return {rule["name"]: rule["state"] for rule in rules}


@pytest.fixture(scope="module")
def prometheus(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Prometheus]:
    """Yield a Prometheus that has seen a gateway lose its Redis, and denials before and after."""
    folder = tmp_path_factory.mktemp("prometheus")
    with (
        redis_server(folder) as redis,
        serve(
            folder / "gateway.log",
            *("-m", "demo.gateway.app"),
            environment={
                "PORT": "{port}",
                "REDIS_URL": redis.url,
                "RL_RATE_PER_SEC": "1",
                "RL_BURST": "5",
            },
        ) as gateway,
        running_prometheus(folder, gateway.port) as started,
    ):
        over = threading.Event()
        statuses: set[int] = set()

        def knock() -> None:
            with httpx.Client(base_url=gateway.url) as client:
                while not over.wait(0.05):
                    statuses.add(client.get("/v1/hello").status_code)

        knocking = threading.Thread(target=knock)
        knocking.start()
        try:
            allowed = "sum(rate(rate_limiter_allowed_total[10s])) > 0"
            wait_until(lambda: started.ask(allowed), "it has seen a rate")
            redis.kill()
            failing = "sum(rate(rate_limiter_store_errors_total[10s])) > 0"
            wait_until(lambda: started.ask(failing), "it has seen Redis fail")
            yield started
        finally:
            over.set()
            knocking.join()
        assert statuses == {200, 429}


def write_configuration(folder: Path, port_of_gateway: int) -> None:
    alerts = yaml.safe_load(ALERTS.read_text("utf-8"))
    for rule in alerts["groups"][0]["rules"]:
        rule["for"] = "0s"
        rule["expr"] = re.sub(r"\[\d+m\]", "[10s]", rule["expr"])
    (folder / "alerts.yml").write_text(yaml.safe_dump(alerts))
    config = {
        "global": {
            "scrape_interval": f"{int(SCRAPED_EVERY_S * 1000)}ms",
            "evaluation_interval": "1s",
        },
        "rule_files": ["alerts.yml"],
        "scrape_configs": [
            {
                "job_name": "gateway",
                "static_configs": [{"targets": [f"127.0.0.1:{port_of_gateway}"]}],
            }
        ],
    }
    (folder / "prometheus.yml").write_text(yaml.safe_dump(config))


@contextlib.contextmanager
def running_prometheus(folder: Path, port_of_gateway: int) -> Iterator[Prometheus]:
    """Run Prometheus with alerts.yml, whose delays are left out and whose ranges are short."""
    write_configuration(folder, port_of_gateway)
    port = free_port()
    command = [
        "prometheus",
        f"--config.file={folder / 'prometheus.yml'}",
        f"--storage.tsdb.path={folder / 'data'}",
        f"--web.listen-address=127.0.0.1:{port}",
    ]
    with (folder / "prometheus.log").open("wb") as log:
        process = subprocess.Popen(command, stdout=log, stderr=subprocess.STDOUT, cwd=folder)
    try:
        wait_until(lambda: is_ready(port), "Prometheus answers")
        yield Prometheus(f"http://127.0.0.1:{port}")
    finally:
        process.terminate()
        process.wait(60)


def is_ready(port: int) -> bool:
    try:
        return httpx.get(f"http://127.0.0.1:{port}/-/ready").status_code == 200
    except httpx.TransportError:
        return False


@pytest.mark.parametrize(("panel", "query"), queries(), ids=lambda value: value[:30])
def test_queries_of_the_dashboard(prometheus: Prometheus, panel: str, query: str) -> None:
    values = prometheus.values(filled(query, "1m"))
    assert values, f"{panel} is empty"
    assert all(math.isfinite(value) and value >= 0 for value in values), values


def test_what_the_dashboard_tells(prometheus: Prometheus) -> None:
    by_panel = dict(queries())

    def values(panel: str) -> list[float]:
        return prometheus.values(filled(by_panel[panel], "5m"))

    def value(panel: str) -> float:
        (one,) = values(panel)
        return one

    assert value("Requests allowed ") > 0
    assert 0 < value("Share denied ") < 1
    assert 0 < value("Slowest decisions ") < 1
    assert value("Stores down ") == value("State of each store {{store}}") == 1
    assert value("Rules that denied most {{dimension}}") > 0
    assert value("Requests that shadow rules would deny {{dimension}}") == 0
    # A slow machine has timeouts too, as a kind beside the refused connections.
    assert sum(values("Requests that the store did not answer {{store}} {{kind}}")) > 0
    assert value("Clients in memory {{dimension}}") == 1  # since Redis is gone


def test_what_the_time_axis_marks(prometheus: Prometheus) -> None:
    """The gateway has no rules, so no loading of rules is marked."""
    dashboard = json.loads((FOLDER / "grafana" / "dashboard.json").read_text("utf-8"))
    deployments, loaded, alerts = dashboard["annotations"]["list"]
    assert deployments["target"]["tags"] == ["deployment"]
    assert prometheus.ask(filled(loaded["expr"], "1m")) == []
    marked = filled(alerts["expr"], "1m")
    wait_until(lambda: prometheus.ask(marked), "an alert is marked")
    names = {one["metric"]["alertname"] for one in prometheus.ask(marked)}
    rules = yaml.safe_load(ALERTS.read_text("utf-8"))["groups"][0]["rules"]
    assert names <= {rule["alert"] for rule in rules}


def test_alerts_on_a_running_gateway(prometheus: Prometheus) -> None:
    """Those that a lost Redis is to set off are firing; the rest are quiet, and not mistaken."""
    expected = {
        "RateLimiterFallbackActive": "firing",
        "RateLimiterStoreErrors": "firing",
        "RateLimiterDecisionsSlow": "inactive",
        "RateLimiterMostRequestsDenied": "firing",
        "RateLimiterTableFull": "inactive",
        "RateLimiterMetricsUnshared": "inactive",
        "RateLimiterRulesStale": "inactive",
        "RateLimiterDisabled": "inactive",
        "RateLimiterGone": "inactive",
    }
    deadline_s = time.monotonic() + 120
    while (states := prometheus.states_of_alerts()) != expected and time.monotonic() < deadline_s:
        time.sleep(0.5)
    assert states == expected


def test_series_that_alerts_ask_for_are_there(prometheus: Prometheus) -> None:
    """An alert on a name that is not exposed would never fire."""
    for rule in yaml.safe_load(ALERTS.read_text("utf-8"))["groups"][0]["rules"]:
        if rule["alert"] in ("RateLimiterGone", "RateLimiterRulesStale"):
            continue  # the gateway has no rules
        query = rule["expr"].rsplit(" > " if " > " in rule["expr"] else " == ", 1)[0]
        assert prometheus.ask(query), query


def test_alerts_by_promtool() -> None:
    for arguments in (["check", "rules", "alerts.yml"], ["test", "rules", "alerts_test.yml"]):
        done = subprocess.run(
            ["promtool", *arguments],
            cwd=ALERTS.parent,
            capture_output=True,
            text=True,
            check=False,
        )
        assert done.returncode == 0, done.stdout + done.stderr
    tried = (ALERTS.parent / "alerts_test.yml").read_text("utf-8")
    for rule in yaml.safe_load(ALERTS.read_text("utf-8"))["groups"][0]["rules"]:
        assert tried.count(rule["alert"]) >= (1 if rule["alert"] == "RateLimiterGone" else 2)


def test_the_dashboard_is_what_its_script_makes() -> None:
    done = subprocess.run(
        [sys.executable, FOLDER / "grafana" / "make_dashboard.py"],
        capture_output=True,
        text=True,
        check=True,
    )
    assert done.stdout == (FOLDER / "grafana" / "dashboard.json").read_text("utf-8")


def test_panels_stand_side_by_side() -> None:
    dashboard = json.loads((FOLDER / "grafana" / "dashboard.json").read_text("utf-8"))
    taken: set[tuple[int, int]] = set()
    for panel in dashboard["panels"]:
        place = panel["gridPos"]
        cells = {
            (x, y)
            for x in range(place["x"], place["x"] + place["w"])
            for y in range(place["y"], place["y"] + place["h"])
        }
        assert not cells & taken, panel["title"]
        assert max(x for x, _ in cells) < 24
        taken |= cells
    assert len({panel["id"] for panel in dashboard["panels"]}) == len(dashboard["panels"])
