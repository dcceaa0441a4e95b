"""The derivations that are audited, each with its network, its loss and the term that corrects it."""

from collections.abc import Callable
from functools import partial
from typing import Any, NamedTuple

from experiments.derivation_audit import chain, exercises, recursion, word_level
from experiments.derivation_audit.plain_lstm import problem, softmax_loss, step
from gradient_flow import Audit, audit

LENGTH, SIZE, CLASSES = 12, 8, 5
TOLERANCE = 1e-12


class Derivation(NamedTuple):
    """One derivation.

    Attributes:
        name: for files and tables.
        title: its name in tables.
        missing: the missing or wrong term.
        step, loss, loss_at: the network and the loss that it claims to differentiate.
        problem: makes ``(params, state0, xs)``, in float64.
        versions: the published gradient first, partly mended ones, and at last the corrected one.
    """

    name: str
    title: str
    missing: str
    step: Any
    loss: Any
    loss_at: str
    problem: Callable[[], tuple[Any, Any, Any]]
    versions: dict[str, Callable[..., Any]]


def derivations(seed: int) -> tuple[Derivation, ...]:
    """All of them, on small random networks drawn from ``seed``."""
    return (
        Derivation(
            "chain",
            "1. dC_T/dC_k as a product of one-step derivatives",
            "δz_o W_hoᵀ in δh_k: the way through the next step's output gate",
            step,
            chain.loss,
            "last",
            partial(problem, seed, LENGTH, SIZE),
            {"published": chain.published, "corrected": chain.corrected},
        ),
        Derivation(
            "recursion",
            "2. δh by ∂h_{t+1}/∂h_t, and δC beside it",
            "(∂C_{t+1}/∂h_t)ᵀ (f_{t+2} ⊙ δC_{t+2}) in δh_t: what comes back along the memory",
            step,
            softmax_loss,
            "last",
            partial(problem, seed, LENGTH, SIZE, classes=CLASSES),
            {"published": recursion.published, "corrected": recursion.corrected},
        ),
        Derivation(
            "word_level",
            "3. A word-level LSTM with a softmax",
            "ŷ(1−ŷ) too much on ŷ − y; 1 − tanh² g where g is tanh z_g already",
            step,
            softmax_loss,
            "last",
            partial(problem, seed, LENGTH, SIZE, classes=CLASSES),
            {
                "published": word_level.published,
                "without the sigmoid'": word_level.without_the_sigmoid,
                "without the second tanh": word_level.without_the_second_tanh,
                "corrected": word_level.corrected,
            },
        ),
        Derivation(
            "cell_exercise",
            "4a. The one-cell exercise",
            "the bias of another network",
            exercises.cell_step,
            exercises.linear_loss,
            "last",
            exercises.drawn_cell,
            {"published": exercises.cell_published, "corrected": exercises.cell_corrected},
        ),
        Derivation(
            "sequence_exercise",
            "4b. The sequence exercise, older version",
            "δz_{t+1} W_hᵀ in δh_t and δC_{t+1} ⊙ f_{t+1} in δC_t: both carries",
            step,
            exercises.linear_loss,
            "every",
            exercises.drawn_sequence,
            {
                "published": exercises.sequence_published,
                "carrying C alone": exercises.memory_alone,
                "carrying h alone": exercises.output_alone,
                "corrected": exercises.sequence_corrected,
            },
        ),
    )


def audited(derivation: Derivation) -> dict[str, Audit]:
    """The audit of every version; to be called with x64 enabled."""
    arguments = derivation.problem()
    return {
        label: audit(
            gradient,
            derivation.step,
            derivation.loss,
            *arguments,
            loss_at=derivation.loss_at,
            tolerance=TOLERANCE,
        )
        for label, gradient in derivation.versions.items()
    }
