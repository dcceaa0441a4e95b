"""Networks to and from ONNX models, with the package ``onnx``.

Start with `convert`: `from_onnx` and `to_onnx`. `recurrent_nodes` finds every RNN, LSTM and GRU node of a
model, `recurrent_node` reads one and `one_direction` its arrays; `evaluate` runs the nodes that only move or
combine numbers. `wiring` sees by the numbers of `marks` that go through a graph how its nodes are stacked in
a `chain`, and `left_out` names what else is there. `listed_nodes` lists the nodes of a model. `write_graph`
writes a graph.
"""
