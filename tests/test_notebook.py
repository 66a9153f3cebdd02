"""In a notebook: progress in one place, results as tables."""

from __future__ import annotations

from pathlib import Path

import nbclient
import nbformat
import pytest

# The kernel talks over local sockets and leaves them to the garbage collector.
pytestmark = pytest.mark.filterwarnings("ignore::ResourceWarning", "ignore::DeprecationWarning",
                                        "ignore::pytest.PytestUnraisableExceptionWarning")


def test_a_notebook_shows_progress_and_results(crops: Path, tmp_path: Path) -> None:
    cells = [
        f"import regraft\nresult = regraft.train({str(crops)!r}, out={str(tmp_path / 'out')!r})\nresult",
        f"regraft.load({str(tmp_path / 'out')!r}).predict({str(crops / 'palace' / '000.jpg')!r})",
    ]
    notebook = nbformat.v4.new_notebook(cells=[nbformat.v4.new_code_cell(source) for source in cells])
    nbclient.NotebookClient(notebook, timeout=300, kernel_name="python3").execute()
    training, prediction = (cell["outputs"] for cell in notebook["cells"])
    displayed = [output for output in training if output["output_type"] == "display_data"]
    assert len(displayed) == 1, "progress is one output, rewritten in place"
    assert "40 images of 2 classes" in displayed[0]["data"]["text/plain"]
    assert "40 of 40" in displayed[0]["data"]["text/plain"]
    (shown,) = (output for output in training if output["output_type"] == "execute_result")
    assert "<table>" in shown["data"]["text/html"]
    assert "never used for fitting or choosing" in shown["data"]["text/plain"]
    assert "<td>palace</td>" in prediction[-1]["data"]["text/html"]
