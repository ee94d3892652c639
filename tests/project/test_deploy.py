"""What deploy/ describes: against schemas and linters, against each other, and by being run.

No container engine is needed, and none is used: test_stack.py runs the same topologies.
"""

from __future__ import annotations

import os
import re
import shlex
import shutil
import subprocess
import sys
from importlib import import_module
from pathlib import Path
from typing import Any

import kubernetes_validate
import pytest
import yaml
from rate_limiter import RateLimiter
from rate_limiter.settings import Settings
from support.quick_compiler import quick_compiler
from support.servers import ROOT

DEPLOY = ROOT / "deploy"
COMPOSE = sorted(DEPLOY.glob("docker-compose*.yml"))
MANIFESTS = sorted(DEPLOY.glob("kubernetes/*.yaml"))
SCRIPTS = [*sorted(DEPLOY.glob("*.sh")), *sorted(ROOT.glob(".ci/*.sh")), ROOT / ".ci" / "run"]
DOCKERFILE = (DEPLOY / "Dockerfile").read_text(encoding="utf-8")
UNIT = (DEPLOY / "systemd" / "rate-limiter.service").read_text(encoding="utf-8")
PORT = 8000  # inside containers


def run(*command: object, **options: Any) -> subprocess.CompletedProcess[str]:
    """Run a program of this environment, and fail with what it said when it fails."""
    words = [str(word) for word in command]
    beside = Path(sys.executable).parent / words[0]
    words[0] = str(beside) if beside.exists() else words[0]
    done = subprocess.run(
        words, capture_output=True, text=True, timeout=280, check=False, **options
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return done


def load(path: Path) -> dict[str, Any]:
    loaded: dict[str, Any] = yaml.safe_load(path.read_text(encoding="utf-8"))
    return loaded


def each_service() -> list[Any]:
    return [
        pytest.param(load(file), name, id=f"{file.stem.removeprefix('docker-')}-{name}")
        for file in COMPOSE
        for name in load(file)["services"]
    ]


def known_variables() -> set[str]:
    """Return the names of all that the package, the demos and gunicorn's settings read."""
    names = {
        str(name)
        for field in Settings.model_fields.values()
        for name in getattr(field.validation_alias, "choices", [field.validation_alias])
    }
    files = [*ROOT.glob("demo/**/*.py"), *DEPLOY.glob("*.py"), *ROOT.glob("python/**/*.py")]
    for file in files:
        text = file.read_text(encoding="utf-8")
        names |= set(re.findall(r'(?:environ(?:\.get)?[\[(]|number\()"(\w+)"', text))
    # prometheus_client and Python read these.
    return names | {"PROMETHEUS_MULTIPROC_DIR", "PYTHONDONTWRITEBYTECODE", "PYTHONUNBUFFERED"}


# --- Compose files ---


@pytest.mark.parametrize("file", COMPOSE, ids=lambda file: file.stem)
def test_compose_files_follow_the_specification(file: Path) -> None:
    run("check-jsonschema", "--builtin-schema", "vendor.compose-spec", file)


def test_a_wrong_compose_file_would_be_found(tmp_path: Path) -> None:
    wrong = tmp_path / "docker-compose.yml"
    wrong.write_text("services: {redis: {image: 'redis:1', read_olny: true}}\n")
    with pytest.raises(AssertionError, match="read_olny"):
        run("check-jsonschema", "--builtin-schema", "vendor.compose-spec", wrong)


@pytest.mark.parametrize(("file", "name"), each_service())
def test_containers_have_few_rights(file: dict[str, Any], name: str) -> None:
    service = file["services"][name]
    is_built = "build" in service
    assert service["read_only"] is True
    assert service["cap_drop"] == ["ALL"]
    assert service["security_opt"] == ["no-new-privileges:true"]
    assert service["mem_limit"]
    assert service["pids_limit"]
    assert service["restart"]
    # The image of the demos has both in itself.
    assert is_built or service.get("user", "root") not in ("root", "0", "0:0")
    assert is_built or "healthcheck" in service or name == "create"  # a job that ends
    if is_built:
        assert service["build"] == {"context": "..", "dockerfile": "deploy/Dockerfile"}
    else:
        assert re.fullmatch(r"[\w/]+:v?\d+\.\d+\.\d+(-\w+)?", service["image"])
    for port in service.get("ports", []):
        assert "redis" not in service["image"]
        assert port.startswith(("127.0.0.1:", "${BIND:-127.0.0.1}:"))
        assert not is_built or port.endswith(f":{PORT}")


@pytest.mark.parametrize(("file", "name"), each_service())
def test_containers_can_write_where_they_must(file: dict[str, Any], name: str) -> None:
    """An engine gives a tmpfs to root, with the mode of the folder in the image, which is 755."""
    service = file["services"][name]
    owner = "10001" if "build" in service else "999"  # of the Dockerfile; redis of its image
    for mount in service.get("tmpfs", []):
        target, _, options = mount.partition(":")
        if target != "/tmp":  # 1777 in every image
            assert {f"uid={owner}", "mode=1777"} <= set(options.split(",")), mount
    folder = service.get("environment", {}).get("PROMETHEUS_MULTIPROC_DIR")
    assert not folder or any(mount.startswith(f"{folder}:") for mount in service["tmpfs"])


@pytest.mark.parametrize(("file", "name"), each_service())
def test_what_containers_refer_to_is_there(file: dict[str, Any], name: str) -> None:
    service = file["services"][name]
    included = [load(DEPLOY / path) for path in file.get("include", [])]
    services = set(file["services"]).union(*(each["services"] for each in included))
    networks = set(file.get("networks", {})).union(
        {"default"}, *(each["networks"] for each in included)
    )
    assert set(service.get("depends_on", [])) <= services
    assert set(service.get("networks", [])) <= networks
    for mount in service.get("volumes", []):
        source = mount.split(":")[0]
        if source.startswith("./"):
            assert (DEPLOY / source).exists(), source
            assert mount.endswith(":ro")
        else:
            assert source in file["volumes"]


def environment_of(service: dict[str, Any]) -> dict[str, str]:
    """Return the variables of a container where nothing is set outside."""
    return {
        name: re.sub(r"\$\{\w+:-([^}]*)\}", r"\1", str(value))
        for name, value in service.get("environment", {}).items()
    }


@pytest.mark.parametrize(("file", "name"), each_service())
def test_containers_set_what_is_read(file: dict[str, Any], name: str) -> None:
    given = environment_of(file["services"][name])
    if name != "grafana":
        assert set(given) <= known_variables()
    assert "DEMO" not in given or (ROOT / "demo" / given["DEMO"] / "app.py").exists()


@pytest.mark.parametrize(
    ("stem", "kind"),
    [
        ("docker-compose", "standalone"),
        ("docker-compose.sentinel", "sentinel"),
        ("docker-compose.cluster", "cluster"),
    ],
)
def test_the_service_finds_its_redis(
    stem: str, kind: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    file = load(DEPLOY / f"{stem}.yml")
    monkeypatch.chdir(tmp_path)
    for name, value in environment_of(file["services"]["service"]).items():
        monkeypatch.setenv(name, value)
    address = Settings().address
    assert RateLimiter("1/s", store=address).store.connection.client.kind == kind  # type: ignore[attr-defined]
    hosts = re.findall(r"([\w-]+):\d+", address.removeprefix(address.split("//")[0]))
    assert hosts
    assert set(hosts) <= set(file["services"])


def test_addresses_of_sentinels_and_nodes() -> None:
    servers = load(DEPLOY / "docker-compose.sentinel.yml")["services"]
    master = servers["redis-1"]["networks"]["store"]["ipv4_address"]
    config = (DEPLOY / "redis" / "sentinel.conf").read_text(encoding="utf-8")
    assert f"sentinel monitor mymaster {master} 6379 2" in config
    assert all(master in " ".join(servers[f"redis-{i}"]["command"]) for i in (2, 3))
    nodes = load(DEPLOY / "docker-compose.cluster.yml")["services"]
    created = re.findall(r"([\d.]+):6379", nodes["create"]["command"][-1])
    assert created == [
        nodes[f"redis-{i}"]["networks"]["store"]["ipv4_address"] for i in range(1, 7)
    ]


# --- Prometheus and Grafana ---


def test_prometheus_reads_its_configuration() -> None:
    run("promtool", "check", "config", DEPLOY / "prometheus" / "prometheus.yml")


def test_prometheus_and_grafana_ask_what_runs() -> None:
    watched = load(DEPLOY / "docker-compose.monitoring.yml")
    services = watched["services"] | load(DEPLOY / "docker-compose.yml")["services"]
    for job in load(DEPLOY / "prometheus" / "prometheus.yml")["scrape_configs"]:
        for target in job["static_configs"][0]["targets"]:
            host, port = target.split(":")
            assert host == "127.0.0.1" or (host in services and int(port) == PORT)
    provisioning = DEPLOY / "grafana" / "provisioning"
    source = load(provisioning / "datasources" / "prometheus.yml")["datasources"][0]
    assert source["url"] == "http://prometheus:9090"
    shown = load(provisioning / "dashboards" / "dashboards.yml")["providers"][0]
    mounts = [mount.split(":")[1] for mount in services["grafana"]["volumes"]]
    assert any(mount.startswith(shown["options"]["path"]) for mount in mounts)


# --- The image ---


def instructions(word: str, text: str = DOCKERFILE) -> list[str]:
    """Return what follows each instruction of a kind, on one line."""
    joined = re.sub(r"\\\n\s*", "", text)
    return re.findall(rf"^{word} (.*)$", joined, re.MULTILINE)


def copied(text: str) -> list[str]:
    """Return what a stage copies from the project's folder."""
    lines = [line.split() for line in instructions("COPY", text) if "--from" not in line]
    return [source for line in lines for source in line[:-1]]


STAGES = re.split(r"^(?=FROM )", DOCKERFILE, flags=re.MULTILINE)[1:]


def test_dockerfile_passes_its_linter() -> None:
    run("hadolint", DEPLOY / "Dockerfile")


def test_the_image_is_slim_and_not_root() -> None:
    build, final = STAGES
    for base in instructions("FROM"):
        assert re.match(r"python:\d\.\d+\.\d+-slim-\w+( AS build)?$", base)
    assert "gcc" in build
    assert "gcc" not in final
    assert instructions("USER", final) == ["10001:10001"]
    assert instructions("EXPOSE", final) == [str(PORT)]
    for instruction in ("CMD", "HEALTHCHECK"):
        (given,) = instructions(instruction, final)
        assert re.search(r'\["[\w"/., -]+"\]$', given), "a list of words, not a shell's line"


def test_the_context_has_what_is_copied() -> None:
    rules = (ROOT / ".dockerignore").read_text(encoding="utf-8").splitlines()
    allowed = {rule[1:] for rule in rules if rule.startswith("!")}
    sources = {source for stage in STAGES for source in copied(stage)}
    assert "*" in rules
    assert sources == allowed
    assert all((ROOT / source).exists() for source in sources)


def copy_to(folder: Path, sources: list[str]) -> None:
    for source in sources:
        target = folder / source
        target.parent.mkdir(parents=True, exist_ok=True)
        if (ROOT / source).is_dir():
            shutil.copytree(ROOT / source, target, ignore=shutil.ignore_patterns("__pycache__"))
        else:
            shutil.copy(ROOT / source, target)


def test_the_wheel_is_built_from_what_is_copied(tmp_path: Path) -> None:
    (line,) = (line for line in instructions("RUN") if line.startswith("pip wheel"))
    copy_to(tmp_path / "source", copied(STAGES[0]))
    words = shlex.split(line.replace("/wheels", str(tmp_path / "wheels")))
    # Isolated, pip would download setuptools.
    command = [sys.executable, "-m", *words, "--no-build-isolation", "--quiet"]
    run(*command, cwd=tmp_path / "source", env=os.environ | quick_compiler(tmp_path))
    (wheel,) = (tmp_path / "wheels").glob("rate_limiter_c-*.whl")
    unpacked = tmp_path / "unpacked"
    run(sys.executable, "-m", "pip", "install", "-qq", "--no-deps", "--target", unpacked, wheel)
    program = "import rate_limiter; print(rate_limiter.__file__, rate_limiter._core.RedisClient)"
    done = run(sys.executable, "-c", program, env={"PYTHONPATH": str(unpacked)}, cwd=tmp_path)
    assert str(unpacked) in done.stdout


# --- Kubernetes ---


def manifest(kind: str) -> dict[str, Any]:
    return next(found for found in map(load, MANIFESTS) if found["kind"] == kind)


@pytest.mark.parametrize("file", MANIFESTS, ids=lambda file: file.stem)
def test_manifests_follow_their_schemas(file: Path) -> None:
    if file.stem == "kustomization":  # of kubectl, not of the server
        named = load(file)["resources"]
        assert sorted(named) == [each.name for each in MANIFESTS if each != file]
    else:
        kubernetes_validate.validate(load(file), "1.33", strict=True)


def test_a_wrong_manifest_would_be_found() -> None:
    wrong = manifest("Service")
    wrong["spec"]["prots"] = []
    with pytest.raises(kubernetes_validate.ValidationError, match="prots"):
        kubernetes_validate.validate(wrong, "1.33", strict=True)


def test_manifests_agree() -> None:
    deployment = manifest("Deployment")["spec"]
    labels = deployment["template"]["metadata"]["labels"]
    (container,) = deployment["template"]["spec"]["containers"]
    assert deployment["selector"]["matchLabels"] == labels
    assert manifest("Service")["spec"]["selector"] == labels
    assert manifest("PodDisruptionBudget")["spec"]["selector"]["matchLabels"] == labels
    assert manifest("NetworkPolicy")["spec"]["podSelector"]["matchLabels"] == labels
    target = manifest("HorizontalPodAutoscaler")["spec"]["scaleTargetRef"]
    assert target["name"] == manifest("Deployment")["metadata"]["name"]
    assert container["ports"] == [{"name": "http", "containerPort": PORT}]
    assert container["envFrom"] == [
        {"configMapRef": {"name": manifest("ConfigMap")["metadata"]["name"]}}
    ]
    given = manifest("ConfigMap")["data"]
    names = set(given) | {each["name"] for each in container["env"]}
    assert names <= known_variables()
    assert given["API_PORT"] == str(PORT)
    grace_s = deployment["template"]["spec"]["terminationGracePeriodSeconds"]
    assert grace_s > int(given["GRACEFUL_TIMEOUT_S"]) + 5
    assert container["securityContext"]["readOnlyRootFilesystem"] is True
    pod = deployment["template"]["spec"]["securityContext"]
    assert f"{pod['runAsUser']}:{pod['runAsGroup']}" == instructions("USER")[0]
    mounts = [mount["mountPath"] for mount in container["volumeMounts"]]
    assert given["PROMETHEUS_MULTIPROC_DIR"] in mounts


def test_only_known_namespaces_reach_what_trusts_proxies() -> None:
    assert manifest("ConfigMap")["data"]["RATE_LIMITER_TRUSTED_PROXIES"]
    (rule,) = manifest("NetworkPolicy")["spec"]["ingress"]
    names = [
        peer["namespaceSelector"]["matchLabels"]["kubernetes.io/metadata.name"]
        for peer in rule["from"]
    ]
    assert names == ["ingress-nginx", "monitoring"]


# --- systemd ---


@pytest.fixture
def unit(tmp_path: Path) -> Path:
    """Return the unit with the paths of this project, which may have spaces, by other names."""
    file = tmp_path / "rate-limiter.service"
    (tmp_path / "bin").symlink_to(Path(sys.executable).parent)
    (tmp_path / "root").symlink_to(ROOT)
    local = UNIT.replace("/opt/rate-limiter/.venv/bin", str(tmp_path / "bin"))
    file.write_text(local.replace("/opt/rate-limiter", str(tmp_path / "root")))
    return file


needs_systemd = pytest.mark.skipif(
    shutil.which("systemd-analyze") is None, reason="there is no systemd on this kind of system"
)


@needs_systemd
def test_unit_is_understood(unit: Path) -> None:
    done = run("systemd-analyze", "verify", "--man=no", unit)
    assert done.stdout + done.stderr == ""


@needs_systemd
def test_unit_exposes_little(unit: Path) -> None:
    # 0 is best, 10 worst; services without any of these settings have more than 9.
    run("systemd-analyze", "security", "--offline=yes", "--threshold=15", unit)


def test_unit_sets_what_is_read() -> None:
    lines = re.findall(r"^Environment=(.*)$", UNIT, re.MULTILINE)
    given = dict(word.split("=", 1) for line in lines for word in line.split())
    assert set(given) <= known_variables()


# --- Settings of servers, and scripts ---


def test_settings_of_uvicorn_are_options_of_uvicorn() -> None:
    lines = (DEPLOY / "uvicorn.env").read_text(encoding="utf-8").splitlines()
    given = dict(line.split("=", 1) for line in lines if line and not line.startswith("#"))
    command = import_module("uvicorn.main").main  # uvicorn.main is also a function
    with command.make_context(
        "uvicorn", ["demo.service.app:app"], auto_envvar_prefix="UVICORN"
    ) as plain:
        before = dict(plain.params)
    assert {name.removeprefix("UVICORN_").lower() for name in given} <= set(before)
    with pytest.MonkeyPatch.context() as patch:
        for name, value in given.items():
            patch.setenv(name, value)
        with command.make_context("uvicorn", ["x:app"], auto_envvar_prefix="UVICORN") as context:
            read = dict(context.params)
    assert (read["port"], read["workers"], read["proxy_headers"]) == (PORT, 2, False)
    assert read["timeout_graceful_shutdown"] == 20


@pytest.mark.parametrize("script", SCRIPTS, ids=lambda script: script.name)
def test_scripts_pass_their_linter(script: Path) -> None:
    run("shellcheck", script)
    assert os.access(script, os.X_OK)


@pytest.mark.parametrize("missing", ["hypothesis", "psutil", "rate_limiter"])
def test_run_tests_says_what_the_tests_need(missing: str, tmp_path: Path) -> None:
    (tmp_path / f"{missing}.py").write_text(f"raise ImportError(\"No module named '{missing}'\")")
    done = subprocess.run(
        [DEPLOY / "run_tests.sh"],
        env=os.environ | {"PYTHON": sys.executable, "PYTHONPATH": str(tmp_path)},
        capture_output=True,
        text=True,
        timeout=280,
        check=False,
    )
    assert (done.returncode, done.stdout) == (1, "")
    problem, remedy = done.stderr.splitlines()
    assert problem.endswith(f"No module named '{missing}'")
    assert "pip install '.[test]'" in remedy
