"""What is shipped for deployment keeps its promises, as far as the files tell."""

from __future__ import annotations

import configparser
import os
import re
import shutil
import socket
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import yaml

ROOT = Path(__file__).parents[2]
COMPOSE: dict[str, Any] = yaml.safe_load((ROOT / "docker-compose.yml").read_text())
SERVICES: dict[str, Any] = COMPOSE["services"]
ROLES = ("worker", "client", "viewer", "operator")
DOCKERFILE = (ROOT / "worker" / "Dockerfile").read_text().replace("\\\n", " ")
VALKEY = dict(
    line.split(maxsplit=1)
    for line in (ROOT / "deploy" / "valkey.conf").read_text().splitlines()
    if line and not line.startswith("#")
)


def instructions(stage: int) -> list[tuple[str, str]]:
    """The instructions of one stage of the image, as (name, arguments)."""
    stages = re.split(r"^(?=FROM )", DOCKERFILE, flags=re.MULTILINE)[1:]
    lines = [line for line in stages[stage].splitlines() if line and not line.startswith("#")]
    return [(name, rest.strip()) for name, _, rest in (line.partition(" ") for line in lines)]


@pytest.fixture
def unit() -> dict[str, str]:
    parser = configparser.ConfigParser(interpolation=None, delimiters=("=",))
    parser.optionxform = str  # type: ignore[assignment,method-assign]
    parser.read(ROOT / "deploy" / "systemd" / "egregore-worker.service")
    return {**parser["Unit"], **parser["Service"]}


def test_s21_what_is_installed_is_pinned_by_hash() -> None:
    """The lock files hold versions and hashes alone; the image and the Makefile install nothing that has none.

    Without ``--no-deps`` pip may choose a newer release than the file names, for what is wanted with an extra.
    """
    files = sorted(ROOT.glob("constraints*.txt"))
    entries = [(file.name, entry) for file in files for entry in re.split(r"\n(?=\S)", file.read_text().strip())]
    makefile = (ROOT / "Makefile").read_text()
    installs = re.findall(r"pip (?:--python \S+ )?install [^&\n]*", DOCKERFILE)
    locked = [line for line in (*installs, *re.findall("INSTALL := .*", makefile)) if "/wheel/" not in line]

    assert [file.name for file in files] == [
        *("constraints-build.txt", "constraints-local.txt", "constraints-worker.txt", "constraints.txt"),
    ]
    for name, entry in entries:
        requirement, *hashes = (line.strip(" \\") for line in entry.splitlines())
        assert re.fullmatch(r"[a-z0-9-]+==[^\s;]+( ; .+)?", requirement), (name, requirement)
        assert hashes, (name, requirement)
        assert all(re.fullmatch(r"--hash=sha256:[0-9a-f]{64}", line) for line in hashes), (name, requirement)
    assert len(installs) == 3
    assert len(locked) == 3
    assert all("--no-deps --require-hashes" in line for line in locked)
    assert all("--no-deps" in line for line in installs)


def test_s21_images_are_pinned_by_full_version() -> None:
    """Each image that is not built here is named by a version of three parts."""
    images = [service["image"] for service in SERVICES.values() if "build" not in service]
    images += re.findall(r"^FROM (\S+)", DOCKERFILE, flags=re.MULTILINE)

    assert images
    assert all(re.fullmatch(r"[\w./-]+:\d+\.\d+\.\d+(-[\w.-]+)?", image) for image in images), images


def test_s21_lint_looks_for_known_faults() -> None:
    """`make lint` runs bandit, and looks the dependencies up in the database of known vulnerabilities."""
    lint, _, rest = (ROOT / "Makefile").read_text().partition("\nlint:")[2].partition("\n\n")

    assert "bandit" in lint
    assert "audit" in lint
    assert "pip-audit" in rest.partition("\naudit:")[2].partition("\n\n")[0]


@pytest.mark.parametrize("name", SERVICES)
def test_s18_each_service_is_confined(name: str) -> None:
    """Each container has a read-only root, no capabilities, no new privileges, limits and a health check."""
    service = SERVICES[name]
    limits = service["deploy"]["resources"]["limits"]

    assert service["read_only"] is True
    assert service["cap_drop"] == ["ALL"]
    assert service["security_opt"] == ["no-new-privileges:true"]
    assert {"memory", "pids", "cpus"} <= set(limits)
    # What is no server runs once and ends.
    assert service["healthcheck"].get("test") or service["restart"] == "no"
    assert service.get("network_mode", "none") == "none"
    assert not {"privileged", "cap_add", "devices", "pid", "ipc"} & set(service)


@pytest.mark.parametrize("name", SERVICES)
def test_s18_no_service_runs_as_root(name: str) -> None:
    """Each container's user is a number other than 0, given by the compose file or by the image."""
    user = SERVICES[name].get("user") or dict(instructions(1))["USER"]

    assert re.fullmatch(r"[1-9]\d*:[1-9]\d*", user)


def test_s18_no_port_is_published() -> None:
    """No service publishes a port; the override for programs of the same machine publishes it on loopback alone."""
    override = yaml.safe_load((ROOT / "deploy" / "compose.publish.yml").read_text())

    assert [name for name, service in SERVICES.items() if {"ports", "expose"} & set(service)] == []
    assert override == {"services": {"valkey": {"ports": ["127.0.0.1:6379:6379"]}}}


@pytest.mark.parametrize(
    ("environ", "tls"),
    [
        ({}, "no"),
        ({"EGREGORE_BROKER_TLS": ""}, "no"),
        ({"COMPOSE_PROFILES": "client"}, "no"),
        ({"EGREGORE_BROKER_TLS": "yes"}, "yes"),
        ({"EGREGORE_BROKER_TLS": "true"}, "true"),  # refused by each program
    ],
)
def test_s18_one_variable_turns_tls_on(environ: dict[str, str], tls: str) -> None:
    """The same variable decides for all services, whatever the profiles; the shell expands it as Compose does."""
    for name, service in SERVICES.items():
        command = ["sh", "-c", f'printf %s "{service["environment"]["EGREGORE_BROKER_TLS"]}"']
        assert subprocess.run(command, env=environ, capture_output=True, text=True, check=True).stdout == tls, name


def test_s18_the_server_waits_for_its_certificate() -> None:
    """The service that makes the certificate always runs, and the server starts once it has ended."""
    profiles = {name: service["profiles"] for name, service in SERVICES.items() if "profiles" in service}

    assert profiles == {"client": ["client"]}
    assert SERVICES["valkey"]["depends_on"] == {"certificates": {"condition": "service_completed_successfully"}}


def shipped(script: str, folder: Path, tls: str) -> subprocess.CompletedProcess[str]:
    """Run a script of the compose file with the paths below ``folder``; the server prints its arguments and ends."""
    for role in ROLES:
        password = folder / "run/secrets" / f"{role}_password"
        password.parent.mkdir(parents=True, exist_ok=True)
        password.write_text("of a role")
    for name in ("run/valkey", "etc/valkey", "tls", "bin"):
        (folder / name).mkdir(parents=True, exist_ok=True)
    shutil.copytree(ROOT / "deploy/acl", folder / "etc/valkey/acl", dirs_exist_ok=True)
    (folder / "bin/valkey-server").write_text('#!/bin/sh\necho "$@"\n')
    (folder / "bin/valkey-server").chmod(0o755)
    paths = r"/(?:run|etc)/|/tls\b(?!\.)"
    text = re.sub(paths, lambda path: f"{folder}{path[0]}", (ROOT / "deploy" / script).read_text())
    environ = {"PATH": f"{folder / 'bin'}:{os.environ['PATH']}", "EGREGORE_BROKER_TLS": tls}
    return subprocess.run(["sh", "-c", text], env=environ, capture_output=True, text=True, check=False, timeout=30)


def test_s18_the_certificate_is_made_once_and_only_for_tls(tmp_path: Path) -> None:
    """Without TLS nothing is made; with it the certificate and its CA, which stay; only the server reads the key."""
    assert shipped("certificates.sh", tmp_path, "no").returncode == 0
    assert list((tmp_path / "tls").iterdir()) == []
    assert shipped("certificates.sh", tmp_path, "yes").returncode == 0
    made = {file.name: (oct(file.stat().st_mode), file.read_bytes()) for file in (tmp_path / "tls").iterdir()}
    assert shipped("certificates.sh", tmp_path, "yes").returncode == 0

    assert {name: mode for name, (mode, _) in made.items()} == {
        "ca.pem": "0o100444",
        "server.key": "0o100400",
        "server.pem": "0o100444",
    }
    assert {file.name: file.read_bytes() for file in (tmp_path / "tls").iterdir()} == {
        name: text for name, (_, text) in made.items()
    }


@pytest.mark.parametrize(("tls", "is_on"), [("yes", True), ("no", False)])
def test_s18_the_server_uses_tls_as_the_variable_has_it(tmp_path: Path, tls: str, is_on: bool) -> None:
    """The server gets the configuration of TLS with ``yes``, and not with ``no``."""
    done = shipped("valkey.sh", tmp_path, tls)

    assert done.returncode == 0, done.stderr
    assert (f"--include {tmp_path}/etc/valkey/tls.conf" in done.stdout) == is_on


@pytest.mark.parametrize("tls", ["true", "YES", "1", " yes"])
def test_s18_the_server_refuses_what_is_neither_yes_nor_no(tmp_path: Path, tls: str) -> None:
    """Any other value may have asked for TLS: the server does not start without it."""
    done = shipped("valkey.sh", tmp_path, tls)

    assert (done.returncode, done.stdout) == (1, "")
    assert done.stderr == f"EGREGORE_BROKER_TLS is '{tls}': it must be yes or no\n"


def test_s18_a_forgotten_variable_does_not_turn_tls_off(tmp_path: Path) -> None:
    """A server that has a certificate does not start without TLS."""
    assert shipped("certificates.sh", tmp_path, "yes").returncode == 0
    done = shipped("valkey.sh", tmp_path, "no")

    assert (done.returncode, done.stdout) == (1, "")
    assert "write EGREGORE_BROKER_TLS=yes into .env" in done.stderr
    assert shipped("valkey.sh", tmp_path, "yes").returncode == 0


def test_s18_each_role_has_its_own_user(tmp_path: Path) -> None:
    """Each service logs in as the user of its role and sees that role's password only; the files are made once."""
    for name, service in SERVICES.items():
        user = service["environment"].get("EGREGORE_BROKER_USER")
        assert user == (f"egregore-{name}" if name in ("worker", "client") else None)
        if user:
            assert (ROOT / "deploy" / "acl" / f"{user}.acl").is_file()
            assert service["secrets"] == [f"{name}_password"]
            assert service["environment"]["EGREGORE_BROKER_PASSWORD_FILE"] == f"/run/secrets/{name}_password"
    (tmp_path / "deploy").mkdir()
    (tmp_path / "sudo").write_text('#!/bin/sh\n[ "$1" = chown ] || exec "$@"\n')
    (tmp_path / "sudo").chmod(0o755)
    made = tmp_path / "deploy" / "passwords.sh"
    made.write_text((ROOT / "deploy" / "passwords.sh").read_text())
    environ = {"PATH": f"{tmp_path}:{os.environ['PATH']}"}
    subprocess.run(["sh", str(made)], env=environ, check=True, timeout=30)
    files = sorted((tmp_path / "secrets").iterdir())
    passwords = [file.read_text() for file in files]
    subprocess.run(["sh", str(made)], env=environ, check=True, timeout=30)

    assert {f"./secrets/{file.name}" for file in files} == {it["file"] for it in COMPOSE["secrets"].values()}
    assert len({*passwords}) == len(ROLES)
    assert all(re.fullmatch(r"[0-9a-f]{64}\n", password) for password in passwords)
    assert [file.stat().st_mode & 0o777 for file in files] == [0o440] * len(files)
    assert [file.read_text() for file in files] == passwords


def test_there_are_two_workers() -> None:
    """The compose file starts two workers, after the server is healthy."""
    assert SERVICES["worker"]["deploy"]["replicas"] == 2
    assert SERVICES["worker"]["depends_on"] == {"valkey": {"condition": "service_healthy"}}


def test_passwords_are_files_that_are_not_in_the_repository() -> None:
    """The passwords come from secret files that git and the image build ignore, never from the environment."""
    assert COMPOSE["secrets"] == {f"{role}_password": {"file": f"./secrets/{role}_password"} for role in ROLES}
    for service in SERVICES.values():
        assert not [name for name in service.get("environment", {}) if name.endswith(("PASSWORD", "SECRET", "_URL"))]
    ignored = subprocess.run(["git", "check-ignore", "-q", "secrets/worker_password"], cwd=ROOT, check=False)
    assert ignored.returncode == 0
    assert (ROOT / ".dockerignore").read_text().splitlines()[1] == "*"


def test_no_password_is_in_an_argument() -> None:
    """The server reads its users from a file; only builtins of the shell ever hold a password."""
    lines = [line.strip() for line in (ROOT / "deploy" / "valkey.sh").read_text().splitlines()]

    assert lines.index("umask 077") < lines.index("} > /run/valkey/users.acl")
    assert [re.sub(r'^"user "\*\) ', "", line).split()[0] for line in lines if "$password" in line] == [
        "read",
        "printf",
    ]
    assert VALKEY["aclfile"] == "/run/valkey/users.acl"
    assert lines[-1] == 'exec valkey-server "$@"'
    assert "-a " not in SERVICES["valkey"]["healthcheck"]["test"][1]


def test_the_server_keeps_what_it_acknowledged() -> None:
    """The server of the compose file logs its writes, never evicts, and stays in protected mode."""
    wanted = {
        "appendonly": "yes",
        "appendfsync": "everysec",
        "save": '""',
        "maxmemory-policy": "noeviction",
        "protected-mode": "yes",
        "dir": "/data",
    }

    assert {name: VALKEY.get(name) for name in wanted} == wanted
    assert not {"requirepass", "include"} & set(VALKEY)
    assert "valkey-data:/data" in SERVICES["valkey"]["volumes"]


def test_the_image_is_small_and_not_root() -> None:
    """The last stage is slim, has no package installer, and ends as a user that is not root."""
    final = instructions(1)
    scripts = " ".join(rest for name, rest in final if name == "RUN")

    bases = [rest.split()[0] for name, rest in instructions(0) + final if name == "FROM"]
    assert len(set(bases)) == 1
    assert "slim" in bases[0]
    assert "pip uninstall" in scripts
    assert not re.search(r"apt|pip install|gcc|build-essential", scripts)
    assert dict(final)["USER"] == "10001:10001"
    assert [name for name, _ in final].index("USER") > max(i for i, (name, _) in enumerate(final) if name == "RUN")


def test_the_image_knows_its_health() -> None:
    """The image has a health check and an entry point in exec form, and copies both files."""
    final = dict(instructions(1))
    copied = " ".join(rest for name, rest in instructions(1) if name == "COPY")

    assert final["HEALTHCHECK"].endswith('CMD ["python", "/app/healthcheck.py"]')
    assert SERVICES["worker"]["healthcheck"]["test"] == ["CMD", "python", "/app/healthcheck.py"]
    assert final["ENTRYPOINT"] == '["python", "/app/entrypoint.py"]'
    assert "worker/entrypoint.py worker/healthcheck.py /app/" in copied


def test_what_the_image_copies_is_not_ignored() -> None:
    """Everything that the image copies from the repository passes .dockerignore."""
    allowed = {line[1:] for line in (ROOT / ".dockerignore").read_text().splitlines() if line.startswith("!")}
    copies = [rest for stage in (0, 1) for name, rest in instructions(stage) if name == "COPY" and "--from" not in rest]

    assert {source.split("/")[0] for copy in copies for source in copy.split()[:-1]} == allowed


def test_worker_is_no_package() -> None:
    """The folder worker/ cannot be imported, as it would shadow a user's module of that name."""
    assert not (ROOT / "worker" / "__init__.py").exists()


def test_the_unit_restarts_and_stops_gently(unit: dict[str, str]) -> None:
    """The systemd unit always restarts, and gives running branches time before it kills."""
    assert unit["Restart"] == "always"
    assert unit["StartLimitIntervalSec"] == "0"
    assert unit["KillMode"] == "mixed"
    assert int(unit["TimeoutStopSec"]) >= 30


def test_the_unit_is_hardened(unit: dict[str, str]) -> None:
    """The systemd unit is confined, not root, and has its secrets from a file."""
    hardened = {
        "NoNewPrivileges": "yes",
        "CapabilityBoundingSet": "",
        "ProtectSystem": "strict",
        "ProtectHome": "yes",
        "PrivateTmp": "yes",
        "PrivateDevices": "yes",
        "ProtectKernelTunables": "yes",
        "ProtectKernelModules": "yes",
        "ProtectControlGroups": "yes",
        "RestrictAddressFamilies": "AF_INET AF_INET6 AF_UNIX",
        "RestrictSUIDSGID": "yes",
        "SystemCallFilter": "@system-service",
        "User": "egregore",
        "EnvironmentFile": "/etc/egregore/worker.env",
    }

    assert {name: unit.get(name) for name in hardened} == hardened
    assert "Environment" not in unit
    assert "MemoryMax" in unit
    assert "://" not in unit["ExecStart"]


PROBE = """
import json, os, sys
sys.path.insert(0, sys.argv.pop(1))
import entrypoint
os.execvpe = lambda path, arguments, environ: print(json.dumps([arguments, dict(environ)]))
entrypoint.main()
"""


def start(*arguments: str, **environ: str) -> subprocess.CompletedProcess[str]:
    """Run the entry point with nothing but ``environ``; instead of becoming the worker it prints what it would be."""
    command = [sys.executable, "-c", PROBE, str(ROOT / "worker"), *arguments]
    return subprocess.run(command, env=environ, capture_output=True, text=True, check=False)


@pytest.fixture
def password(tmp_path: Path) -> Path:
    file = tmp_path / "password"
    file.touch(mode=0o400)
    file.chmod(0o600)
    file.write_text("p@ss/word\n")
    return file


def test_the_entry_point_makes_the_url(password: Path) -> None:
    """The password goes, quoted, into the worker's environment and not into its arguments."""
    done = start(
        "--concurrency",
        "4",
        EGREGORE_BROKER_HOST="valkey",
        EGREGORE_BROKER_PASSWORD_FILE=str(password),
        EGREGORE_WORKER_NAME="w1@here",
    )
    arguments, environ = yaml.safe_load(done.stdout)

    assert arguments[1:] == ["-m", "egregore_dist", "worker", "--name", "w1@here", "--concurrency", "4"]
    assert environ["EGREGORE_BROKER_URL"] == "redis://:p%40ss%2Fword@valkey:6379/0"
    assert environ["EGREGORE_WORKER_NAME"] == "w1@here"


def test_a_given_url_is_kept() -> None:
    """EGREGORE_BROKER_URL, when set, is used as it is; the name is completed with the host's."""
    arguments, environ = yaml.safe_load(start(EGREGORE_BROKER_URL="rediss://:x@h:1/0").stdout)

    assert environ["EGREGORE_BROKER_URL"] == "rediss://:x@h:1/0"
    assert arguments[5] == environ["EGREGORE_WORKER_NAME"] == f"worker@{socket.gethostname()}"


@pytest.mark.parametrize(
    ("tls", "url"),
    [
        ("yes", "rediss://a%20user:p%40ss%2Fword@h:6380/0?ssl_ca_certs=/tls/ca.pem"),
        ("", "redis://a%20user:p%40ss%2Fword@h:6380/0"),
    ],
)
def test_tls_and_the_user_are_settings(password: Path, tls: str, url: str) -> None:
    """EGREGORE_BROKER_TLS=yes makes a rediss URL with the CA's file."""
    done = start(
        EGREGORE_BROKER_HOST="h",
        EGREGORE_BROKER_PORT="6380",
        EGREGORE_BROKER_USER="a user",
        EGREGORE_BROKER_TLS=tls,
        EGREGORE_BROKER_CA_FILE="/tls/ca.pem",
        EGREGORE_BROKER_PASSWORD_FILE=str(password),
    )

    assert yaml.safe_load(done.stdout)[1]["EGREGORE_BROKER_URL"] == url


def test_another_command_runs_in_the_place_of_the_worker() -> None:
    """Arguments that begin with no option are the command that the container becomes, with the same environment."""
    arguments, environ = yaml.safe_load(start("python", "my_script.py", EGREGORE_BROKER_URL="redis://h:1/0").stdout)

    assert arguments == ["python", "my_script.py"]
    assert environ["EGREGORE_BROKER_URL"] == "redis://h:1/0"


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"EGREGORE_BROKER_HOST": ""}, "set EGREGORE_BROKER_URL, or EGREGORE_BROKER_HOST"),
        ({"EGREGORE_BROKER_PORT": "http"}, "must be a number"),
        ({"EGREGORE_BROKER_TLS": "true"}, "must be yes or no"),
        ({"EGREGORE_BROKER_PASSWORD_FILE": ""}, "set EGREGORE_BROKER_PASSWORD_FILE"),
        ({"EGREGORE_BROKER_PASSWORD_FILE": "/nowhere"}, "No such file"),
        ({"EGREGORE_BROKER_PASSWORD_FILE": "/dev/null"}, "not a regular file"),
    ],
)
def test_a_wrong_setting_is_one_clear_line(password: Path, change: dict[str, str], said: str) -> None:
    """A container that cannot start says why in one line, without a traceback."""
    environ = {"EGREGORE_BROKER_HOST": "h", "EGREGORE_BROKER_PASSWORD_FILE": str(password), **change}
    done = start(**environ)

    assert done.returncode == 1
    assert said in done.stderr
    assert done.stderr.count("\n") == 1
    assert "p@ss" not in done.stderr


@pytest.mark.parametrize("mode", [0o604, 0o644, 0o602, 0o460])
def test_s15_an_open_password_file_is_refused(password: Path, mode: int) -> None:
    """A password file that others can read, or that others or its group can write, is refused."""
    password.chmod(mode)
    done = start(EGREGORE_BROKER_HOST="h", EGREGORE_BROKER_PASSWORD_FILE=str(password))

    assert done.returncode == 1
    assert f"is open to others: chmod 440 {password}" in done.stderr


def test_a_password_file_of_a_group_is_read(password: Path) -> None:
    """The container's group may read the password, as `deploy/passwords.sh` leaves it."""
    password.chmod(0o440)
    done = start(EGREGORE_BROKER_HOST="h", EGREGORE_BROKER_PASSWORD_FILE=str(password))

    assert done.returncode == 0, done.stderr


def test_s15_a_link_to_a_password_is_not_followed(password: Path, tmp_path: Path) -> None:
    """A symbolic link is refused; the file itself is read, also through a folder's link, as Kubernetes mounts it."""
    (tmp_path / "..data").symlink_to(tmp_path)
    (tmp_path / "link").symlink_to(Path("..data", password.name))
    link = start(EGREGORE_BROKER_HOST="h", EGREGORE_BROKER_PASSWORD_FILE=str(tmp_path / "link"))
    file = start(EGREGORE_BROKER_HOST="h", EGREGORE_BROKER_PASSWORD_FILE=str(tmp_path / "..data" / password.name))

    assert link.returncode == 1
    assert f"{tmp_path / 'link'} is a symbolic link: name the file itself" in link.stderr
    assert file.returncode == 0, file.stderr


@pytest.mark.parametrize(
    ("given", "said"),
    [
        ({"EGREGORE_BROKER_URL": "redis://h:1/0", "EGREGORE_RETENTION": "abc"}, "EGREGORE_RETENTION"),
        ({"EGREGORE_BROKER_URL": "amqp://h//"}, "set EGREGORE_LEDGER_URL"),
        ({"EGREGORE_BROKER_URL": "foo"}, "has no scheme"),
        ({"EGREGORE_BROKER_URL": "redis://:p@ss@h:port/0"}, "EGREGORE_BROKER_URL cannot be read: the port"),
    ],
)
def test_the_health_check_of_a_wrong_setting_is_one_clear_line(given: dict[str, str], said: str) -> None:
    """A setting that cannot be is named by the health check too, and its value is not."""
    command = [sys.executable, str(ROOT / "worker" / "healthcheck.py")]
    done = subprocess.run(command, env={**given, "PYTHONPATH": str(ROOT)}, capture_output=True, text=True, check=False)

    assert done.returncode == 1
    assert done.stderr.startswith("unhealthy: ")
    assert said in done.stderr
    assert done.stderr.count("\n") == 1
    assert "ss@h" not in done.stderr


def test_the_health_check_is_one_clear_line(password: Path) -> None:
    """Without a server the health check fails with one line that holds no password."""
    command = [sys.executable, str(ROOT / "worker" / "healthcheck.py")]
    environ = {
        "EGREGORE_BROKER_HOST": "127.0.0.1",
        "EGREGORE_BROKER_PORT": "1",
        "EGREGORE_BROKER_PASSWORD_FILE": str(password),
        "PYTHONPATH": str(ROOT),
    }
    done = subprocess.run(command, env=environ, capture_output=True, text=True, check=False)

    assert done.returncode == 1
    assert done.stderr == "unhealthy: the ledger cannot be reached: ConnectionError\n"


def test_nginx_tells_the_monitor_who_asks() -> None:
    """Host and the address are handed on as nginx sees them, by HTTPS alone, to this machine, and streams at once."""
    text = (ROOT / "deploy" / "nginx" / "monitor.conf").read_text()

    assert "proxy_set_header Host $host;" in text
    assert re.findall(r"X-Forwarded-For (\S+);", text) == ["$remote_addr"]
    assert re.findall(r"listen ([^;]+);", text) == ["443 ssl"]
    assert re.findall(r"proxy_pass ([^;]+);", text) == ["http://127.0.0.1:8750"]
    assert "proxy_buffering off;" in text
