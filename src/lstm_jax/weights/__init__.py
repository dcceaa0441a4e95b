"""Weights to and from other frameworks and files, as NumPy arrays and never as a pickle.

| from and to | format |
| --- | --- |
| `from_pytorch`, `to_pytorch` | a state dict of ``nn.RNN``, ``nn.LSTM``, ``nn.GRU`` or one of their cells |
| `from_keras`, `to_keras` | the list of ``get_weights`` and ``set_weights`` of a Keras layer |
| `from_onnx`, `to_onnx` | an ONNX model of RNN, LSTM and GRU operators; the package ``onnx`` |
| `from_flax`, `to_flax` | the parameters of Flax's cells and layers, linen or nnx |
| `from_equinox`, `to_equinox` | an Equinox cell, its arrays |
| `from_haiku`, `to_haiku` | the weights of ``hk.LSTM``, ``hk.GRU`` or ``hk.VanillaRNN`` |
| `from_tensorflow_cell`, `to_tensorflow_cell` | kernel and bias of a TensorFlow 1 LSTM cell |
| `recurrent_layers`, `load` | any of these as users have them: files, mappings, models, modules |
| `named_arrays` | every array of the same, such as an embedding |
| `save_safetensors`, `load_safetensors` | a file with the cell or stack and its parameters |

Start with `gate_order`, the order of the gates and the biases of every framework in one table, and with
`cell_specification`, which options of a cell a framework has. No framework is imported but where a file
needs it.

May import: `cells`, `layers` and the files at the root.
"""

from lstm_jax.weights.all_arrays import named_arrays
from lstm_jax.weights.any_source import load, recurrent_layers
from lstm_jax.weights.equinox import from_equinox, to_equinox
from lstm_jax.weights.flax import from_flax, to_flax
from lstm_jax.weights.haiku import from_haiku, to_haiku
from lstm_jax.weights.keras import from_keras, to_keras
from lstm_jax.weights.onnx.convert import from_onnx, to_onnx
from lstm_jax.weights.pytorch import from_pytorch, to_pytorch
from lstm_jax.weights.recurrent_layer import RecurrentLayer
from lstm_jax.weights.safetensors import load_safetensors, save_safetensors
from lstm_jax.weights.tensorflow import from_tensorflow_cell, to_tensorflow_cell

__all__ = [
    "RecurrentLayer",
    "from_equinox",
    "from_flax",
    "from_haiku",
    "from_keras",
    "from_onnx",
    "from_pytorch",
    "from_tensorflow_cell",
    "load",
    "load_safetensors",
    "named_arrays",
    "recurrent_layers",
    "save_safetensors",
    "to_equinox",
    "to_flax",
    "to_haiku",
    "to_keras",
    "to_onnx",
    "to_pytorch",
    "to_tensorflow_cell",
]
