"""The site's lists: every public name is on an API page, and every page is reached from the first one."""

import ast
import importlib
import inspect
import re
from pathlib import Path

import pytest
from page_blocks import CHECKOUT, blocks_of, pages

DOCS = CHECKOUT / "docs"
if not DOCS.is_dir():
    pytest.skip("needs a checkout", allow_module_level=True)

PUBLIC = (
    "lstm_jax",
    "lstm_jax.cells",
    "lstm_jax.datasets",
    "lstm_jax.dropout",
    "lstm_jax.initializers",
    "lstm_jax.interfaces",
    "lstm_jax.language",
    "lstm_jax.linen",
    "lstm_jax.nnx",
    "lstm_jax.tasks",
    "lstm_jax.training",
    "lstm_jax.weights",
    "gradient_flow",
    "gradient_flow.foreign",
)
"""Modules that other code may import from."""

LISTED = re.compile(r"^```\{api\} ([\w.]+)\n(.*?)^```$", re.MULTILINE | re.DOTALL)
TOCTREE = re.compile(r"^```\{toctree\}\n(.*?)^```$", re.MULTILINE | re.DOTALL)


def public_names(module):
    """Names of ``__all__``, or of what a module without one defines; sub-modules have lists of their own."""
    found = importlib.import_module(module)
    names = getattr(found, "__all__", None) or [
        name
        for name, thing in vars(found).items()
        if not name.startswith("_") and getattr(thing, "__module__", None) == module
    ]
    return [name for name in names if not inspect.ismodule(getattr(found, name))]


def listed():
    """``(module, name)`` of every entry of the API pages."""
    for page in sorted((DOCS / "api").glob("*.md")):
        for module, names in LISTED.findall(page.read_text("utf-8")):
            yield from ((module, name) for name in names.split())


def test_every_public_name_is_on_an_api_page():
    entries = list(listed())
    assert len(entries) == len(set(entries))
    there = [getattr(importlib.import_module(module), name) for module, name in entries]
    missing = []
    for module in PUBLIC:
        for name in public_names(module):
            thing = getattr(importlib.import_module(module), name)
            if not any(thing is other for other in there):
                missing.append(f"{module}.{name}")
    assert missing == []


def test_api_pages_list_public_names_alone():
    for module, name in listed():
        assert module in PUBLIC and name in public_names(module), f"{module}.{name}"


def test_modules_with_a_list_of_names_are_public():
    """A new room with an ``__all__`` is documented, or says here why not."""
    for root in (CHECKOUT / "src" / "lstm_jax", CHECKOUT / "analysis" / "gradient_flow"):
        for path in root.rglob("*.py"):
            names = [
                target.id
                for node in ast.parse(path.read_text("utf-8")).body
                if isinstance(node, ast.Assign)
                for target in node.targets
                if isinstance(target, ast.Name)
            ]
            if "__all__" in names:
                parts = [root.name, *path.relative_to(root).with_suffix("").parts]
                module = ".".join(part for part in parts if part != "__init__")
                assert module in (*PUBLIC, "lstm_jax.array_types"), module  # annotations alone


def test_every_documented_thing_has_a_docstring():
    for module, name in listed():
        thing = getattr(importlib.import_module(module), name)
        if inspect.isclass(thing) or inspect.isroutine(thing):
            assert len(inspect.getdoc(thing) or "") > 20, f"{module}.{name}"


def reached(page):
    """A page and all below it, by the lists of pages in them."""
    yield page
    for block in TOCTREE.findall(page.read_text("utf-8")):
        for line in block.splitlines():
            if line and not line.startswith(":"):
                yield from reached((page.parent / f"{line}.md").resolve())


def test_every_page_is_reached_from_the_first():
    found = set(reached(DOCS / "index.md"))
    experiments = sorted(CHECKOUT.glob("experiments/*/*.md"))
    assert set(DOCS.rglob("*.md")) | set(experiments) <= found
    assert {str(Path(page)) for page in pages()} - {"README.md"} <= {
        str(page.relative_to(CHECKOUT)) for page in found
    }


@pytest.mark.parametrize("page", [page for page in pages() if page.startswith("docs/gallery/")])
def test_a_program_of_the_gallery_is_short(page):
    """Lines of code, those of all blocks together."""
    lines = [line.strip() for _, code, _ in blocks_of(page) for line in code.splitlines()]
    assert 10 < len([line for line in lines if line and not line.startswith("#")]) < 60
