"""Boots a kernel of /boot over this machine's files, and runs Python programs on it.

The machine is emulated in software (QEMU, by virtme-ng), with this one's files read-only. They come
over 9p, whose every look-up takes a millisecond there: the interpreter and what it imports are packed
on this side and unpacked into the machine's memory, from which they start six times as fast.
"""

import os
import platform
import shlex
import shutil
import subprocess
import sys
import sysconfig
import tarfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from fnmatch import fnmatch
from importlib.util import find_spec
from pathlib import Path

BOOT = Path("/boot")
MODULES = Path("/lib/modules")
UNPACKED = "/run/python"  # memory, in every virtme-ng machine
PACKAGES = (
    "eloquent",
    "netem",
    "pyroute2",
    "msgpack",
    "cryptography",
    "_cffi_backend",  # of cryptography
    "uvloop",
    "numpy",
    "click",
    "rich",
    "pygments",  # of rich, as the two below
    "markdown_it",
    "mdurl",
)
LEFT_OUT = ("site-packages", "dist-packages", "test", "tests", "idlelib", "ensurepip", "config-3*", "*.a")
PROGRAMS = {
    "qemu-system-x86_64": "apt-get install qemu-system-x86",
    "busybox": "apt-get install busybox-static",
    "udevadm": "apt-get install udev",
    "depmod": "apt-get install kmod",
    "xz": "apt-get install xz-utils",
    "setpriv": "apt-get install util-linux",
}


@dataclass(frozen=True)
class Finished:
    """How a program ended on the machine; `console` is what its kernel printed."""

    status: int | None
    stdout: str
    stderr: str
    console: str

    def __str__(self) -> str:
        return f"status {self.status}\n{self.stdout}\n{self.stderr}\nConsole:\n{self.console}"


def missing() -> list[str]:
    """What this machine lacks to boot another, and how to get it."""
    lacks = [f"{name} ({remedy})" for name, remedy in PROGRAMS.items() if not shutil.which(name)]
    if platform.machine() != "x86_64":
        lacks.append("an x86-64 processor, whose programs the machine runs")
    if find_spec("virtme_ng") is None:
        lacks.append("virtme-ng (pip install --group kernel)")
    if os.geteuid() != 0:
        lacks.append("root, to read the kernel and its modules")
    if _kernel() is None:
        lacks.append(f"a kernel in {BOOT} with its modules (apt-get install linux-image-amd64)")
    return lacks


def run_all(programs: Mapping[str, Sequence[str]], share: Path, *, limit_s: float) -> dict[str, Finished]:
    """Boot, run Python with each of these lists of arguments, and return how they ended, by name.

    `share` is a directory for the files that both machines see. One that was not begun, or not ended
    within the limit, has the status None.
    """
    kernel = _kernel()
    assert kernel is not None
    _prepare_modules(kernel.name.removeprefix("vmlinuz-"))
    _pack(share / "python.tar")
    script = share / "programs.sh"
    script.write_text(_script(programs, share))
    script.chmod(0o755)
    with (share / "console").open("wb") as console:
        _boot(kernel, script, share, console.fileno(), limit_s)
    return {name: _finished(share, name) for name in programs}


def _kernel() -> Path | None:
    """The newest kernel that has its modules here."""
    found = [
        image for image in BOOT.glob("vmlinuz-*") if (MODULES / image.name.removeprefix("vmlinuz-")).is_dir()
    ]
    return max(found, key=lambda image: image.stat().st_mtime, default=None)


def _prepare_modules(release: str) -> None:
    """virtme-ng loads modules that are not compressed."""
    packed = [str(path) for path in (MODULES / release).rglob("*.ko.xz")]
    for start in range(0, len(packed), 500):  # an argument list has an end
        subprocess.run(["xz", "--decompress", *packed[start : start + 500]], check=True)
    if packed or not (MODULES / release / "modules.dep").exists():
        subprocess.run(["depmod", release], check=True)


def _pack(archive: Path) -> None:
    """bin/, lib/ and packages/ of a Python that finds everything beside itself."""
    version = f"python{sys.version_info.major}.{sys.version_info.minor}"
    with tarfile.open(archive, "w") as tar:
        tar.add(os.path.realpath(sys.executable), "bin/python")
        tar.add(sysconfig.get_path("stdlib"), f"lib/{version}", filter=_without_the_superfluous)
        if sysconfig.get_config_var("Py_ENABLE_SHARED"):
            library = Path(sysconfig.get_config_var("LIBDIR"), sysconfig.get_config_var("INSTSONAME"))
            tar.add(library.resolve(), f"lib/{library.name}")
        for package in PACKAGES:
            for path in _files_of(package):
                tar.add(path, f"packages/{path.name}", filter=_without_the_superfluous)


def _files_of(package: str) -> list[Path]:
    spec = find_spec(package)
    assert spec is not None, f"{package} is not installed"
    assert spec.origin is not None
    if not spec.submodule_search_locations:
        return [Path(spec.origin)]
    home = Path(spec.origin).parent
    libraries = home.with_name(f"{home.name}.libs")  # of numpy's wheel
    return [home, libraries] if libraries.exists() else [home]


def _without_the_superfluous(entry: tarfile.TarInfo) -> tarfile.TarInfo | None:
    return None if any(fnmatch(Path(entry.name).name, pattern) for pattern in LEFT_OUT) else entry


def _script(programs: Mapping[str, Sequence[str]], share: Path) -> str:
    lines = [
        "#!/bin/sh",
        f"mkdir {UNPACKED} && tar -xf {shlex.quote(str(share / 'python.tar'))} -C {UNPACKED} || exit",
        f"cd {UNPACKED}",
        f"export PYTHONPATH={UNPACKED}/packages LD_LIBRARY_PATH={UNPACKED}/lib PYTHONDONTWRITEBYTECODE=1",
    ]
    for name, arguments in programs.items():
        base = shlex.quote(str(share / name))
        lines.append(f"bin/python {shlex.join(arguments)} >{base}.stdout 2>{base}.stderr")
        lines.append(f"echo $? >{base}.status")
    return "\n".join(lines) + "\n"


def _boot(kernel: Path, script: Path, share: Path, console: int, limit_s: float) -> None:
    command = [
        *(sys.executable, "-m", "virtme_ng.run", "--run", str(kernel)),
        *("--disable-kvm", "--disable-microvm", "--force-9p", "--memory", "1G", "--cpus", "2"),
        *("--user", "root", "--verbose", "--rwdir", str(share), "--exec", str(script)),
    ]
    # It calls virtme-run, which is installed beside the interpreter.
    path = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
    with subprocess.Popen(
        command,
        stdin=subprocess.DEVNULL,
        stdout=console,
        stderr=subprocess.STDOUT,
        env={**os.environ, "PATH": path},
        start_new_session=True,
    ) as machine:
        try:
            machine.wait(timeout=limit_s)
        except subprocess.TimeoutExpired:
            pass  # the statuses that are not there tell
        finally:
            if machine.poll() is None:
                os.killpg(machine.pid, 9)


def _finished(share: Path, name: str) -> Finished:
    def text(suffix: str) -> str:
        path = share / f"{name}.{suffix}"
        return path.read_text(errors="replace") if path.exists() else ""

    status = text("status").strip()
    console = (share / "console").read_text(errors="replace")
    return Finished(int(status) if status else None, text("stdout"), text("stderr"), console)
