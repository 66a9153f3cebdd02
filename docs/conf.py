"""Sphinx: the pages of this folder to HTML, with ``make docs``."""

import re
from pathlib import Path

_SOURCE = Path(__file__).parents[1] / "src" / "regraft" / "__init__.py"
_VERSION = re.search(r'^__version__ = "(.+)"$', _SOURCE.read_text("utf-8"), flags=re.M)

project = "Regraft"
author = "the Regraft authors"
release = _VERSION[1] if _VERSION else "unknown"
version = release

extensions = ["myst_parser"]
exclude_patterns = ["_build"]
source_suffix = {".md": "markdown"}
myst_heading_anchors = 3
nitpicky = True

html_theme = "furo"
html_title = f"Regraft {release}"
