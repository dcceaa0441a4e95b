"""The microscope: where a gradient goes in a recurrent network."""

from gradient_flow.audit import Audit, LeafAudit, audit
from gradient_flow.autodiff import autodiff_norms
from gradient_flow.credit import Credit, credit, input_credit
from gradient_flow.deer import ParallelStates, parallel_states
from gradient_flow.detours import DetourNorms, detour_norms
from gradient_flow.diagnose import Diagnosis, diagnose
from gradient_flow.gate_paths import GatePaths, gate_path_norms
from gradient_flow.horizon import decades_per_100, half_life, horizon
from gradient_flow.jacobian_norms import JacobianNorms, PairNorms, all_pairs_norms, jacobian_norms
from gradient_flow.layers import layer_norms
from gradient_flow.lyapunov import LyapunovSpectrum, lyapunov_spectrum
from gradient_flow.parallel import (
    Cotangents,
    Transitions,
    parallel_cotangents,
    parallel_transitions,
)
from gradient_flow.probes import ProbeNorms, probe_norms
from gradient_flow.singular_values import SingularSpectrum, singular_spectrum
from gradient_flow.step_gain import StepGain, step_gain
from gradient_flow.time_constants import TimeConstants, gate_time_constants
from gradient_flow.trajectory import gate_activations
from gradient_flow.watch import WatchRecords, flow_watch, read_watch

__all__ = [
    "Audit",
    "Cotangents",
    "Credit",
    "DetourNorms",
    "Diagnosis",
    "GatePaths",
    "JacobianNorms",
    "LeafAudit",
    "LyapunovSpectrum",
    "PairNorms",
    "ParallelStates",
    "ProbeNorms",
    "SingularSpectrum",
    "StepGain",
    "TimeConstants",
    "Transitions",
    "WatchRecords",
    "all_pairs_norms",
    "audit",
    "autodiff_norms",
    "credit",
    "decades_per_100",
    "detour_norms",
    "diagnose",
    "flow_watch",
    "gate_activations",
    "gate_path_norms",
    "gate_time_constants",
    "half_life",
    "horizon",
    "input_credit",
    "jacobian_norms",
    "layer_norms",
    "lyapunov_spectrum",
    "parallel_cotangents",
    "parallel_states",
    "parallel_transitions",
    "probe_norms",
    "read_watch",
    "singular_spectrum",
    "step_gain",
]
