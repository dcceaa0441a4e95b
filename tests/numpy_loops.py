"""Cells over time as plain NumPy loops, in the layouts of PyTorch and Keras; no code of the package.

Axes: xs[T, D] -> hs[T, H]. A list of matrices has one for each gate.
"""

import numpy as np


def sigmoid(z):
    return 1 / (1 + np.exp(-z))


def lstm_loop(xs, w_i, u_i, b, w_f, u_f, b_f, w_g, u_g, b_g, w_o, u_o, b_o):
    """Matrices [D, H] and [H, H], gate by gate: input, forget, candidate, output."""
    h = c = np.zeros(u_i.shape[0], xs.dtype)
    hs = []
    for x in xs:
        i, f = sigmoid(x @ w_i + h @ u_i + b), sigmoid(x @ w_f + h @ u_f + b_f)
        g, o = np.tanh(x @ w_g + h @ u_g + b_g), sigmoid(x @ w_o + h @ u_o + b_o)
        c = f * c + i * g
        h = o * np.tanh(c)
        hs.append(h)
    return np.array(hs)


def gru_loop(xs, reset, update, new, after=True):
    """Each gate is (w [D, H], u [H, H], b_x [H], b_h [H]); the update gate keeps the state."""
    (w_r, u_r, b_r, c_r), (w_u, u_u, b_u, c_u), (w_n, u_n, b_n, c_n) = reset, update, new
    h = np.zeros(u_r.shape[0], xs.dtype)
    hs = []
    for x in xs:
        r, u = sigmoid(x @ w_r + b_r + h @ u_r + c_r), sigmoid(x @ w_u + b_u + h @ u_u + c_u)
        inner = r * (h @ u_n + c_n) if after else (r * h) @ u_n + c_n
        h = (1 - u) * np.tanh(x @ w_n + b_n + inner) + u * h
        hs.append(h)
    return np.array(hs)


def pytorch_lstm(xs, w_ih, w_hh, b_ih, b_hh):
    """[4H, D], [4H, H], [4H], [4H] in the order i, f, g, o."""
    gates = zip(*(np.split(a, 4) for a in (w_ih, w_hh, b_ih + b_hh)), strict=True)
    return lstm_loop(xs, *(part for w, u, b in gates for part in (w.T, u.T, b)))


def pytorch_gru(xs, w_ih, w_hh, b_ih, b_hh):
    """[3H, D], [3H, H], [3H], [3H] in the order r, z, n."""
    gates = zip(*(np.split(a, 3) for a in (w_ih, w_hh, b_ih, b_hh)), strict=True)
    return gru_loop(xs, *((w.T, u.T, b, c) for w, u, b, c in gates))


def keras_lstm(xs, kernel, recurrent_kernel, bias):
    """[D, 4H], [H, 4H], [4H] in the order i, f, c, o."""
    gates = zip(*(np.split(a, 4, -1) for a in (kernel, recurrent_kernel, bias)), strict=True)
    return lstm_loop(xs, *(part for gate in gates for part in gate))


def cudnn_lstm(xs, kernel, recurrent_kernel, bias):
    """CuDNNLSTM of Keras 2: each gate's memory is a matrix [H, D] or [H, H] that multiplies a column."""
    hidden = recurrent_kernel.shape[0]
    parts = []
    for gate in range(4):
        columns = slice(gate * hidden, (gate + 1) * hidden)
        memory = np.array(kernel[:, columns], order="C").ravel()
        w = memory.reshape(hidden, kernel.shape[0])
        u = np.array(recurrent_kernel[:, columns], order="C")
        b = bias[: 4 * hidden][columns] + bias[4 * hidden :][columns]
        parts += [w.T, u.T, b]
    return lstm_loop(xs, *parts)


def cudnn_gru(xs, kernel, recurrent_kernel, bias):
    """CuDNNGRU of Keras 2, in the order z, r, h."""
    hidden = recurrent_kernel.shape[0]
    gates = []
    for gate in range(3):
        columns = slice(gate * hidden, (gate + 1) * hidden)
        w = np.array(kernel[:, columns], order="C").ravel().reshape(hidden, kernel.shape[0])
        u = np.array(recurrent_kernel[:, columns], order="C")
        gates.append((w.T, u.T, bias[: 3 * hidden][columns], bias[3 * hidden :][columns]))
    update, reset, new = gates
    return gru_loop(xs, reset, update, new)
