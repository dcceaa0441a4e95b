"""Which cases of a parametrised test the quick run takes."""

import pytest


def slow_but(cases, *quick):
    """The cases, all but these marked slow."""
    unknown = [case for case in quick if case not in cases]
    assert not unknown, unknown
    return [
        case
        if case in quick
        else pytest.param(*(case if isinstance(case, tuple) else (case,)), marks=pytest.mark.slow)
        for case in cases
    ]
