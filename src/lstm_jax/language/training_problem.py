r"""The training problem of a language model: truncated back-propagation with carried states.

batch n: tokens nT … (n+1)T of each row; the states after it start batch n+1, and no gradient goes back
across the border. Where an epoch begins the states are the starting ones again.
"""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp

from lstm_jax.array_types import Array, PyTree
from lstm_jax.backends.choice import check_choice
from lstm_jax.backends.loop import Loop
from lstm_jax.language.batches import Batch
from lstm_jax.language.description import described_model, described_vocabulary
from lstm_jax.language.model import LanguageModel, LanguageParams, token_loss
from lstm_jax.language.vocabulary import Vocabulary, require_vocabulary
from lstm_jax.training.step import Problem
from lstm_jax.validation import (
    require_arrays,
    require_floating_dtype,
    require_one_of,
    require_parameters,
    require_positive_int,
    require_type,
)


def language_problem(
    model: LanguageModel,
    batch: Callable[[PyTree, Array, Array], Batch],
    batch_size: int,
    *,
    vocabulary: Vocabulary | None = None,
    init: Callable[[Array], LanguageParams] | None = None,
    loss: str = "mean",
    compute_dtype: Any = float,
    backend: str | Loop = "auto",
) -> Problem:
    """A problem with the loss `token_loss` that carries the states from batch to batch.

    Args:
        model: from `language_model`, without a learned starting state.
        batch: ``batch(codes, step, key)`` -> `Batch`, with ``first`` true where the states start anew.
        batch_size: rows of a batch.
        vocabulary: of the text, kept in every checkpoint with the model's description, so that
            `lstm_jax.load` of the run's folder gives a whole model.
        init: ``init(key) -> params``; the model's ``init`` if None.
        loss: ``"mean"``, over all tokens, or ``"time_sum"``, summed over time and averaged over the rows,
            which makes every gradient T times as large: the clipping norms and learning rates of Zaremba et
            al. 2014 are for this form. The log has the mean.
        compute_dtype: of the states; must be the run's.
        backend: who runs the recurrent layers, as for `lstm_jax.unroll`.

    Raises:
        ValueError: an unknown ``loss``, a stack with a learned starting state, a size that is not a
            positive integer, or an unknown ``backend``.
        TypeError: anything but a language model; a ``batch`` or an ``init`` of other arguments; in a step,
            a batch that is no `Batch`.
        DtypeError: a ``compute_dtype`` that is not a floating one.
    """
    require_type("model", model, LanguageModel)
    if vocabulary is not None:
        require_vocabulary(vocabulary, model.vocabulary_size)
    require_parameters("batch", batch, "codes, step, key")
    require_positive_int("batch_size", batch_size)
    if init is not None:
        require_parameters("init", init, "key")
    require_floating_dtype(compute_dtype, "compute_dtype")
    check_choice("auto", backend)
    require_one_of("loss", loss, ("mean", "time_sum"))
    if model.stack.learned_state:
        raise ValueError(
            "Option mismatch: expected a stack whose states are carried from batch to batch, got one with "
            "learned_state."
        )

    def value(
        params: LanguageParams, states: PyTree, batch: Batch, key: Array
    ) -> tuple[Array, tuple[PyTree, dict[str, Array]]]:
        require_type("the result of batch", batch, Batch)
        if not isinstance(batch.first, bool):
            require_arrays("first", batch.first, jax.ShapeDtypeStruct((), bool), bool)
        states = jax.tree.map(lambda s: jnp.where(batch.first, jnp.zeros_like(s), s), states)
        mean, states = token_loss(
            model, params, states, batch.inputs, batch.targets, key=key, backend=backend
        )
        scale = batch.inputs.shape[0] if loss == "time_sum" else 1
        return mean * scale, (states, {"nats": mean})

    return Problem(
        init=init or model.init,
        loss=value,
        batch=batch,
        carry=lambda: model.stack.initial_state(batch_size, compute_dtype),
        batch_axes=Batch._make((1, 1, None)),
        carry_axes=0,
        description=_description(model, vocabulary),
    )


def _description(model: LanguageModel, vocabulary: Vocabulary | None) -> dict[str, Any] | None:
    """The model and its vocabulary; None for a stack with a step of one's own."""
    try:
        net = described_model(model)
    except TypeError:
        return None
    return {"net": net} | ({"vocabulary": described_vocabulary(vocabulary)} if vocabulary else {})
