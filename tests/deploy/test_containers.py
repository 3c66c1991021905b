"""The container files name things that exist, and every service is bounded, checked and unprivileged."""

import re
from pathlib import Path
from typing import Any

import pytest
import yaml

import run
from app.settings import Settings

PROJECT = Path(__file__).parents[2]
COMPOSE: dict[str, Any] = yaml.safe_load((PROJECT / "docker-compose.yml").read_text())
SERVICES: dict[str, dict[str, Any]] = COMPOSE["services"]
OURS = {name for name, service in SERVICES.items() if service["image"].startswith("tidemark:")}
DOCKERFILE = (PROJECT / "Dockerfile").read_text()
KNOWN_VARIABLES = {f"TIDEMARK_{field.upper()}" for field in Settings.model_fields} | {
    "DATABASE_URL",
    "REDIS_URL",
    # Read by gunicorn and uvicorn themselves.
    "FORWARDED_ALLOW_IPS",
}

every_service = pytest.mark.parametrize("name", SERVICES)


def commands() -> set[str]:
    return {
        str(command.name or command.callback.__name__) for command in run.cli.registered_commands if command.callback
    }


def test_all_parts_of_the_system_are_there() -> None:
    assert set(SERVICES) == {"postgres", "redis", "migrate", "price-worker", "pnl-worker", "web", "proxy"}


@every_service
def test_a_service_has_a_health_check(name: str) -> None:
    check = SERVICES[name]["healthcheck"]
    assert check == {"disable": True} if name == "migrate" else {"test", "interval", "timeout", "retries"} <= set(check)


@every_service
def test_a_service_is_limited_in_memory_cpu_and_files(name: str) -> None:
    limits = SERVICES[name]["deploy"]["resources"]["limits"]
    assert float(limits["cpus"]) > 0
    assert re.fullmatch(r"\d+[mg]", limits["memory"])
    assert SERVICES[name]["ulimits"]["nofile"] > 0


@every_service
def test_a_service_runs_without_root_and_without_privileges(name: str) -> None:
    service = SERVICES[name]
    assert re.fullmatch(r"[1-9]\d*:[1-9]\d*", service["user"])
    assert service["read_only"] is True
    assert service["cap_drop"] == ["ALL"]
    assert service["security_opt"] == ["no-new-privileges:true"]


@every_service
def test_an_image_is_pinned_to_a_version(name: str) -> None:
    _, _, tag = SERVICES[name]["image"].rpartition(":")
    assert re.match(r"\d+\.\d+", tag)


@every_service
def test_what_a_service_writes_to_its_log_is_bounded(name: str) -> None:
    assert set(SERVICES[name]["logging"]["options"]) == {"max-size", "max-file"}


@pytest.mark.parametrize("name", sorted(OURS))
def test_a_service_of_ours_runs_a_command_that_exists(name: str) -> None:
    assert SERVICES[name]["command"][0] in commands()


@pytest.mark.parametrize("name", sorted(OURS))
def test_a_service_of_ours_sets_only_variables_that_are_read(name: str) -> None:
    assert set(SERVICES[name]["environment"]) <= KNOWN_VARIABLES


@every_service
def test_secrets_come_from_outside(name: str) -> None:
    for variable, value in SERVICES[name].get("environment", {}).items():
        if "PASSWORD" in variable or variable.endswith("_URL") or "AUTH" in variable:
            assert re.search(r"\$\{\w+_PASSWORD:\?", value), variable


def test_only_the_proxy_can_be_reached_from_outside() -> None:
    assert [name for name, service in SERVICES.items() if "ports" in service] == ["proxy"]
    assert COMPOSE["networks"]["private"]["internal"] is True
    assert {name for name, service in SERVICES.items() if "outside" in service["networks"]} == {"proxy", "price-worker"}


def test_the_web_runs_more_than_once_and_every_worker_has_a_standby() -> None:
    assert all(SERVICES[name]["deploy"]["replicas"] >= 2 for name in ("web", "price-worker", "pnl-worker"))


def test_web_is_given_time_to_drain() -> None:
    grace_s = int(SERVICES["web"]["stop_grace_period"].removesuffix("s"))
    assert grace_s > Settings.model_fields["drain_s"].default + 5


def test_every_stage_of_the_image_starts_from_a_pinned_version() -> None:
    bases = re.findall(r"^FROM (\S+)", DOCKERFILE, re.MULTILINE)
    assert len(bases) == 4
    assert all(re.search(r":\d+(\.\d+)?-", base) for base in bases)


def test_the_image_runs_as_a_numbered_user_and_installs_by_hash() -> None:
    assert re.search(r"^USER [1-9]\d*:[1-9]\d*$", DOCKERFILE, re.MULTILINE)
    assert "--require-hashes -r requirements.lock" in DOCKERFILE
    assert "npm ci" in DOCKERFILE
    assert "HEALTHCHECK" in DOCKERFILE


def test_the_image_is_made_of_files_that_exist() -> None:
    for line in re.findall(r"^COPY (?!--from)(.+)$", DOCKERFILE, re.MULTILINE):
        *sources, _ = line.split()
        for source in sources:
            assert (PROJECT / source).exists(), source


def test_the_image_sets_only_variables_that_are_read() -> None:
    named = set(re.findall(r"\b(TIDEMARK_\w+)=", DOCKERFILE))
    assert named
    assert named <= KNOWN_VARIABLES


def test_the_build_sees_every_file_that_the_image_copies() -> None:
    allowed = set(re.findall(r"^!(.+)$", (PROJECT / ".dockerignore").read_text(), re.MULTILINE))
    for line in re.findall(r"^COPY (?!--from)(.+)$", DOCKERFILE, re.MULTILINE):
        *sources, _ = line.split()
        assert {source.split("/")[0] for source in sources} <= allowed


@pytest.mark.parametrize(
    "line",
    [
        "hard-stop-after 30s",
        "timeout http-request 5s",
        "http-request set-header X-Forwarded-For %[src]",
        "http-request del-header Forwarded",
        "timeout tunnel 60s",
    ],
)
def test_the_proxy_has_the_settings_without_which_it_hangs_or_is_deceived(line: str) -> None:
    assert line in (PROJECT / "deploy" / "haproxy.cfg").read_text()
