"""Where the images of a training are now."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from regraft.data.index import open_data
from regraft.data.listing import Seen, pictures
from regraft.data.named import named_folder


def sources(kept: Mapping[str, Any]) -> Iterator[tuple[str, bool]]:
    """Data and whether links are followed, of each root that a run's ``splits.csv`` numbers, in that order.

    ``kept`` are the settings that the run was begun with: the images, those of ``--test``, those of each update.
    """
    follow = kept.get("follow_links") is True
    for name in ("data", "test"):
        if isinstance(kept.get(name), str):
            yield kept[name], follow
    for added in kept.get("added", ()):
        yield added["data"], added["follow_links"]


def originals(data: str | Path, follow_links: bool) -> dict[tuple[str, str], Path]:
    """Every image of the data by the number of its root and its path, as ``splits.csv`` names them.

    Labels do not matter here: of a folder all pictures below it are taken. Nothing is downloaded: a named set is
    where the training put it. Empty where nothing is there.
    """
    text = str(data)
    named = text.startswith("torchvision:")
    path = named_folder() / text.removeprefix("torchvision:") if named else Path(text).expanduser()
    if path.is_dir():
        root = path.resolve()
        return {("0", name): root / name for name in pictures(root, root, Seen(), follow_links)}
    if named or not path.exists():
        return {}
    index = open_data(path)
    return {(str(int(root)), name): index.file(row)
            for row, (root, name) in enumerate(zip(index.root_ids, index.paths, strict=True))}
