"""Sphinx configuration; `make docs` builds the pages into docs/_build."""

import importlib.metadata

project = "Eloquent"
release = importlib.metadata.version("eloquent-stream")

extensions = ["myst_parser", "sphinx.ext.autodoc"]
exclude_patterns = ["_build"]
# The docstrings set names in single backticks.
default_role = "code"
autodoc_member_order = "bysource"
autodoc_typehints = "signature"
myst_enable_extensions = ["colon_fence", "deflist"]
myst_heading_anchors = 3

html_theme = "furo"
html_title = f"{project} {release}"
html_show_copyright = False
