"""Sphinx configuration."""

from importlib.metadata import version as installed_version

from sphinx.application import Sphinx

project = "mmnpz"
author = "the mmnpz developers"
copyright = "2026, the mmnpz developers"
release = version = installed_version("mmnpz")

extensions = ["myst_parser", "sphinx.ext.autodoc", "sphinx.ext.napoleon"]
exclude_patterns = ["_build"]
myst_heading_anchors = 3

html_theme = "furo"
html_title = f"mmnpz {release}"
html_copy_source = False

# Single backticks in docstrings: a link where the name is one of ours, code elsewhere.
default_role = "py:obj"
# Names of others are not links: the build needs no network.
nitpick_ignore_regex = [
    ("py:(obj|class|exc)", r"(?!mmnpz\.|Npz).*"),
]
add_module_names = False
autodoc_typehints = "none"
autodoc_member_order = "bysource"
napoleon_google_docstring = False
napoleon_use_ivar = True
napoleon_use_rtype = False


def _signature(_app: Sphinx, _what: str, name: str, *_: object) -> tuple[str, None] | None:
    # Inherited from numpy.memmap, but views are not made by calling their class.
    return ("", None) if name == "mmnpz.memmap" else None


def setup(app: Sphinx) -> None:
    app.connect("autodoc-process-signature", _signature)
