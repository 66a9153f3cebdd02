"""``fetch``: a backbone's weights in a file, for a machine without a connection."""

from __future__ import annotations

import shlex
from pathlib import Path

from regraft.errors import MissingExtraError
from regraft.networks.catalogue import resolve
from regraft.records.networks import Fetched
from regraft.runs.folder import whole_file
from regraft.settings import FetchSettings


def fetch(settings: FetchSettings) -> Fetched:
    """Run one fetch; see :func:`regraft.fetch`."""
    entry = resolve(settings.name).entry
    try:
        from regraft.networks.build import load_backbone, weight_file
        from regraft.networks.weights import packed
    except ImportError:
        raise MissingExtraError("fetching weights", "train") from None
    network = load_backbone(settings.name)
    data = packed(network.state(), {
        "format_version": "1", "backbone": entry.name, "source": entry.source, "licence": entry.licence or "",
        "weights_digest": network.digest})
    file = Path(settings.to).expanduser() / weight_file(entry.name)
    with whole_file(file, len(data)) as half:
        half.write_bytes(data)
    return Fetched(entry.name, entry.source, entry.licence, str(file), len(data), network.digest,
                   f"regraft train DATA --backbone {entry.name} --weights {shlex.quote(str(file))}")
