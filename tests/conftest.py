"""Hypothesis profiles: `everyday` for `make test`, `thorough` for `make check`."""

from hypothesis import settings

# No deadline: a busy machine must not fail a test. The printed blob reproduces a failure elsewhere.
settings.register_profile("everyday", deadline=None, print_blob=True)
settings.register_profile("thorough", deadline=None, print_blob=True, max_examples=2000)
settings.load_profile("everyday")
