"""The API pages: a fence that lists public names becomes their signatures and docstrings.

    ```{api} lstm_jax
    unroll
    Sequences
    ```

Signatures are shown as they are written in the source, because there the axes of arrays have names.
`tests/test_docs_site.py` holds that every public name is on one of these lists.
"""

import ast
import importlib
import inspect
import pkgutil
import re
import sys
import textwrap
from types import ModuleType
from typing import Any

from docutils import nodes
from sphinx.addnodes import pending_xref
from sphinx.application import Sphinx
from sphinx.util.nodes import make_refnode

LISTED = re.compile(r"^```\{api\} ([\w.]+)\n(.*?)^```$", re.MULTILINE | re.DOTALL)
CODE = re.compile(r"(``.+?``|`[^`]+`)")
MARK = re.compile(r"\||(?<=\[)\*|(?<=, )\*(?=\w)")
LETTER = re.compile(r"^( *\w+: [A-Z])\.")
OURS = ("lstm_jax", "gradient_flow")


def directive_of(module: str, name: str) -> str:
    """What documents a name, as reStructuredText."""
    thing = getattr(importlib.import_module(module), name)
    if inspect.isclass(thing):
        kind = "autoexception" if issubclass(thing, Exception) else "autoclass"
        members = "" if kind == "autoexception" else "   :members:\n"
        return f".. {kind}:: {module}.{name}\n{members}"
    kind = "autofunction" if inspect.isroutine(thing) else "autodata"
    return f".. {kind}:: {module}.{name}\n"


def expand(app: Sphinx, docname: str, source: list[str]) -> None:
    """Replace each list of names."""

    def blocks(found: re.Match[str]) -> str:
        entries = "\n".join(directive_of(found[1], name) for name in found[2].split())
        return f"```{{eval-rst}}\n{entries}```"

    source[0] = LISTED.sub(blocks, source[0])


def written_signature(
    app: Sphinx, what: str, name: str, thing: Any, options: Any, signature: Any, returns: Any
) -> tuple[str, str] | None:
    """A signature as the source has it: ``xs: Float[Array, 'time batch d']``."""
    try:
        tree = ast.parse(textwrap.dedent(inspect.getsource(thing))).body[0]
    except (OSError, TypeError, SyntaxError):
        return None
    if isinstance(tree, ast.FunctionDef):
        if what == "method" and tree.args.args:
            tree.args.args = tree.args.args[1:]
        returned = ast.unparse(tree.returns) if tree.returns else ""
        beside = getattr(sys.modules[thing.__module__], returned, None)
        if inspect.isclass(beside) and beside.__module__ == thing.__module__:
            returned = f"~{beside.__module__}.{returned}"  # nnx and linen both have an RNN
        return f"({ast.unparse(tree.args)})", returned
    if isinstance(tree, ast.ClassDef) and issubclass(thing, tuple):
        fields = [ast.unparse(line) for line in tree.body if isinstance(line, ast.AnnAssign)]
        return f"({', '.join(fields)})", ""
    return None


def skip_fields(
    app: Sphinx, what: str, name: str, thing: Any, skip: bool, options: Any
) -> bool | None:
    """The fields of a named tuple are in its docstring."""
    return True if type(thing).__name__ == "_tuplegetter" else None


def escape(app: Sphinx, what: str, name: str, thing: Any, options: Any, lines: list[str]) -> None:
    """Let ``|x|`` and ``[*batch]`` of a docstring stand as they are: in reStructuredText they are marks."""
    for number, line in enumerate(lines):
        if line.lstrip().startswith((">>>", "...")):
            continue
        parts = CODE.split(line)
        for at in range(0, len(parts), 2):
            parts[at] = MARK.sub(r"\\\g<0>", parts[at])
        # An argument that is "D." is no item of an enumeration.
        lines[number] = LETTER.sub(r"\1\\.", "".join(parts))


def documented(env: Any) -> dict[str, tuple[Any, Any]]:
    """Each documented name with its entry and what it is."""
    found = {}
    for name, entry in env.get_domain("py").objects.items():
        thing = resolved(name)
        found[name] = (entry, thing)
    return found


def resolved(name: str) -> Any:
    """What a dotted name is, or None."""
    parts = name.split(".")
    for end in range(len(parts), 0, -1):
        try:
            thing: Any = importlib.import_module(".".join(parts[:end]))
        except ImportError:
            continue
        for part in parts[end:]:
            thing = (
                vars(thing).get(part)
                if isinstance(thing, ModuleType)
                else getattr(thing, part, None)
            )
        return thing
    return None


def refer(app: Sphinx, env: Any, node: pending_xref, shown: nodes.TextElement) -> Any:
    """Find what a name in a docstring or a signature stands for.

    A public name becomes a link, whatever it is called where it is mentioned. Any other that exists, ours or
    of another package, is shown as code. One that does not exist stays a warning.
    """
    if node.get("refdomain") != "py":
        return None
    target = node["reftarget"].removesuffix("()")
    # The axes of an array, or a sentence where a docstring may have a type.
    if node["reftype"] in ("class", "exc") and re.search(r"['\s]", target):
        return shown
    if not hasattr(env, "documented_things"):
        env.documented_things = documented(env)
    public = env.documented_things
    module = node.get("py:module") or ""
    owner = ".".join(filter(None, [module, node.get("py:class") or ""]))
    defined = getattr(resolved(owner), "__module__", "") if owner else ""
    thing = None
    for prefix in ("", owner, module, defined, *OURS, "jax", "numpy"):
        thing = resolved(f"{prefix}.{target}".lstrip("."))
        if thing is not None:
            break
    for name, (entry, other) in public.items():
        same = thing is not None and other is thing
        if same and not isinstance(thing, (str, int, float, ModuleType)):
            return make_refnode(
                app.builder, node["refdoc"], entry.docname, entry.node_id, shown, name
            )
    tails = [name for name in public if name.endswith(f".{target}")]
    if thing is None and len(tails) == 1:
        entry = public[tails[0]][0]
        return make_refnode(
            app.builder, node["refdoc"], entry.docname, entry.node_id, shown, tails[0]
        )
    return shown if thing is not None or tails or _somewhere(target) else None


def _somewhere(target: str) -> bool:
    """Whether a module of ours has this name, or has something of this name in it."""
    if not _NAMES:
        for root in OURS:
            package = importlib.import_module(root)
            for found in pkgutil.walk_packages(package.__path__, f"{root}."):
                if not found.name.endswith("__main__"):
                    _NAMES.update(found.name.split("."))
                    _NAMES.update(vars(importlib.import_module(found.name)))
    return target.split(".")[0] in _NAMES


_NAMES: set[str] = set()


def setup(app: Sphinx) -> dict[str, Any]:
    """Called by Sphinx."""
    app.connect("source-read", expand)
    app.connect("autodoc-process-signature", written_signature)
    app.connect("autodoc-process-docstring", escape, priority=400)  # before napoleon
    app.connect("autodoc-skip-member", skip_fields)
    app.connect("missing-reference", refer)
    return {"parallel_read_safe": True}
