"""The README's program, run as it is pasted."""

import re
import socket
import subprocess
import sys
from pathlib import Path

import pytest

README = Path(__file__).parent.parent / "README.md"
pytestmark = pytest.mark.skipif(not README.exists(), reason="the README is not beside the installed package")


def program() -> str:
    (block,) = re.findall(r"```python\n(.*?)```", README.read_text(), re.S)
    return str(block)


def test_the_program_streams_an_answer() -> None:
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    # Another port only, so that two runs at once do not meet.
    source = program().replace("4433", str(port))
    assert source != program()
    done = subprocess.run([sys.executable, "-c", source], capture_output=True, text=True, timeout=60)
    assert done.returncode == 0, done.stderr
    assert done.stdout == "You asked: Why is the sky blue? Air scatters blue light most. "
