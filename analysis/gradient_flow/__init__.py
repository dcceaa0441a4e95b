"""`gradient_flow`, the microscope: measures where a gradient goes in a recurrent network."""

from gradient_flow.inspections.inspection import Inspection, inspect
from gradient_flow.measurements.autodiff_norms import autodiff_norms
from gradient_flow.measurements.by_layer import layer_norms
from gradient_flow.measurements.credit import Credit, credit, input_credit
from gradient_flow.measurements.curve_summary import decades_per_100, half_life, horizon
from gradient_flow.measurements.detours import DetourNorms, detour_norms
from gradient_flow.measurements.gate_paths import GatePaths, gate_path_norms
from gradient_flow.measurements.gates import TimeConstants, gate_activations, gate_time_constants
from gradient_flow.measurements.jacobian_norms import (
    JacobianNorms,
    PairNorms,
    all_pairs_norms,
    jacobian_norms,
)
from gradient_flow.measurements.lyapunov import (
    LyapunovSpectrum,
    kaplan_yorke_dimension,
    lyapunov_spectrum,
)
from gradient_flow.measurements.random_probes import ProbeNorms, Probes, probe_norms
from gradient_flow.measurements.singular_spectrum import SingularSpectrum, singular_spectrum
from gradient_flow.measurements.step_gain import StepGain, step_gain
from gradient_flow.measurements.training_watch import WatchRecords, flow_watch, read_watch
from gradient_flow.pages.run_page import report
from gradient_flow.parallel_in_time.newton_states import ParallelStates, parallel_states
from gradient_flow.parallel_in_time.products import (
    Cotangents,
    Transitions,
    parallel_cotangents,
    parallel_transitions,
)
from gradient_flow.verdicts.audit import audit
from gradient_flow.verdicts.audit_report import Audit, LeafAudit
from gradient_flow.verdicts.diagnose import Diagnosis, diagnose

__all__ = [
    "Audit",
    "Cotangents",
    "Credit",
    "DetourNorms",
    "Diagnosis",
    "GatePaths",
    "Inspection",
    "JacobianNorms",
    "LeafAudit",
    "LyapunovSpectrum",
    "PairNorms",
    "ParallelStates",
    "ProbeNorms",
    "Probes",
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
    "inspect",
    "jacobian_norms",
    "layer_norms",
    "lyapunov_spectrum",
    "kaplan_yorke_dimension",
    "parallel_cotangents",
    "parallel_states",
    "parallel_transitions",
    "probe_norms",
    "read_watch",
    "report",
    "singular_spectrum",
    "step_gain",
]
