"""Sphinx: Markdown pages, and the pages that docs/generate.py writes from specs, ops, detectors and taxonomy."""

from kdflow import __version__

project = "kdflow"
author = "The kdflow authors"
copyright = "the kdflow authors"
release = version = __version__
extensions = ["myst_parser"]
myst_enable_extensions = ["colon_fence", "deflist", "fieldlist"]
myst_heading_anchors = 3
source_suffix = {".md": "markdown"}
exclude_patterns = ["_build", "generated/*.md"]  # the latter are parts of other pages
html_theme = "furo"
html_title = f"kdflow {__version__}"
html_static_path = []
html_extra_path = ["generated/html"]
nitpicky = True
