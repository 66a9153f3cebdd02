"""The pages for a browser: package files put together at start, under a policy that lets nothing else in."""

from __future__ import annotations

import base64
import hashlib
import html
import re
from importlib.resources import files

from fastapi.responses import HTMLResponse

from regraft.serving.problems import KINDS

_MARK = re.compile(r"<(?P<tag>style|script) data-file=\"(?P<file>[\w.]+)\"></(?P=tag)>")

_PROBLEMS = "<!--problems-->"


def page(name: str) -> HTMLResponse:
    """One page with its styles and script in it, and a Content-Security-Policy that allows exactly these."""
    folder = files("regraft.serving") / "pages"
    digests: dict[str, list[str]] = {"style": [], "script": []}

    def put_in(mark: re.Match[str]) -> str:
        text = (folder / mark["file"]).read_text("utf-8")
        digest = base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()
        digests[mark["tag"]].append(f"'sha256-{digest}'")
        return f"<{mark['tag']}>{text}</{mark['tag']}>"

    text = _MARK.sub(put_in, (folder / name).read_text("utf-8")).replace(_PROBLEMS, _rows())
    policy = "; ".join([
        "default-src 'none'", f"style-src {' '.join(digests['style'])}", f"script-src {' '.join(digests['script'])}",
        "img-src 'self' blob: data:", "connect-src 'self'", "form-action 'none'", "base-uri 'none'",
        "frame-ancestors 'none'"])
    return HTMLResponse(text, headers={"Content-Security-Policy": policy})


def _rows() -> str:
    """A row for each kind of problem."""
    return "\n".join(f'<tr id="{name}"><td><code>{name}</code></td><td>{kind.status}</td>'
                     f"<td>{html.escape(kind.title)}. {html.escape(kind.meaning)}</td></tr>"
                     for name, kind in KINDS.items())
