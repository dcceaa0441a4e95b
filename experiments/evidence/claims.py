"""What the experiments' pages claim, each claim with the stored run that it is computed from."""

from functools import partial
from typing import Any

from experiments.evidence.claim import Claim
from experiments.which_lags.evidence import Interval

D2L = "Dive into Deep Learning, one GPU"
H1997 = "Hochreiter and Schmidhuber 1997"
TALLEC = "Tallec and Ollivier 2018, 128 units"


def _same(pairs: Any) -> str:
    return f"{sum(pair['same'] for pair in pairs)} of {len(pairs)} numbers"


def _perplexities(setting: str, results: Any) -> list[float]:
    return [run[setting]["perplexity"] for run in results]


def _trials(results: Any, **asked: Any) -> list[Any]:
    """The trials with these settings, of one run or of several."""
    runs = results if isinstance(results, list) else [results]
    trials = [trial for run in runs for trial in run["trials"]]
    return [trial for trial in trials if asked.items() <= trial["trial"].items()]


def _sequences(task: str, length: int, results: Any) -> list[int]:
    return [one["sequences"] for one in _trials(results, task=task, length=length)]


def _steps(network: str, results: Any) -> list[int]:
    found = _trials(results, task="chrono", network=network)
    return [one["sequences"] // one["trial"]["batch_size"] for one in found]


def _copied(length: int, network: str, field: str) -> Any:
    """Of copy memory: the loss at the end, or the step at which it came below a share of the floor."""

    def numbers(results: Any) -> list[Any]:
        found = _trials(results, task="copy", length=length, network=network)
        if field == "last_loss":
            return [one["last_loss"] for one in found]
        return [one["below_floor"][field] for one in found]

    return numbers


def _longer(length: int, field: str, results: Any) -> list[float]:
    """Of the longest adding problems: sequences in training, or the squared error of the test."""
    own = _trials(results, length=length)
    if field == "sequences":
        return [trial["steps"] * trial["trial"]["batch_size"] for trial in own]
    return [trial["test_squared_error"] for trial in own]


def _validated(results: Any) -> list[bool]:
    """Whether each network has at most 1 wrong of its test."""
    return [wrong <= 1 for trial in results["trials"] for wrong in trial["test_wrong"].values()]


def _most_wrong(results: Any) -> list[int]:
    """Wrong answers of each network at the length at which it has most."""
    return [max(run["trials"][0]["test_wrong"].values()) for run in results]


def _saying(name: str, what: str) -> Any:
    """The numbers of a case of a saying, of each seed."""

    def numbers(results: Any) -> list[float]:
        cases = next(said["cases"] for said in results["sayings"] if said["name"] == name)
        return next(case["values"] for case in cases if case["what"] == what)

    return numbers


def _solved(task: str, fault: str) -> Any:
    def numbers(results: Any) -> list[bool]:
        rows = results["wrong_trainings"]
        row = next(row for row in rows if (row["task"], row["fault"]) == (task, fault))
        return [at is not None for at in row["solved"]]

    return numbers


def _words(optimizer: str, fault: str) -> Any:
    def numbers(results: Any) -> list[float]:
        row = next(r for r in results["rows"] if (r["optimizer"], r["fault"]) == (optimizer, fault))
        return [epochs[-1] for epochs in row["perplexity"]]

    return numbers


def _part(network: str, name: str) -> Any:
    """A number of a network with one part changed."""

    def numbers(results: Any) -> list[Any]:
        row = next(r for r in results["answers"]["parts"] if r["network"] == network)
        if name in ("recall", "adding_uniform"):
            return [at is not None for at in row[name]["solved"]]
        return [float(value) for value in row[name]]

    return numbers


def _goes(network: str, field: str, place: int, gate: int | None = None) -> Any:
    """Decades at the longest lag, of each seed."""

    def numbers(results: Any) -> list[float]:
        seeds = results["numbers"][network]
        if field == "kept":
            return [seed["kept"][gate][place] for seed in seeds]
        if field == "detours":
            return [seed["detours"][place][gate] for seed in seeds]
        return [seed[field][place] for seed in seeds]

    return numbers


CHAR = tuple(
    Claim(
        "char_lm", "seeds", f"`{setting}`: training perplexity",
        partial(_perplexities, setting), "{:.3f}",
        "-" if perplexity is None else f"{perplexity}, {D2L}", name=setting,
    )
    for setting, perplexity in (
        ("scratch", "1.3"), ("scratch_uniform", None), ("library", "1.1"), ("two_layers", "1.0"),
    )
)  # fmt: skip

PTB = (
    Claim(
        "ptb", "small", "small model, test perplexity",
        lambda r: [run["test_perplexity"] for run in r], "{:.2f}",
        "114.5, Zaremba et al. 2014", name="ptb_test",
    ),
    Claim(
        "ptb", "small", "small model, validation perplexity",
        lambda r: [run["valid_perplexity"][-1] for run in r], "{:.2f}", "120.7, the same",
        name="ptb_valid",
    ),
)  # fmt: skip

LONG_LAG = (
    *(
        Claim(
            "long_lag", "adding", f"adding, T = {length}: sequences to the criterion",
            partial(_sequences, "adding", length), "{:,.0f}",
            anchor=f"{theirs}, {H1997}", name=f"adding_{length}",
        )
        for length, theirs in ((100, "74,000"), (500, "209,000"), (1000, "853,000"))
    ),
    Claim(
        "long_lag", "adding", "adding: networks with at most 1 wrong of 2,560",
        _validated, anchor=f"all, {H1997}", seeds="5 of each length",
        name="adding_right",
    ),
    *(
        Claim(
            "long_lag", "order_1997", f"temporal order as in 1997, {symbols} symbols: sequences",
            partial(_sequences, f"order_{symbols}", 100), "{:,.0f}",
            anchor=f"{theirs}, {H1997}", name=f"order_{symbols}",
        )
        for symbols, theirs in (("two", "31,390"), ("three", "571,100"))
    ),
    Claim(
        "long_lag", "order_1997", "the same: networks with at most 1 wrong of 2,560", _validated,
        anchor=f"at most 2, {H1997}", seeds="5 of each", name="order_1997_right",
    ),
    *(
        Claim(
            "long_lag", "adding_longer", f"adding, T = {length:,}: {what}",
            partial(_longer, length, field), form, anchor, name=f"{name}_{length}",
        )
        for length, theirs in ((2_000, "5.3e-5"), (5_000, "4.9e-5"), (10_000, "2.4e-5"))
        for what, field, form, anchor, name in (
            ("sequences to the end", "sequences", "{:,.0f}", "1,500,000, LEM 2022", "longer"),
            ("squared error", "squared", "{:.1e}", f"{theirs}, LEM 2022", "longer_error"),
        )
    ),
    Claim(
        "long_lag", "chrono", "adding, T = 750: steps with chrono, 32 units",
        partial(_steps, "lstm_chrono"), "{:,.0f}", f"a seventh of forget bias 1's, {TALLEC}",
        name="chrono_steps",
    ),
    Claim(
        "long_lag", "chrono", "adding, T = 750: forget bias 1 below 0.01 within 25,000 steps",
        lambda r: [one["sequences"] is not None for one in _trials(r, network="lstm_1")],
        name="bias_solved",
    ),
    Claim(
        "long_lag", "chrono", "the same: loss after 25,000 steps",
        lambda r: [one["last_loss"] for one in _trials(r, network="lstm_1")], "{:.3f}",
        "0.167 without a memory",
    ),
    Claim(
        "long_lag", "chrono_longer", "the same: loss after 100,000 steps",
        lambda r: r["forget_bias_1_last_loss"], "{:.3f}", "0.167 without a memory",
    ),
    *(
        Claim(
            "long_lag", "copy", f"copy, T = {length}, {label}, 64 units: {what}",
            _copied(length, network, field), form,
            f"floor {floor}" if field == "last_loss" else "-",
        )
        for length, floor in ((100, "0.1733"), (200, "0.0945"))
        for network, label in (("lstm_chrono", "chrono"), ("lstm_1", "forget bias 1"))
        for what, field, form in (
            ("steps to 2 % below the floor", "0.98", "{:,.0f}"),
            ("loss after 10,000 steps", "last_loss", "{:.4f}"),
        )
    ),
    Claim(
        "long_lag", "copy_500", "copy, T = 500: loss of chrono, 64 units, after 50,000 steps",
        lambda r: r["chrono_last_loss"], "{:.5f}", f"below the floor 0.03999, {TALLEC}",
    ),
    Claim(
        "long_lag", "copy_500", "copy, T = 500: loss of forget bias 1 after 30,000 steps",
        lambda r: r["forget_bias_1_last_loss"], "{:.5f}", f"at the floor 0.03999, {TALLEC}",
    ),
    Claim(
        "long_lag", "order", "temporal order to T = 5,000: fresh seeds without an error",
        lambda r: [worst == 0 for worst in _most_wrong(r)], anchor="5 of 5, Pascanu et al. 2013",
        name="order_right",
    ),
    Claim(
        "long_lag", "order", "the same: wrong of 10,000 at the worst length", _most_wrong, "{:,.0f}",
        "0 for each, the same", name="order_wrong",
    ),
    Claim(
        "long_lag", "order", "the same: horizon at the end, of an untrained network 145 to 162",
        lambda r: [float(run["trials"][0]["reach_last"]) for run in r], "{:.0f}",
    ),
    Claim(
        "long_lag", "order_without_undoing",
        "an earlier form, 80,000 updates, nothing undone: wrong at the worst length",
        _most_wrong, "{:,.0f}",
    ),
    Claim(
        "long_lag", "order_unvalidated",
        "an earlier form, without a validation: fresh seeds without an error",
        lambda r: [
            not any(v is None or v for v in r["wrong_of_10000"][s]) for s in ("11", "12", "13", "14")
        ],
    ),
)  # fmt: skip

AUDIT = (
    Claim(
        "derivation_audit", "five_seeds", "derivations whose corrected version is right at every lag",
        lambda r: [d["versions"]["corrected"]["ok"] for d in r["derivations"]], seeds="one look",
    ),
    Claim(
        "derivation_audit", "five_seeds", "digits that the exercises print and that come out",
        lambda r: f"{r['printed_digits_reproduced']} of 16", anchor="16, the exercises",
    ),
    *(
        Claim("derivation_audit", "five_seeds", says, _saying(name, what), form)
        for says, name, what, form in (
            (
                "decades of dC_t/dC_k at lag 300, forget bias 1, untrained", "three_hundred",
                "forget bias 1, untrained", "{:.1f}",
            ),
            (
                "the same, trained on text", "three_hundred", "forget bias 1, trained on text", "{:.1f}",
            ),
            (
                "the same, trained on adding", "three_hundred",
                "forget bias 1, trained on adding", "{:.2f}",
            ),
            (
                "gates within 0.05 of 0 or 1, forget bias 1, trained on text", "switches",
                "forget bias 1, trained on text", "{:.0%}",
            ),
            (
                "nats a letter of a tanh network with W_h = 2 × orthogonal, trained clipped", "clipping",
                "tanh, 2 × orthogonal: loss after training clipped", "{:.2f}",
            ),
        )
    ),
    *(
        Claim(
            "derivation_audit", "five_seeds", f"networks that learn {task} with the fault: {fault}",
            _solved(name, fault),
        )
        for task, name in (("recall over 50 steps", "recall"), ("adding over 100 steps", "adding_uniform"))
        for fault in (
            "none", "no way through o", "not along the memory", "tanh' of tanh", "both of derivation 3",
            "carries C alone", "carries h alone", "carries nothing",
        )
        if (name, fault) != ("adding_uniform", "both of derivation 3")
    ),
    *(
        Claim(
            "derivation_audit", "words", f"word model, {optimizer}, fault {fault}: validation perplexity",
            _words(optimizer, fault), "{:.1f}",
        )
        for optimizer, fault in (
            ("SGD", "none"), ("SGD", "tanh' of tanh"), ("SGD", "both of derivation 3"),
            ("Adam", "none"), ("Adam", "both of derivation 3"),
        )
    ),
)  # fmt: skip

GOES = tuple(
    Claim("where_it_goes", "five_seeds", says, _goes(network, *where), "{:.1f}")
    for says, network, where in (
        ("decades at lag 400 along the carousel, forget bias 1, untrained",
         "forget bias 1, untrained", ("detours", -1, 0)),
        ("the same by every way", "forget bias 1, untrained", ("whole", -1)),
        ("the same with the way open into g alone", "forget bias 1, untrained", ("kept", -1, 3)),
        ("along the carousel, trained on text", "forget bias 1, trained on text", ("detours", -1, 0)),
        ("by every way, trained on text", "forget bias 1, trained on text", ("whole", -1)),
        ("along the carousel, trained on adding", "forget bias 1, trained on adding", ("detours", -1, 0)),
        ("by every way, trained on adding", "forget bias 1, trained on adding", ("whole", -1)),
    )
)  # fmt: skip

BY_HAND = (
    Claim(
        "gate_walkthrough", "run", "the classroom's nine outputs and memories, to the last digit",
        lambda r: "all" if r["classroom"]["reproduced_exactly"] else "not all", anchor="the classroom's",
    ),
    Claim(
        "gate_walkthrough", "run", "output 6 with input and forget gate in each other's place",
        lambda r: f"{r['output_by_gate_order']['figo']['soft'][5]:.3f}, where "
        f"{r['output_by_gate_order']['ifgo']['soft'][5]:.3f} is right",
    ),
    Claim(
        "rnn_by_hand", "run", "digits of the published forward pass that come out",
        lambda r: _same(r["published_forward"]),
        anchor="12, the notebook, version 3",
    ),
    Claim(
        "rnn_by_hand", "run", "digits of the published backward passes that come out",
        lambda r: _same(r["published_cell_backward"] + r["published_backward"]),
        anchor="13, the same",
    ),
)  # fmt: skip

QUESTIONS = tuple(
    Claim("course_questions", "five_seeds", f"{says}: {network}", _part(network, name), form)
    for says, name, form, chosen in (
        ("learn recall over 50 steps", "recall", "", None),
        ("decades of the first input, before training", "before", "{:.1f}",
         ("LSTM", "vanilla", "vanilla, sigmoid", "vanilla, residual")),
    )
    for network in chosen or (
        "LSTM", "LSTM, h = o C", "LSTM, h = C", "LSTM, gates blind to h", "LSTM, gates that see C",
        "LSTM, i = 1 - f", "LSTM, rank 4", "vanilla", "vanilla, sigmoid", "vanilla, residual",
        "vanilla, skip over 10", "vanilla, rank 4",
    )
)  # fmt: skip

STARTS = "59 starts, 3 seeds each"


def _auc(*keys: str) -> Any:
    """An AUC with its interval over starts."""

    def text(results: Any) -> str:
        value = results
        for key in keys:
            value = value[key]
        return str(Interval(*value))

    return text


def _below(network: str, task: str) -> Any:
    """Learned of the rows whose norm at the lag was below 10^-3."""

    def text(results: Any) -> str:
        own = [v["below"] for f, v in results["by_norm"][task].items() if f.startswith(network)]
        return f"{sum(n for n, _ in own)} of {sum(of for _, of in own)}"

    return text


LAGS = (
    *(
        Claim(
            "which_lags", "reported",
            f"{name}: rows with a norm at the lag below 10⁻³ before training that learned {task}",
            _below(network, task), seeds=STARTS,
        )
        for network, name in (("lstm", "LSTM"), ("gru", "GRU"), ("tanh", "tanh"))
        for task in ("recall", "adding_uniform")
    ),
    *(
        Claim("which_lags", "reported", says, _auc(*keys), seeds=STARTS)
        for says, keys in (
            ("AUC of horizon / lag before training, recall", ("tasks", "horizon", "recall")),
            ("the same, adding", ("tasks", "horizon", "adding_uniform")),
            ("AUC on held-out families of recall, before training", ("held_out_families", "flow", "0")),
            ("the same after 100 updates, chosen predictor", ("held_out_families", "chosen", "100")),
            ("AUC on held-out tasks, before training", ("held_out_tasks", "flow", "0")),
            ("the same minus the plain predictors'", ("held_out_tasks", "flow", "over_plain")),
            ("AUC on held-out tasks after 100 updates", ("held_out_tasks", "flow", "100")),
        )
    ),
)  # fmt: skip


def _begun(start: str, field: str) -> Any:
    """A number of each seed of `readout_bias`, at the rate 0.02 after 800 steps."""

    def numbers(results: Any) -> list[float]:
        return [
            run[field]
            for run in results["runs"]
            if (run["start"], run["rate"], run["steps"]) == (start, 0.02, 800)
        ]

    return numbers


OTHERS = (
    *(
        Claim("readout_bias", "three_seeds", f"{says}, bias begun at {start}", _begun(start, field), form)
        for says, field, form in (
            ("memories with tanh C beyond 0.99 after 800 steps at 0.02", "memories", "{:.0%}"),
            ("candidates beyond 0.95", "candidates", "{:.0%}"),
            ("held-out bits", "held_out", "{:.2f}"),
        )
        for start in ("log frequency", "zeros")
    ),
    Claim(
        "japanese_vowels", "five_seeds", "test accuracy in %",
        lambda r: r["accuracies"], "{:.2f}",
    ),
    Claim(
        "in_the_wild", "cells", "cells of trained networks whose λ_1 is below 0 by two errors",
        lambda r: f"{r['below_0_by_two_errors']} of {r['cells']}",
    ),
    Claim(
        "in_the_wild", "cells", "median λ_1 in nats a step, trained and at the initialisation",
        lambda r: f"{r['median_lambda_trained']} and {r['median_lambda_initial']}",
    ),
)  # fmt: skip

CLAIMS: tuple[Claim, ...] = (
    *CHAR, *PTB, *LONG_LAG, *LAGS, *AUDIT, *GOES, *BY_HAND, *QUESTIONS, *OTHERS,
)  # fmt: skip
