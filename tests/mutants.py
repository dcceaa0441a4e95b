"""Wrong derivations, made one at a time from the right one's source."""

import ast
import copy
import inspect
import textwrap
from functools import partial
from importlib import import_module
from typing import Any, NamedTuple

from lstm_jax.cells.cell import HandDerived

# The package's own names lstm, gru and rnn are the functions.
affine, cell, gru, lstm, rnn = (
    import_module(f"lstm_jax.cells.{name}") for name in ("affine", "cell", "gru", "lstm", "rnn")
)

CELL_MODULES = {"lstm": lstm, "gru": gru, "rnn_tanh": rnn}
RULE = HandDerived._fields
# The rule's functions, and what they call of their own.
REBUILT = {*RULE, "local_derivatives", "pre_activations", "flat_rows", "sum_of_outer"}


class Target(NamedTuple):
    """A function of the hand-derived rule, and the names in it that can be taken for each other."""

    cell: str
    module: Any
    function: str
    alike: tuple[tuple[str, ...], ...] = ()


TARGETS = (
    Target("lstm", lstm, "local_derivatives", (("i", "f", "g", "o", "tanh_c", "c_prev"),)),
    Target("lstm", lstm, "backward_step", (("d_h", "d_c"),)),
    Target("lstm", lstm, "tangent_step", (("z_dot_i", "z_dot_f", "z_dot_g", "z_dot_o"),)),
    Target("gru", gru, "local_derivatives", (("r", "u", "n", "a", "h_prev"),)),
    Target("gru", gru, "backward_step", (("d_r", "d_u", "d_n", "d_a"),)),
    Target(
        "gru",
        gru,
        "tangent_step",
        (("z_dot_r", "z_dot_u", "z_dot_n"), ("h_dot_r", "h_dot_u", "h_dot_a")),
    ),
    Target("gru", gru, "parameter_gradient", (("d_r", "d_u"),)),
    Target("gru", gru, "tangent_inputs", (("z_dot_r", "z_dot_u", "z_dot_n"),)),
    Target("rnn_tanh", rnn, "backward_step"),
    Target("rnn_tanh", rnn, "tangent_step"),
    Target("rnn_tanh", affine, "parameter_gradient", (("xs", "d_z"),)),
    Target("rnn_tanh", affine, "tangent_inputs", (("xs", "xs_dot"), ("params", "params_dot"))),
    Target("rnn_tanh", affine, "sum_of_outer", (("left", "right"),)),
)

# The fields that an attribute of each of these names may be taken for.
FIELDS = {
    "local": lambda module: module.Local._fields,
    "residuals": lambda module: getattr(module, "Residuals", rnn.Residuals)._fields,
    "params": lambda module: ("w_x", "w_h"),
    "params_dot": lambda module: ("w_x", "w_h"),
    "d_pre": lambda module: module.PreActivations._fields,
    "dot": lambda module: module.PreActivations._fields,
}


def functions(module):
    """The functions that a module defines, by name, as syntax trees."""
    tree = ast.parse(textwrap.dedent(inspect.getsource(module)))
    return {node.name: node for node in tree.body if isinstance(node, ast.FunctionDef)}


def replacements(node, target):
    """What a term may wrongly have been: pairs of a description and the wrong term."""
    match node:
        case ast.BinOp(left=left, op=op, right=right):
            yield f"{ast.unparse(node)} -> {ast.unparse(left)}", left
            yield f"{ast.unparse(node)} -> {ast.unparse(right)}", right
            if isinstance(op, (ast.Add, ast.Sub)):
                other = ast.Sub() if isinstance(op, ast.Add) else ast.Add()
                wrong = ast.BinOp(left, other, right)
                yield f"{ast.unparse(node)} -> {ast.unparse(wrong)}", wrong
        case ast.Attribute(value=value, attr="T"):
            yield f"{ast.unparse(node)} -> {ast.unparse(value)}", value
        case ast.Attribute(value=ast.Name(id=name) as value, attr=attr) if name in FIELDS:
            for field in FIELDS[name](target.module):
                if field != attr and attr in FIELDS[name](target.module):
                    yield (
                        f"{ast.unparse(node)} -> {name}.{field}",
                        ast.Attribute(value, field, ast.Load()),
                    )
        case ast.Name(id=name, ctx=ast.Load()):
            for group in target.alike:
                if name in group:
                    wrong = group[(group.index(name) + 1) % len(group)]
                    yield f"{name} -> {wrong}", ast.Name(wrong, ast.Load())
        case ast.List(elts=elts) if len(elts) > 1:
            for n in range(len(elts) - 1):
                order = [*elts[:n], elts[n + 1], elts[n], *elts[n + 2 :]]
                wrong = ast.List(order, ast.Load())
                yield f"{ast.unparse(node)} -> {ast.unparse(wrong)}", wrong
        case ast.Call(func=func, args=[], keywords=keywords) if len(keywords) > 1:
            for n in range(len(keywords) - 1):
                wrong = copy.deepcopy(keywords)
                wrong[n].value, wrong[n + 1].value = wrong[n + 1].value, wrong[n].value
                names = f"{keywords[n].arg}= <-> {keywords[n + 1].arg}="
                yield f"{ast.unparse(func)}: {names}", ast.Call(func, [], wrong)


def wrong_versions(target):
    """Every `replacements` of every term of a function: pairs of an id and a function's tree."""
    tree = functions(target.module)[target.function]
    body = [node for statement in tree.body for node in ast.walk(statement)]
    for position, node in enumerate(body):
        where = f"{getattr(node, 'lineno', 0) - tree.lineno},{getattr(node, 'col_offset', 0)}"
        for description, wrong in replacements(node, target):
            mutant = copy.deepcopy(tree)
            spot = [node for statement in mutant.body for node in ast.walk(statement)][position]
            new = ReplaceNode(spot, copy.deepcopy(wrong)).visit(mutant)
            yield f"{target.cell} {target.function} +{where}: {description}", new


class ReplaceNode(ast.NodeTransformer):
    """Put one node in the place of another."""

    def __init__(self, spot, wrong):
        self.spot, self.wrong = spot, wrong

    def visit(self, node):
        return self.wrong if node is self.spot else self.generic_visit(node)


def rule_with(target, tree=None):
    """The cell's hand-derived rule, every function of it rebuilt, with ``tree`` for the target's."""
    cell_module = CELL_MODULES[target.cell]
    inherited = {}
    for module in (cell, affine, cell_module):
        namespace = {**vars(module), **inherited}
        for name, function in functions(module).items():
            if name not in REBUILT:
                continue
            if (module, name) == (target.module, target.function) and tree is not None:
                function = tree
            source = ast.Module([copy.deepcopy(function)], [])
            exec(compile(ast.fix_missing_locations(source), f"<{name}>", "exec"), namespace)
            if module is not cell_module:
                inherited[name] = namespace[name]
    rule = HandDerived(*(namespace[name] for name in RULE))
    if cell_module is rnn:
        rule = rule._replace(
            forward_step=partial(rule.forward_step, rnn.ACTIVATIONS["tanh"]),
            local_derivatives=partial(rule.local_derivatives, rnn.ACTIVATIONS["tanh"]),
        )
    return rule
