"""Settings of all tests."""

from hypothesis import settings

# The same examples every time, however slow the machine: a test that fails fails for everybody.
settings.register_profile("kpusim", deadline=None, derandomize=True)
settings.load_profile("kpusim")

pytest_plugins = ["pytester"]
