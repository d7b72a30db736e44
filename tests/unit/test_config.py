"""Where a value comes from, and what is refused."""

import argparse
import tomllib
from pathlib import Path

import pytest

from agentd.config import ConfigError, Loaded, add_flags, describe, load
from tests.docs import dialects


def flags(*arguments: str) -> dict[str, object]:
    parser = argparse.ArgumentParser()
    add_flags(parser)
    return vars(parser.parse_args(arguments))


def file(tmp_path: Path, text: str) -> str:
    (tmp_path / "agentd.toml").write_text(text)
    return str(tmp_path / "agentd.toml")


def test_flags_beat_environment_beats_file_beats_defaults(tmp_path: Path) -> None:
    name = file(tmp_path, "drain_timeout = 1\nsandbox_id = 'f'\n[uploads]\nmax_parts = 1\n[limits]\nconnections = 7")
    environment = {"AGENTD_UPLOADS_MAX_PARTS": "2", "AGENTD_DRAIN_TIMEOUT": "2", "PATH": "/bin"}
    loaded = load(name, environment, flags("--drain-timeout", "3"))
    config = loaded.config
    assert (config.drain_timeout, config.uploads.max_parts, config.limits.connections) == (3, 2, 7)
    assert (config.sandbox_id, config.root) == ("f", "/")
    assert loaded.origins["drain_timeout"] == "flag --drain-timeout"
    assert loaded.origins["uploads.max_parts"] == "environment AGENTD_UPLOADS_MAX_PARTS"
    assert loaded.origins["limits.connections"] == f"file {name}"
    assert loaded.origins["root"] == "default"


@pytest.mark.parametrize(
    ("text", "size"),
    [
        ("4096", 4096),
        ("8MiB", 8 << 20),
        ("8 mib", 8 << 20),
        ("2G", 2 * 10**9),
        ("2GB", 2 * 10**9),
        ("1TiB", 1 << 40),
        ("1k", 1000),
    ],
)
def test_sizes_are_bytes_or_text(text: str, size: int) -> None:
    assert load(None, {}, flags("--uploads-part-size", text)).config.uploads.part_size == size


def test_listeners_come_as_a_list_from_everywhere(tmp_path: Path) -> None:
    both = ("127.0.0.1:1", "unix:/x")
    assert load(None, {}, flags("--listen", both[0], "--listen", both[1])).config.listen == both
    assert load(None, {"AGENTD_LISTEN": "127.0.0.1:1, unix:/x"}, {}).config.listen == both
    assert load(file(tmp_path, "listen = ['127.0.0.1:1', 'unix:/x']"), {}, {}).config.listen == both


def test_switches_can_be_turned_on_and_off_again() -> None:
    assert load(None, {"AGENTD_INSECURE": "true"}, {}).config.insecure
    assert not load(None, {"AGENTD_INSECURE": "1"}, flags("--no-insecure")).config.insecure


@pytest.mark.parametrize(
    ("text", "key"),
    [
        *(
            ("rooot = '/'", "rooot"),
            ("[uploads]\nsize = 1", "uploads.size"),
            ("[upload]\npart_size = 1", "upload.part_size"),
        ),
        *(("uploads = 1", "uploads"), ("[uploads]\npart_size = 0", "uploads.part_size"), ("listen = []", "listen")),
        *(("[uploads]\npart_size = '8 bananas'", "uploads.part_size"), ("[root]\nx = 1", "root.x")),
        *(("user_access = 'closed'", "user_access"), ("workspace = 'relative'", "workspace")),
        *(("drain_timeout = -1", "drain_timeout"), ("insecure = 'perhaps'", "insecure"), ("= broken", "config")),
    ],
)
def test_what_cannot_be_used_is_refused_by_its_key_in_one_line(tmp_path: Path, text: str, key: str) -> None:
    with pytest.raises(ConfigError) as caught:
        load(file(tmp_path, text), {}, {})
    assert caught.value.key == key
    assert str(caught.value).startswith(f"{key}: ")
    assert "\n" not in str(caught.value)


def test_an_unknown_variable_is_refused_but_those_of_others_are_not() -> None:
    with pytest.raises(ConfigError, match="AGENTD_PART_SIZE: there is no such key"):
        load(None, {"AGENTD_PART_SIZE": "1"}, {})
    load(None, {"AGENTD_TEST_TIME_UNIT": "1", "AGENTD_SERVICE_HOST": "10.0.0.1", "AGENTD_PORT_80_TCP": "x"}, {})


def test_a_missing_file_is_named() -> None:
    with pytest.raises(ConfigError, match="config: /no/such/file: No such file or directory"):
        load("/no/such/file", {}, {})


def test_what_is_printed_is_toml_that_gives_the_same(tmp_path: Path) -> None:
    loaded = load(None, {"AGENTD_SANDBOX_ID": 'a"b'}, flags("--uploads-quota-bytes", "1GiB", "--insecure"))
    again: Loaded = load(file(tmp_path, loaded.text()), {}, {})
    assert again.config == loaded.config
    assert 'sandbox_id = "a\\"b"  # environment AGENTD_SANDBOX_ID' in loaded.text()
    assert tomllib.loads(loaded.text())["uploads"]["quota_bytes"] == 1 << 30


def test_every_key_says_what_it_means_and_has_its_flag_and_variable() -> None:
    settings = {setting.key: setting for setting in describe()}
    assert all(setting.meaning for setting in settings.values())
    part = settings["uploads.part_size"]
    assert (part.flag, part.environment, part.default) == ("--uploads-part-size", "AGENTD_UPLOADS_PART_SIZE", "8388608")


def test_a_limit_of_open_files_under_which_no_shell_works_is_refused() -> None:
    with pytest.raises(ConfigError, match=r"processes.open_files: '64' is not a whole number, at least 128"):
        load(None, {}, {"processes.open_files": "64"})


@pytest.mark.parametrize(
    ("key", "value", "said"),
    [
        ("drain_timeout", "1d", "'1d' is not a number of seconds, at least 0"),
        ("handles.lifetime", "2e9", "'2e9' is not a number of seconds, above 0, at most 1,000,000,000"),
        ("limits.unauthenticated_per_second", "x", "'x' is not a number, above 0"),
        ("uploads.part_size", "8 bananas", "'8 bananas' is not a size such as 4096 or 8MiB, at least 1"),
        ("processes.nice", "20", "'20' is not a whole number, at least -20, at most 19"),
        ("uploads.durability", "foo", "'foo' is not one of power, process"),
        ("insecure", "perhaps", "'perhaps' is not true or false"),
        ("workspace", "here", "'here' is not an absolute path"),
        ("public_url", "here", "'here' is not an http or https URL"),
        ("root", "", "'' is not a text that is not empty"),
        ("listen", [], "[] is not a list of one or more, whose items are each a text"),
        ("dialects", "x", "'x' is not a list whose items are each one of blackbox, conway, daytona, duvo, nullspace"),
        ("dialect_at_root", "x", "'x' is not one of blackbox, conway, daytona, duvo, nullspace"),
    ],
)
def test_what_a_value_has_to_be_is_said_in_words(key: str, value: object, said: str) -> None:
    with pytest.raises(ConfigError) as caught:
        load(None, {}, {key: value})
    assert str(caught.value).startswith(f"{key}: {said} (flag --")


def test_of_every_key_it_is_known_in_words_what_its_value_has_to_be() -> None:
    for setting in describe():
        with pytest.raises(ConfigError) as caught:
            load(None, {}, {setting.key: {}})
        assert str(caught.value).startswith(f"{setting.key}: {{}} is not ")


def test_a_token_is_no_value(tmp_path: Path) -> None:
    said = "a token is never a value here, where others could read it: name its file, with AGENTD_TOKEN_FILE"
    with pytest.raises(ConfigError, match=f"AGENTD_TOKEN: {said}"):
        load(None, {"AGENTD_TOKEN": "secret"}, {})
    with pytest.raises(ConfigError, match=f"token: {said}"):
        load(file(tmp_path, "token = 'secret'"), {}, {})


def test_the_dialects_are_those_that_there_are() -> None:
    there = {dialect.name for dialect in dialects()} - {"agentd"}
    assert {*load(None, {}, flags("--dialects", ",".join(there))).config.dialects} == there
    with pytest.raises(ConfigError, match="dialect_at_root: conway is not one of the dialects that are served"):
        load(None, {}, flags("--dialects", "duvo", "--dialect-at-root", "conway"))
