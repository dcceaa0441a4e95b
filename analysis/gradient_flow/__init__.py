"""The microscope: where a gradient goes in a recurrent network."""

from gradient_flow.jacobian_norms import (
    JacobianNorms,
    PairNorms,
    all_pairs_norms,
    jacobian_norms,
)
from gradient_flow.trajectory import gate_activations

__all__ = [
    "JacobianNorms",
    "PairNorms",
    "all_pairs_norms",
    "gate_activations",
    "jacobian_norms",
]
