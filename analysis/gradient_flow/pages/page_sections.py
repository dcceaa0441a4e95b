"""The parts of a page: what each shows, in words for somebody who never saw such a figure."""

from typing import NamedTuple


class Section(NamedTuple):
    """A part of the page with a figure.

    Attributes:
        name: of the figure in the scripts, and the anchor.
        title: its head.
        caption: what it shows, for somebody who never saw one.
        figures: the figures whose numbers it needs, any one of them.
        missing: the sentence that stands there without them.
    """

    name: str
    title: str
    caption: str
    figures: tuple[str, ...]
    missing: str


SECTIONS = (
    Section(
        "norms",
        "How far back the gradient reaches",
        "How strongly the state at an earlier step k still moves the state at the last step T, against the "
        "lag T − k between them. A line at 10^-3 has lost all but a thousandth; the shade is 10 to 90 % of "
        "the samples.",
        ("curves",),
        "The curves are missing from this run: no array named curve.… could be read.",
    ),
    Section(
        "map",
        "Every pair of steps",
        "Each point is a pair of steps: how much the state at the later step t depends on that at the "
        "earlier step k. Point at it, or move the sliders: its row and its column are drawn beside.",
        ("maps",),
        "The map of all pairs is missing from this run: it has no array named map.hh.",
    ),
    Section(
        "detours",
        "Paths by detours",
        "The gradient goes back along many paths. They are sorted by how often they pass through the "
        "recurrent weights: with no detour it stays inside the memory cell all the way. Where a group "
        "lies above the whole, paths cancel each other.",
        ("detours",),
        "The paths by detours are missing from this run: it has no array named detours.….",
    ),
    Section(
        "gate-paths",
        "Paths by gate",
        "The gradient that is left where only some gates may pass it on through the recurrent weights. Gates "
        "whose line lies close to that of all of them carry the gradient.",
        ("gate_paths",),
        "The paths by gate are missing from this run: it has no array named gate_paths.….",
    ),
    Section(
        "gates",
        "The gates over time",
        "Each row is a unit, each column a step. The units that remember longest stand at the top; the panel "
        "at the side says for how many steps a unit keeps what it has, its time constant.",
        ("gates",),
        "The gates are missing from this run: it has no array named gate.….",
    ),
    Section(
        "spectrum",
        "How many directions survive",
        "The state can be moved in many directions. Each point is one of them: how much of it is left after "
        "the lag chosen below. Those above the line at 10^-3 can still be told at the end.",
        ("spectra",),
        "The singular values are missing from this run: it has no array named spectrum.",
    ),
    Section(
        "credit",
        "Credit over the input",
        "How much each input moves a loss at the last step: the size of the loss's gradient by the input of "
        "that step. In a text, bright is much and dark is little.",
        ("credit",),
        "The credit over the input is missing from this run: it has no array named credit.",
    ),
    Section(
        "cell",
        "One step of the cell",
        "One unit of the LSTM at one step, with this run's numbers. Forward: what each part computes. "
        "Backward: the cotangent on each arrow, which is how much a loss at the end changes with what flows "
        "there.",
        ("cells",),
        "The picture of a step is missing from this run: it is drawn for an LSTM whose steps were kept, the "
        "arrays named cell.….",
    ),
    Section(
        "training",
        "Before and after training",
        "The same lines at different points of training. A line that moves up reaches further back than it "
        "did; one that moves down forgets sooner.",
        ("training",),
        "Training is missing from this run: it was measured once, and no training run was watched.",
    ),
    Section(
        "autodiff",
        "What plain autodiff would have said",
        "The same norm as plain automatic differentiation computes it, in the numbers of the network. Where "
        "it becomes too small for them it ends in an exact 0, and the true norm goes on.",
        ("autodiff",),
        "What plain autodiff says is missing from this run: it has no array named autodiff.",
    ),
)
