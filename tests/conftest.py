"""Settings of all tests, and what several files of them need."""

import pytest
from hypothesis import settings

# The same examples every time, however slow the machine: a test that fails fails for everybody.
settings.register_profile("kpusim", deadline=None, derandomize=True)
settings.load_profile("kpusim")

pytest_plugins = ["pytester"]


@pytest.fixture
def file(tmp_path):
    """Writes a file of measured rows: lines, or its text."""

    def write(*lines, text=None):
        path = tmp_path / "truth.csv"
        path.write_bytes(("\n".join(lines) + "\n" if text is None else text).encode())
        return path

    return write
