"""The documentation as HTML: `python -m sphinx -W --keep-going -n -b html docs docs/_build/html`.

The pages are the Markdown files of this folder, as they are; the reference is made from the
docstrings. Nothing is fetched: names of other libraries are shown and lead nowhere.
"""

from __future__ import annotations

import re
from pathlib import Path

from docutils import nodes
from docutils.utils.math.latex2mathml import tex2mathml
from sphinx.application import Sphinx
from sphinx.writers.html5 import HTML5Translator

import fastweights

project = "fastweights"
author = "The fastweights developers"
project_copyright = author
version = release = fastweights.__version__

extensions = [
    "myst_parser",  # Markdown
    "sphinx.ext.autodoc",
    "sphinx.ext.autosummary",
    "sphinx.ext.napoleon",  # Args, Returns, Raises
]
exclude_patterns = ["_build"]
myst_heading_anchors = 3  # links to headings work as on GitHub

html_theme = "furo"
html_title = f"fastweights {version}"
html_copy_source = False
html_static_path = ["_static"]
html_css_files = ["formulas.css"]
html_math_renderer = "mathml"  # by the browser itself: MathJax would have to be fetched

autodoc_inherit_docstrings = False  # what torch says of its modules stands in torch's documentation
autodoc_type_aliases = {"npt.ArrayLike": "numpy.typing.ArrayLike"}  # it is a long union
autodoc_typehints_format = "short"
python_maximum_signature_line_length = 88
default_role = "py:obj"  # `name` in a docstring is a link to it
napoleon_use_ivar = True  # attributes as a list, not each as an object of its own
napoleon_use_rtype = False

# With -n every reference must lead somewhere. Other libraries' pages are not at hand offline, and a
# type variable has none.
nitpick_ignore_regex = [
    (
        r"py:.*",
        r"(collections|enum|fractions|matplotlib|nn|np|npt|numpy|os|pathlib|torch|typing)\..*",
    ),
    (r"py:class", r"Tensor|fastweights\.training\.(config\.C|schedule\.Settings)"),
]

# Pages that lie outside this folder, by what stands for them in it.
_PAGES = {
    "../README.md": "index.md",
    "../src/fastweights/ops/fast_weights/README.md": "api/recurrence.md",
}


def _within(app: Sphinx, name: str, source: list[str]) -> None:
    """Lead links out of this folder to a page in it; of one to a folder only the text stays."""

    def link(match: re.Match[str]) -> str:
        text, target = match.groups()
        if target in _PAGES:
            return f"[{text}]({_PAGES[target]})"
        return text if (Path(app.srcdir) / target).is_dir() else match[0]

    source[0] = re.sub(r"\[([^]]*)\]\((\.\./[^)]*)\)", link, source[0])


def _math(writer: HTML5Translator, node: nodes.Element) -> None:
    writer.body.append(tex2mathml(node.astext(), as_block=isinstance(node, nodes.math_block)))
    raise nodes.SkipNode


def setup(app: Sphinx) -> None:
    """Called by Sphinx."""
    app.add_html_math_renderer("mathml", (_math, None), (_math, None))
    app.connect("source-read", _within)
