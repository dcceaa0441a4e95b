"""What a Keras configuration says of recurrent layers: activations, directions, the form of a GRU."""

import re
from collections.abc import Iterator
from typing import Any, NamedTuple

KINDS = {
    **{name: "lstm" for name in ("LSTM", "LSTMCell", "CuDNNLSTM")},
    **{name: "gru" for name in ("GRU", "GRUCell", "CuDNNGRU")},
    **{name: "rnn" for name in ("SimpleRNN", "SimpleRNNCell")},
}
ACTIVATIONS = {"tanh": "tanh", "relu": "relu", "linear": "identity"}
DEEPEST = 40


class Settings(NamedTuple):
    """Of one recurrent layer or cell.

    Attributes:
        kind: ``"lstm"``, ``"gru"`` or ``"rnn"``.
        units: H.
        activation: of a vanilla network, in the words of `lstm_jax`.
        reset_after: of a GRU; None where the configuration is older than the option.
        go_backwards: whether it runs from the last step to the first.
        merge_mode: of the `Bidirectional` around it; None without one, or where it keeps the two apart.
        refused: what no cell here computes; None where there is nothing.
        own_class: the name of a class of the source's own; None for Keras's.
    """

    kind: str
    units: Any
    activation: str
    reset_after: bool | None
    go_backwards: bool
    merge_mode: str | None
    refused: str | None
    own_class: str | None = None


def settings_of(kind: str, config: dict[str, Any], outer: dict[str, Any] | None = None) -> Settings:
    """Read one layer's or cell's ``config``; ``outer`` is that of an ``RNN`` around a cell."""
    refused = None
    activation = config.get("activation", "tanh")
    if kind != "rnn":
        # The names in front are those of Keras 1.
        recurrent = config.get("inner_activation", config.get("recurrent_activation", "sigmoid"))
        if activation != "tanh":
            refused = f"activation={_shown(activation)} in an {kind}; a cell here has tanh"
        elif recurrent != "sigmoid":
            refused = (
                f"recurrent_activation={_shown(recurrent)} in an {kind}; a cell here has sigmoid, and the "
                "outputs would differ"
            )
    elif not isinstance(activation, str) or activation not in ACTIVATIONS:
        refused = (
            f"activation={_shown(activation)} in a rnn; a cell here has tanh, relu or identity"
        )
    reset_after = config.get("reset_after") if kind == "gru" else None
    return Settings(
        kind,
        config.get("output_dim", config.get("units")),
        "tanh" if kind != "rnn" or refused else ACTIVATIONS[activation],
        reset_after if isinstance(reset_after, bool) else None,
        bool((outer or config).get("go_backwards", False)),
        None,
        refused,
    )


def layer_settings(kinds: list[str], config: Any) -> list[Settings]:
    """Of one layer's ``get_config()``, one for each direction; a ``Bidirectional`` has a ``layer`` in it.

    Raises:
        ValueError: the configuration of another number of directions, or none.
    """
    config = _dict(config)
    if len(kinds) == 2 and "layer" in config:
        found = _recurrent("Bidirectional", config)
    else:
        found = [] if "layer" in config or not config else [settings_of(kinds[0], config)]
    if [one.kind for one in found] != kinds:
        words = (
            f"a Bidirectional of {' and '.join(kinds)}" if len(kinds) == 2 else f"one {kinds[0]}"
        )
        raise ValueError(
            f"Configuration mismatch: expected config= as the get_config() of {words}, got "
            f"{_shown(config)}."
        )
    return found


def configured_layers(configuration: Any) -> dict[str, list[Settings]]:
    """The recurrent layers and cells of a model's configuration, by name.

    Args:
        configuration: a ``model_config``, or what ``get_config`` returns, as values of JSON. A
            ``Bidirectional`` is its forward direction and then its backward one.

    Example:
        >>> from lstm_jax.weights.keras_configuration import configured_layers
        >>> layer = {"class_name": "LSTM", "config": {"name": "enc", "activation": "relu"}}
        >>> configured_layers({"layers": [layer]})["enc"][0].refused
        "activation='relu' in an lstm; a cell here has tanh"
    """
    found: dict[str, list[Settings]] = {}
    for names, settings in _walk(configuration, 0):
        for name in names:
            found.setdefault(name, []).extend(s for s in settings if s not in found.get(name, []))
    return found


def _walk(node: Any, depth: int) -> Iterator[tuple[list[str], list[Settings]]]:
    if depth > DEEPEST:
        return
    if isinstance(node, list):
        for inner in node:
            yield from _walk(inner, depth + 1)
        return
    if not isinstance(node, dict):
        return
    config = _config(node)
    if config and isinstance(node.get("class_name"), str):
        own = (config.get("name"), node.get("name"))
        names = [name for name in dict.fromkeys(map(str, own)) if name != "None"]
        settings = _recurrent(node["class_name"].rpartition(">")[2], config)
        if settings:
            yield names, settings
        cells = _config(config.get("cell")).get("cells")
        for cell in cells if isinstance(cells, list) else []:  # of StackedRNNCells
            inner = _recurrent(str(_dict(cell).get("class_name")), _config(cell), config)
            yield [str(_config(cell).get("name"))], inner
    for value in node.values():
        yield from _walk(value, depth + 1)


def _recurrent(
    name: str, config: dict[str, Any], outer: dict[str, Any] | None = None, depth: int = 0
) -> list[Settings]:
    """The settings of a class, also inside of wrappers; empty where it is not recurrent."""
    if name in KINDS:
        return [settings_of(KINDS[name], config, outer)]
    ending = re.search("LSTM|GRU|SimpleRNN", name)
    if ending and name.endswith(ending[0]) and "units" in config:
        return [settings_of(KINDS[ending[0]], config, outer)._replace(own_class=name)]
    inner = _dict(config.get("layer") or config.get("cell"))
    if not _config(inner) or depth > DEEPEST:
        return []
    around = config if name == "RNN" else None
    found = _recurrent(str(inner.get("class_name")), _config(inner), around, depth + 1)
    if name != "Bidirectional" or len(found) != 1:
        return found
    back = _dict(config.get("backward_layer"))
    found += _recurrent(str(back.get("class_name")), _config(back), None, depth + 1) or found
    if found[0].go_backwards:
        refused = "a forward direction with go_backwards; a layer here begins with the one that runs forward"
        found[0] = found[0]._replace(refused=refused)
    mode = config.get("merge_mode", "concat")
    return [one._replace(go_backwards=False, merge_mode=mode) for one in found]


def names_by_class(configuration: Any) -> dict[str, str]:
    """Names of layers by the names of their groups in a Keras 3 file: ``{"layers/lstm_1": "encoder"}``.

    Keras 3 names a layer's group after its class, and numbers them in the order of the model.
    """
    found: dict[str, str] = {}
    stack = [("", configuration)]
    while stack:
        prefix, node = stack.pop()
        layers = _config(node).get("layers")
        counts: dict[str, int] = {}
        for layer in layers if isinstance(layers, list) else []:
            base = _snake_case(str(_dict(layer).get("class_name")))
            counts[base] = counts.get(base, -1) + 1
            group = f"{prefix}layers/{base}" + (f"_{counts[base]}" if counts[base] else "")
            name = _config(layer).get("name") or _dict(layer).get("name")
            if name:
                found[group] = str(name)
            if len(group) < 1000:
                stack.append((f"{group}/", layer))
    return found


def _snake_case(name: str) -> str:
    name = re.sub(r"\W+", "", name.rpartition(">")[2])
    name = re.sub("(.)([A-Z][a-z]+)", r"\1_\2", name)
    return re.sub("([a-z])([A-Z])", r"\1_\2", name).lower()


def _dict(value: Any) -> dict[str, Any]:
    """A dict as it is, and an empty one for anything else."""
    return value if isinstance(value, dict) else {}


def _config(node: Any) -> dict[str, Any]:
    return _dict(_dict(node).get("config"))


def _shown(value: Any) -> str:
    return repr(value)[:80]
