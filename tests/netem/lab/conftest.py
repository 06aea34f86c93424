"""What every test of the laboratory needs: a machine that can build one, and nothing left behind."""

import os
from collections.abc import Iterator

import pytest

from netem import LabUnavailable
from netem.lab.machine import require_laboratory
from netem.lab.namespace import namespaces


@pytest.fixture(scope="session", autouse=True)
def laboratory() -> None:
    """Skips with the reason where there can be none; in CI that is a failure."""
    try:
        require_laboratory()
    except LabUnavailable as error:
        if os.environ.get("CI"):
            raise
        pytest.skip(str(error))


@pytest.fixture(autouse=True)
def nothing_is_left(laboratory: None) -> Iterator[None]:
    """Fails a test after which a namespace of this process is still there."""
    yield
    mine = [each.name for each in namespaces() if f".{os.getpid()}." in each.name]
    assert mine == []
