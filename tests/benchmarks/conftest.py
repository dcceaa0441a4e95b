"""What the tests of compiling for devices that are not there begin with."""

import pytest


@pytest.fixture
def require_compiler():
    """Skip the test where there is no compiler for the device that is named."""
    from benchmarks import compile_without_device

    def require(target):
        try:
            compile_without_device.device(target)
        except compile_without_device.NoCompiler as missing:
            pytest.skip(str(missing))

    return require
