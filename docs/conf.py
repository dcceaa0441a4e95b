"""The site: ``make docs`` builds it into build/docs, and a warning fails the build.

Its pages are the Markdown files of the checkout, wherever they lie: docs/, the READMEs of the experiments and
of the benchmarks, and CONTRIBUTING. So the source folder is the checkout, a link from one to another is the
same here and on a code host, and no page exists twice.

Every Python block runs in the build (`extensions/run_blocks.py`), by the runner that the tests use too
(`tests/page_blocks.py`). MyST-NB would run blocks as well, but only those of pages in its own form, which a
code host does not show as code, and it would be a second way of running beside the tests'.
"""

import re
import sys
from pathlib import Path

HERE = Path(__file__).resolve().parent
CHECKOUT = HERE.parent
for folder in (CHECKOUT / "src", CHECKOUT / "analysis", CHECKOUT / "tests", HERE / "extensions"):
    sys.path.insert(0, str(folder))

import lstm_jax  # noqa: E402

project = "lstm_jax"
author = "The lstm_jax developers"
copyright = author
version = release = lstm_jax.__version__

extensions = [
    "myst_parser",
    "sphinx.ext.autodoc",
    "sphinx.ext.napoleon",
    "sphinx.ext.viewcode",
    "mathml",
    "run_blocks",
    "api_pages",
    "chinese_search",
]
root_doc = "docs/index"
include_patterns = [
    "docs/**.md",
    "experiments/*/*.md",
    "benchmarks/README.md",
    "CONTRIBUTING.md",
    "CHANGELOG.md",
]
templates_path = ["templates"]

myst_heading_anchors = 4  # a link to a heading is that of a code host
myst_enable_extensions = ["deflist", "dollarmath"]
myst_fence_as_directive = ["math"]
html_math_renderer = "mathml"

autodoc_member_order = "bysource"
autodoc_preserve_defaults = True
napoleon_use_rtype = False
napoleon_use_ivar = True
napoleon_attr_annotations = False
default_role = "py:obj"
# What JAX, Flax and PyTorch name in signatures and docstrings of theirs, or what is not installed.
nitpick_ignore_regex = [
    (r"py:.*", r"core\.Shape|DTypeLikeInexact|OutShardingType|.*DenyList|torch\..*|keras\..*"),
    (r"py:.*", r"collections\.abc\.Mapping\[.*"),
]

html_theme = "furo"
html_title = "lstm_jax"
html_static_path = ["static"]
html_css_files = ["site.css"]
html_js_files = ["search_keys.js"]
html_additional_pages = {"index": "to_first_page.html"}
html_copy_source = False
html_theme_options = {"navigation_with_keys": True}


def setup(app):
    """Show a link to a folder as its text, for a site has no page of one; say which pages are Chinese."""

    def in_its_language(app, pagename, templatename, context, doctree):
        if pagename.startswith("docs/zh/"):
            context["language"] = "zh-CN"  # fonts, screen readers and hyphenation go by it

    def without_folders(app, docname, source):
        source[0] = re.sub(r"\[([^\]]+)\]\((?!https?:)[^)#\s]+/\)", r"\1", source[0])

    app.connect("source-read", without_folders)
    app.connect("html-page-context", in_its_language)
