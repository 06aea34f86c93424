"""What every test of the laboratory needs: root, and nothing left behind."""

import os
from collections.abc import Iterator

import pytest

from netem.lab.namespace import namespaces


@pytest.fixture(autouse=True)
def nothing_is_left() -> Iterator[None]:
    """Fails a test after which a namespace of this process is still there."""
    yield
    mine = [each.name for each in namespaces() if f".{os.getpid()}." in each.name]
    assert mine == []
