"""Key files and the environment variable."""

import os
import stat
import threading
from pathlib import Path

import pytest

from eloquent.errors import ConfigurationError
from eloquent.keys import create_keys, default_key_path, load_keys
from eloquent.protocol.ticket import KeyRing

needs_modes = pytest.mark.skipif(os.name != "posix", reason="the system keeps no POSIX file modes")


@pytest.fixture(autouse=True)
def _own_environment(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.delenv("ELOQUENT_KEYS", raising=False)
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path / "config"))


def test_created_keys_load(tmp_path: Path) -> None:
    path = tmp_path / "new" / "folder" / "keys"
    created = create_keys(path)
    assert load_keys(path) == created


@needs_modes
def test_only_the_owner_can_read_a_created_file(tmp_path: Path) -> None:
    path = tmp_path / "new" / "keys"
    before = os.umask(0)
    try:
        create_keys(path)
    finally:
        os.umask(before)
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert stat.S_IMODE(path.parent.stat().st_mode) == 0o700


def test_nothing_else_is_left_in_the_folder(tmp_path: Path) -> None:
    create_keys(tmp_path / "keys")
    with pytest.raises(ConfigurationError):
        create_keys(tmp_path / "keys")
    assert [path.name for path in tmp_path.iterdir()] == ["keys"]


def test_an_existing_file_is_never_overwritten(tmp_path: Path) -> None:
    path = tmp_path / "keys"
    path.write_text("precious")
    with pytest.raises(ConfigurationError, match=r"keys exists already and is not overwritten"):
        create_keys(path)
    assert path.read_text() == "precious"


def test_a_link_to_nowhere_is_not_followed(tmp_path: Path) -> None:
    (tmp_path / "keys").symlink_to(tmp_path / "elsewhere")
    with pytest.raises(ConfigurationError, match="exists already"):
        create_keys(tmp_path / "keys")
    assert not (tmp_path / "elsewhere").exists()


def test_of_many_who_create_the_file_at_once_one_wins(tmp_path: Path) -> None:
    path, made = tmp_path / "keys", list[KeyRing]()
    barrier = threading.Barrier(8)

    def create() -> None:
        barrier.wait()
        try:
            made.append(create_keys(path))
        except ConfigurationError:
            # Whoever loses finds the winner's file whole.
            load_keys(path)

    threads = [threading.Thread(target=create) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert made == [load_keys(path)]


def test_a_file_that_cannot_be_written_is_named(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(ConfigurationError, match=r"file/keys cannot be written: "):
        create_keys(tmp_path / "file" / "keys")


@needs_modes
@pytest.mark.parametrize("mode", [0o640, 0o604, 0o620, 0o601, 0o666])
def test_a_file_that_others_can_access_is_refused(tmp_path: Path, mode: int) -> None:
    path = tmp_path / "keys"
    create_keys(path)
    path.chmod(mode)
    with pytest.raises(ConfigurationError, match=f"mode {mode:04o}.*chmod 600"):
        load_keys(path)


@needs_modes
def test_a_read_only_file_is_fine(tmp_path: Path) -> None:
    keys = create_keys(tmp_path / "keys")
    (tmp_path / "keys").chmod(0o400)
    assert load_keys(tmp_path / "keys") == keys


def test_a_missing_file_says_what_to_do(tmp_path: Path) -> None:
    with pytest.raises(ConfigurationError, match=r"no key file .*absent; `eloquent keys new`"):
        load_keys(tmp_path / "absent")


def test_a_folder_is_no_key_file(tmp_path: Path) -> None:
    with pytest.raises(ConfigurationError, match="cannot be read"):
        load_keys(tmp_path)


def private_file(path: Path, content: bytes) -> Path:
    path.write_bytes(content)
    path.chmod(0o600)
    return path


def test_errors_in_a_file_name_the_file_and_the_line(tmp_path: Path) -> None:
    path = private_file(tmp_path / "keys", b"# one\nnonsense\n")
    with pytest.raises(ConfigurationError, match=r"keys: line 2: not a sealing key"):
        load_keys(path)


def test_a_binary_file_is_not_text(tmp_path: Path) -> None:
    with pytest.raises(ConfigurationError, match="is not text"):
        load_keys(private_file(tmp_path / "keys", b"\xff\xfe\x00"))


def test_the_default_file_is_the_last_resort(monkeypatch: pytest.MonkeyPatch) -> None:
    default = create_keys(default_key_path())
    assert load_keys() == default
    monkeypatch.setenv("ELOQUENT_KEYS", " ")
    assert load_keys() == default
    other = KeyRing.generate(os.urandom)
    monkeypatch.setenv("ELOQUENT_KEYS", other.format())
    assert load_keys() == other


def test_a_path_counts_more_than_the_environment(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    keys = create_keys(tmp_path / "keys")
    monkeypatch.setenv("ELOQUENT_KEYS", KeyRing.generate(os.urandom).format())
    assert load_keys(tmp_path / "keys") == keys


def test_the_environment_may_name_a_file(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    keys = create_keys(tmp_path / "keys")
    monkeypatch.setenv("ELOQUENT_KEYS", str(tmp_path / "keys"))
    assert load_keys() == keys


def test_the_environment_may_hold_more_keys_than_a_path_may_have_characters(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    keys = KeyRing([(bytes([0, 0, 0, i]), os.urandom(32)) for i in range(100)])
    monkeypatch.setenv("ELOQUENT_KEYS", keys.format())
    assert load_keys() == keys


def test_a_bad_environment_is_not_repeated_in_the_error(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ELOQUENT_KEYS", "hunter2/not/there")
    with pytest.raises(ConfigurationError, match="ELOQUENT_KEYS neither names a file nor holds") as caught:
        load_keys()
    assert "hunter2" not in str(caught.value)


def test_default_path(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    assert default_key_path() == tmp_path / "config" / "eloquent" / "keys"
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    in_home = tmp_path / "home" / ".config" / "eloquent" / "keys"
    monkeypatch.delenv("XDG_CONFIG_HOME")
    assert default_key_path() == in_home
    # The XDG specification: relative paths are invalid and ignored.
    monkeypatch.setenv("XDG_CONFIG_HOME", "relative")
    assert default_key_path() == in_home
