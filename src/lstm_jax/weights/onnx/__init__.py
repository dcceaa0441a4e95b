"""Networks to and from ONNX models, with the package ``onnx``.

Start with `convert`: `from_onnx` and `to_onnx`. `read_graph` reads a model's graph: it follows the sequence
through the nodes by computing with placeholders, which are in `symbols`. `recurrent_node` reads one RNN, LSTM
or GRU node, `one_direction` its arrays, and `layout_nodes` the nodes that only move axes. `listed_nodes`
lists every recurrent node of a model. `write_graph` writes a graph.
"""
