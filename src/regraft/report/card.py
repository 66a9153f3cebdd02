"""The model card: a README beside the model, with the front matter that model hubs read."""

from __future__ import annotations

import html
import json
import re
from collections.abc import Iterator

from regraft.records.base import shown
from regraft.records.model import ModelRecord
from regraft.records.page import RunPage
from regraft.records.results import Evaluation

#: Stands in every card that was written here; a card without it is someone's own and stays.
MARK = "<!-- written by regraft; take this line out to keep your own version -->"

#: Licences by the names that hubs know.
_LICENCES = {"apache-2.0": "apache-2.0", "mit": "mit", "bsd-3-clause": "bsd-3-clause", "cc-by-nc-4.0": "cc-by-nc-4.0",
             "cc-by-4.0": "cc-by-4.0"}

#: More classes than this are counted, not named.
_NAMED = 200


def card(run: RunPage) -> str:
    """The card of a finished run, Markdown. Names are escaped; of paths the last part stands."""
    return "\n".join([*_front(run), "", MARK, "", *_body(run), ""])


def _front(run: RunPage) -> Iterator[str]:
    licence = run.record.licence if isinstance(run.record, ModelRecord) else None
    known = _LICENCES.get((licence or "").lower())
    yield "---"
    yield f"license: {known or 'other'}"
    if known is None and licence:
        yield f"license_name: {json.dumps(shown(licence))}"
    yield from ("library_name: regraft", "pipeline_tag: image-classification", "tags:", "- image-classification",
                "- transfer-learning", "- regraft")
    test = None if run.result is None else run.result.test
    if test is not None:
        yield from ("model-index:", f"- name: {json.dumps(run.name)}", "  results:", "  - task:",
                    "      type: image-classification", "    dataset:", f"      name: {json.dumps(run.data)}",
                    "      type: imagefolder", "      split: test", "    metrics:", "    - type: accuracy",
                    f"      value: {test.accuracy.value:.4f}")
    yield "---"


def _body(run: RunPage) -> Iterator[str]:
    result, record = run.result, run.record
    assert result is not None
    assert record is not None
    yield f"# {_plain(run.name)}"
    yield ""
    yield (f"An image classifier of {len(record.classes):,} classes, learned from {_plain(run.data)} by Regraft: "
           f"the network {_plain(result.backbone)} with {_plain(result.head.chosen.label)}.")
    yield from ("", "## How good it is", "")
    measured = [figures for figures in (result.test, result.validation) if figures is not None]
    if measured:
        yield from ("| images | number | accuracy | 95 % interval | commonest class alone | balanced accuracy |",
                    "| --- | --- | --- | --- | --- | --- |", *map(_row, measured), "")
        yield ("Test images were looked at once, at the end; validation images may have served to choose, which "
               "flatters a little.")
    else:
        yield "No image could be held out, so nothing says how good it is."
    yield from ("", "## How to use it", "", "```python", "import regraft", "",
                'model = regraft.load("path/to/this/folder")', 'print(model.predict("new.jpg").label)', "```")
    yield from ("", "## What to mind", "")
    yield ("It knows the classes below and gives one of them for any picture. The figures hold for images like those "
           "it was tested on; of others they say nothing.")
    yield from ("", "## Training", "")
    counts = ", ".join(f"{sum(of.get(split, 0) for of in run.counts.values()):,} {split}"
                       for split in ("train", "validation", "test"))
    yield f"- images: {counts}"
    if isinstance(record, ModelRecord):
        yield (f"- network: {_plain(record.backbone)}, weights under "
               f"{_plain(record.licence or 'a licence that their source does not state')}")
    yield f"- command: `{run.command.replace('`', '')}`"
    yield from ("", "## Classes", "")
    yield (", ".join(map(_plain, record.classes[:_NAMED]))
           + (f" and {len(record.classes) - _NAMED:,} more" if len(record.classes) > _NAMED else ""))


def _row(figures: Evaluation) -> str:
    a = figures.accuracy
    return (f"| {figures.split} | {figures.n:,} | {a.value:.1%} | {a.low:.1%} to {a.high:.1%} | "
            f"{figures.majority.accuracy:.1%} | {figures.balanced_accuracy:.1%} |")


def _plain(name: str) -> str:
    """A name that neither Markdown nor HTML takes for more than text."""
    return re.sub(r"([\\`*_{}\[\]#|~!])", r"\\\1", html.escape(shown(name)))
