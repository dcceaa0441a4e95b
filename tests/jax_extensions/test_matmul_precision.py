"""Matrix products keep the precision that was set where a function was made, whenever it is traced."""

import jax
import jax.numpy as jnp
import pytest

from lstm_jax.jax_extensions.matmul_precision import at_precision, default_precision


def product(a, b):
    """Its matrix product; a name to keep."""
    return a @ b


def precisions(function, *arguments):
    """The precision of every matrix product in a function's program, read from its text."""
    text = jax.jit(function).lower(*arguments).as_text()
    return [
        "HIGHEST" if "HIGHEST" in line else "HIGH" if "HIGH" in line else "DEFAULT"
        for line in text.splitlines()
        if "dot_general" in line
    ]


A = jnp.ones((2, 2))


def test_the_precision_is_that_where_the_function_was_made():
    with jax.default_matmul_precision("float32"):
        fixed = at_precision(product)
    assert precisions(fixed, A, A) == ["HIGHEST"]
    assert precisions(product, A, A) == ["DEFAULT"]
    made_outside = at_precision(product)
    with jax.default_matmul_precision("float32"):
        assert precisions(made_outside, A, A) == ["DEFAULT"]
        assert precisions(product, A, A) == ["HIGHEST"]


def test_a_precision_may_be_named():
    assert precisions(at_precision(product, "float32"), A, A) == ["HIGHEST"]
    assert precisions(at_precision(product, "tensorfloat32"), A, A) == ["HIGH"]


def test_a_precision_may_be_read_from_the_arguments():
    of_last = at_precision(lambda a, b, precision: a @ b, lambda a, b, precision: precision)
    for precision, expected in (("float32", "HIGHEST"), (None, "DEFAULT")):
        assert precisions(lambda a, b, p=precision: of_last(a, b, p), A, A) == [expected]


@pytest.mark.parametrize("way", [lambda f: jax.grad(lambda *at: f(*at).sum()), jax.vmap])
def test_it_holds_where_the_function_is_differentiated_or_mapped(way):
    with jax.default_matmul_precision("float32"):
        fixed = at_precision(product)
    given = (A, A) if way is not jax.vmap else (jnp.ones((3, 2, 2)),) * 2
    found = precisions(way(fixed), *given)
    assert found and set(found) == {"HIGHEST"}


def test_the_setting_around_it_stays_and_the_name_too():
    fixed = at_precision(product, "float32")
    before = default_precision()
    fixed(A, A)
    assert default_precision() == before
    with jax.default_matmul_precision("bfloat16"):
        fixed(A, A)
        assert default_precision() == "bfloat16"
    assert fixed.__name__ == "product" and fixed.__doc__ == product.__doc__
