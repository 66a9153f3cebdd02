"""In a notebook: progress in one place, results as tables; the walk-throughs of examples/notebooks run."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

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


WALK_THROUGHS = sorted((Path(__file__).parents[1] / "examples" / "notebooks").glob("*.ipynb"))

#: The smallest size at which each still shows what it is about, in place of the cell of its parameters.
SMALL = {
    "phones": "DATA, LIMIT, EPOCHS = 'clothing', 6, 1",
    "digits": "LIMIT, EPOCHS = 12, 1",
    "four-scenarios": "DATA, LIMIT, EPOCHS = 'eurosat', 8, 1",
    "flowers": "DATA, LIMIT, EPOCHS, BACKBONES = 'flowers102', 4, (1, 1), 'efficientnet_lite0,efficientnet_lite1'",
    "cats-and-dogs": "DATA, LIMIT, EPOCHS = 'cats_dogs', 12, 1",
}


def read(path: Path) -> Any:
    return nbformat.read(path, as_version=4)


def test_every_walk_through_has_a_small_size() -> None:
    assert {path.stem for path in WALK_THROUGHS} == set(SMALL)


@pytest.mark.parametrize("path", WALK_THROUGHS, ids=lambda path: path.stem)
def test_a_walk_through_holds_what_it_gave(path: Path) -> None:
    """Each was run from top to bottom and kept its figures, and none of them tells where."""
    cells = [cell for cell in read(path)["cells"] if cell["cell_type"] == "code"]
    assert [cell["execution_count"] for cell in cells] == list(range(1, len(cells) + 1))
    assert sum(bool(cell["outputs"]) for cell in cells) >= 3
    assert not re.search(r"/(home|root|work|tmp|Users)/", path.read_text("utf-8"))
    assert path.stat().st_size < 400_000


@pytest.mark.slow
@pytest.mark.parametrize("path", WALK_THROUGHS, ids=lambda path: path.stem)
def test_a_walk_through_runs(path: Path, shared_data: Path, tmp_path: Path) -> None:
    notebook = read(path)
    (parameters,) = (cell for cell in notebook["cells"] if "parameters" in cell["metadata"].get("tags", ()))
    names = re.findall(r"^(\w+) =", parameters["source"], flags=re.M)
    assert names == [name.strip() for name in SMALL[path.stem].partition(" = ")[0].split(",")]
    parameters["source"] = SMALL[path.stem]
    for folder in shared_data.iterdir():
        if folder.is_dir():
            (tmp_path / folder.name).symlink_to(folder)
    client = nbclient.NotebookClient(notebook, timeout=600, kernel_name="python3",
                                     resources={"metadata": {"path": str(tmp_path)}})
    client.execute()
