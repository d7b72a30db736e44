"""What ``agentd manifest kubernetes`` prints is what Kubernetes and the agent-sandbox engine take."""

import re
import subprocess
import sys
import venv
from collections.abc import Callable
from hashlib import sha256
from pathlib import Path

import pytest

from agentd.config import Config

Validate = Callable[[str], "subprocess.CompletedProcess[str]"]


@pytest.fixture(scope="module")
def validate(tmp_path_factory: pytest.TempPathFactory) -> Validate:
    """In an environment of its own; the objects' kinds, a line each."""
    place = tmp_path_factory.mktemp("validate")
    venv.create(place, with_pip=False, symlinks=True)
    python = str(place / "bin/python")
    pip = [sys.executable, "-m", "pip", "--python", python, "install", "--quiet", "--disable-pip-version-check"]
    subprocess.run([*pip, "--no-compile", "kubernetes-validate==1.37.0"], check=True)

    def run(text: str) -> "subprocess.CompletedProcess[str]":
        driver = Path(__file__).with_name("validating.py")
        return subprocess.run([python, driver], input=text, capture_output=True, text=True, timeout=120)

    return run


def printed(*flags: str) -> "subprocess.CompletedProcess[str]":
    command = [sys.executable, "-m", "agentd", "manifest", "kubernetes", *flags]
    return subprocess.run(command, capture_output=True, text=True, timeout=60)


@pytest.mark.parametrize(
    "flags",
    [
        (),
        ("--users", "--name", "sb-1"),
        ("--storage", "500Mi", "--image", "r.example/a:1"),
        ("--name", "true"),
        ("--name", "1e3", "--image", "12:30"),
    ],
)
def test_every_object_is_what_its_schema_says(validate: Validate, flags: tuple[str, ...]) -> None:
    done = validate(printed(*flags).stdout)
    assert done.returncode == 0, done.stderr
    wanted = ["Secret", "PersistentVolumeClaim", "Pod", "Sandbox", "SandboxTemplate", "SandboxWarmPool"]
    assert done.stdout.split() == wanted


@pytest.mark.parametrize(
    "misspelt",
    [("periodSeconds", "periodSecond"), ("service: true", "services: true"), ('name: "agentd"', "name: true")],
)
def test_the_check_sees_a_field_that_is_misspelt(validate: Validate, misspelt: tuple[str, str]) -> None:
    text = printed().stdout
    assert misspelt[0] in text
    assert validate(text.replace(*misspelt)).returncode != 0


@pytest.mark.parametrize(
    ("kind", "kinds"),
    [
        ("pod", ["PersistentVolumeClaim", "Pod"]),
        ("sandbox", ["Sandbox"]),
        ("template", ["SandboxTemplate", "SandboxWarmPool"]),
    ],
)
def test_one_kind_alone_with_a_secret_that_is_there(validate: Validate, kind: str, kinds: list[str]) -> None:
    done = printed("--kind", kind, "--secret", "mine")
    assert validate(done.stdout).stdout.split() == kinds
    assert (done.stdout.count('secretName: "mine"'), done.stderr) == (1, "")


def test_the_secret_has_the_token_s_digest_and_the_caller_the_token() -> None:
    done = printed("--kind", "pod")
    token = done.stderr.split()[-1]
    assert f"token: sha256:{sha256(token.encode()).hexdigest()}" in done.stdout
    assert token not in done.stdout


def test_only_what_comes_from_the_template_waits_for_its_identity() -> None:
    assert ["AGENTD_AWAIT_INIT" in printed("--kind", kind).stdout for kind in ("pod", "sandbox", "template")] == [
        *(False, False, True)
    ]


def test_the_grace_period_covers_the_drain() -> None:
    config = Config()
    needed = config.drain_notice + config.drain_timeout + config.processes.grace
    text = printed("--kind", "pod").stdout
    sleep = int(re.findall(r"sleep: {seconds: ([0-9]+)}", text)[0])
    assert int(re.findall(r"terminationGracePeriodSeconds: ([0-9]+)", text)[0]) > needed + sleep


@pytest.mark.parametrize(
    "flags", [("--name", "Not A Name"), ("--storage", "much"), ("--image", "a b"), ("--secret", "S")]
)
def test_what_kubernetes_would_not_take_is_refused(flags: tuple[str, ...]) -> None:
    done = printed(*flags)
    assert (done.returncode, done.stdout) == (2, "")
    assert "Kubernetes" in done.stderr.splitlines()[-1]
