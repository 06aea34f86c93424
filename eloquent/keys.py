"""Where the keys that seal tickets are kept: a private file, or the environment."""

from __future__ import annotations

import os
import stat
import tempfile
from pathlib import Path

from eloquent.errors import ConfigurationError
from eloquent.protocol.ticket import KeyRing

ENVIRONMENT_VARIABLE = "ELOQUENT_KEYS"
"""Holds the text of a key file, or names one."""


def default_key_path() -> Path:
    """The key file of this user: `eloquent/keys` in $XDG_CONFIG_HOME or ~/.config."""
    # The XDG specification says to ignore a relative path.
    configured = Path(os.environ.get("XDG_CONFIG_HOME", ""))
    base = configured if configured.is_absolute() else Path.home() / ".config"
    return base / "eloquent" / "keys"


def load_keys(path: Path | None = None) -> KeyRing:
    """The keys from `path`, else from ELOQUENT_KEYS, else from the default file.

    Raises ConfigurationError where there are none, where they cannot be read, and where others
    could read them too.
    """
    if path is not None:
        return _read(path)
    configured = os.environ.get(ENVIRONMENT_VARIABLE, "")
    if not configured.strip():
        return _read(default_key_path())
    # Not Path.is_file: it raises for a text too long to be a name.
    if os.path.isfile(configured):
        return _read(Path(configured))
    try:
        return KeyRing.parse(configured)
    except ConfigurationError as error:
        raise ConfigurationError(
            f"{ENVIRONMENT_VARIABLE} neither names a file nor holds sealing keys: {error}"
        ) from None


def create_keys(path: Path) -> KeyRing:
    """Write a new key to `path`, readable by its owner only; an existing file stays untouched.

    Raises ConfigurationError where the file exists already or cannot be written.
    """
    keys = KeyRing.generate(os.urandom)
    try:
        path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        is_new = _write_new(path, keys.format())
    except OSError as error:
        raise ConfigurationError(f"the key file {path} cannot be written: {error.strerror}") from None
    if not is_new:
        raise ConfigurationError(f"{path} exists already and is not overwritten")
    return keys


def _write_new(path: Path, text: str) -> bool:
    """Let `path` appear with all of the text or not at all; False where it exists already."""
    descriptor, temporary = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.")  # mode 0600
    try:
        with open(descriptor, "w", encoding="ascii") as file:
            file.write(text)
            file.flush()
            os.fsync(file.fileno())
        # A link, as a rename would replace what another process has just created.
        os.link(temporary, path)
    except FileExistsError:
        return False
    finally:
        os.unlink(temporary)
    return True


def _read(path: Path) -> KeyRing:
    try:
        with open(path, encoding="utf-8") as file:
            mode = os.fstat(file.fileno()).st_mode
            text = file.read()
    except FileNotFoundError:
        raise ConfigurationError(
            f"there is no key file {path}; `eloquent keys new` creates one, or set {ENVIRONMENT_VARIABLE}"
        ) from None
    except OSError as error:
        raise ConfigurationError(f"the key file {path} cannot be read: {error.strerror}") from None
    except UnicodeDecodeError:
        raise ConfigurationError(f"the key file {path} is not text") from None
    _check_private(path, mode)
    try:
        return KeyRing.parse(text)
    except ConfigurationError as error:
        raise ConfigurationError(f"{path}: {error}") from None


def _check_private(path: Path, mode: int) -> None:
    """Raise ConfigurationError where anyone but the owner could read or change the keys."""
    # Windows keeps no such bits; os.fstat makes them up there.
    if os.name == "posix" and mode & (stat.S_IRWXG | stat.S_IRWXO):
        raise ConfigurationError(
            f"others can access the key file {path} (mode {stat.S_IMODE(mode):04o}); run: chmod 600 {path}"
        )
