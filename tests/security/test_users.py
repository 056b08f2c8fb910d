"""The users file and its commands."""

from __future__ import annotations

import io
import json
import re
from pathlib import Path

import pytest
from argon2 import PasswordHasher

from analysis.errors import AnalysisError
from dash_app import cli
from dash_app.security.users import Users

PASSWORD = "correct horse battery"  # noqa: S105


def test_the_users_file_is_private_and_holds_hashes(tmp_path: Path) -> None:
    path = tmp_path / "new" / "users.json"
    Users(path).add("alice", PASSWORD)
    assert path.stat().st_mode & 0o777 == 0o600
    text = path.read_text()
    assert PASSWORD not in text
    assert json.loads(text)["users"]["alice"]["argon2"].startswith("$argon2id$")
    assert [other.name for other in path.parent.iterdir() if other.suffix not in (".lock",)] == [
        "users.json"
    ]


def test_hashes_have_the_required_cost(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("dash_app.security.users.PasswordHasher", PasswordHasher)
    Users(tmp_path / "users.json").add("alice", PASSWORD)
    kept = json.loads((tmp_path / "users.json").read_text())["users"]["alice"]["argon2"]
    memory = int(re.findall(r"m=(\d+)", kept)[0])
    assert memory >= 19 * 1024, "OWASP's least, in KiB"


def test_passwords_are_checked_and_salted(tmp_path: Path) -> None:
    users = Users(tmp_path / "users.json")
    assert users.add("alice", PASSWORD)
    assert users.add("bob", PASSWORD)
    assert users.verify("alice", PASSWORD)
    assert not users.verify("alice", PASSWORD.upper())
    assert not users.verify("Alice", PASSWORD)
    assert users.mark("alice") != users.mark("bob")
    assert users.mark("nobody") == ""
    assert not users.add("alice", "another password")
    assert not users.verify("alice", PASSWORD)


def test_a_change_by_another_process_applies_at_once(tmp_path: Path) -> None:
    path = tmp_path / "users.json"
    server, command = Users(path), Users(path)
    assert server.names() == ()
    command.add("alice", PASSWORD)
    assert server.verify("alice", PASSWORD)
    command.remove("alice")
    assert not server.verify("alice", PASSWORD)


@pytest.mark.parametrize("name", ["", " ", "a b", "../alice", "a/b", "<b>", "-x", "a" * 65, "a\n"])
def test_invalid_names_are_refused(tmp_path: Path, name: str) -> None:
    with pytest.raises(AnalysisError, match="not a valid user name"):
        Users(tmp_path / "users.json").add(name, PASSWORD)


@pytest.mark.parametrize("password", ["", "short", "x" * 1025])
def test_weak_passwords_are_refused(tmp_path: Path, password: str) -> None:
    with pytest.raises(AnalysisError, match="characters"):
        Users(tmp_path / "users.json").add("alice", password)
    assert not Users(tmp_path / "users.json").verify("alice", password)


def test_a_password_in_another_encoding_is_refused_with_a_message(tmp_path: Path) -> None:
    piped = b"caf\xe9 caf\xe9 caf\xe9".decode(errors="surrogateescape")
    with pytest.raises(AnalysisError, match="not UTF-8"):
        Users(tmp_path / "users.json").add("alice", piped)


def test_a_users_file_that_others_can_write_admits_nobody(tmp_path: Path) -> None:
    path = tmp_path / "users.json"
    Users(path).add("alice", PASSWORD)
    path.chmod(0o644)
    with pytest.raises(AnalysisError, match="chmod 600"):
        Users(path).verify("alice", PASSWORD)


@pytest.mark.parametrize(
    "text", ["", "{", "[]", '{"users": []}', '{"users": {"alice": "plain"}}', '{"names": {}}']
)
def test_a_damaged_file_gives_a_message(tmp_path: Path, text: str) -> None:
    path = tmp_path / "users.json"
    path.write_text(text)
    path.chmod(0o600)
    with pytest.raises(AnalysisError, match="can't be read"):
        Users(path).names()


def test_a_hash_of_another_kind_admits_nobody(tmp_path: Path) -> None:
    path = tmp_path / "users.json"
    path.write_text(json.dumps({"users": {"alice": {"argon2": PASSWORD}}}))
    path.chmod(0o600)
    assert not Users(path).verify("alice", PASSWORD)


def test_the_commands(
    data_dir: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr("sys.stdin", io.StringIO(f"{PASSWORD}\n"))
    assert cli.main(["users", "add", "alice"]) == 0
    assert cli.main(["users", "list"]) == 0
    assert capsys.readouterr().out == "alice may sign in.\nalice\n"
    assert Users(data_dir / "users.json").verify("alice", PASSWORD)
    monkeypatch.setattr("sys.stdin", io.StringIO("short\n"))
    assert cli.main(["users", "add", "bob"]) == 1
    assert cli.main(["users", "remove", "alice"]) == 0
    assert cli.main(["users", "remove", "alice"]) == 1
    assert "There is no user 'alice'" in capsys.readouterr().err


def test_the_command_asks_for_a_password_twice(
    data_dir: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    terminal = io.StringIO()
    monkeypatch.setattr(terminal, "isatty", lambda: True)
    monkeypatch.setattr("sys.stdin", terminal)
    said = iter([PASSWORD, PASSWORD, PASSWORD, "another password"])
    monkeypatch.setattr("getpass.getpass", lambda _: next(said))
    assert cli.main(["users", "add", "alice"]) == 0
    assert cli.main(["users", "add", "alice"]) == 1
    assert "passwords differ" in capsys.readouterr().err
