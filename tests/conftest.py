"""Hypothesis profiles: `everyday` for `make test`, `thorough` for `make check`."""

import pytest
from hypothesis import settings

from tests.loopback import LOOPS, Run, runner_on

# No deadline: a busy machine must not fail a test. The printed blob reproduces a failure elsewhere.
settings.register_profile("everyday", deadline=None, print_blob=True)
settings.register_profile("thorough", deadline=None, print_blob=True, max_examples=2000)
settings.load_profile("everyday")


@pytest.fixture(params=LOOPS.values(), ids=LOOPS.keys())
def run(request: pytest.FixtureRequest) -> Run:
    """Runs a coroutine function on asyncio and on uvloop."""
    return runner_on(request.param)
