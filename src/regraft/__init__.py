"""Regraft: transfer learning on images, measured and told straight.

The doors are functions: :func:`train`, :func:`inspect`, :func:`rank`, :func:`advise`, :func:`evaluate`,
:func:`predict`, :func:`compare`, :func:`update`, :func:`load`, :func:`features`, :func:`backbones`, :func:`fetch`,
:func:`store`, :func:`doctor`, :func:`demo`, :func:`recipes`, :func:`plan`, :func:`explain`, :func:`export`,
:func:`verify`, :func:`bundle`, :func:`serve`, :func:`write_report`, :func:`iter_epochs`; what can go wrong is in
:mod:`regraft.errors`.
"""

from __future__ import annotations

import os
from typing import TYPE_CHECKING, Any

# PyTorch's threads wait for each other by spinning unless told otherwise before it is loaded. As soon as anything
# else wants a core (our own decoding threads do), spinning costs a pass over images most of its speed: 4 images a
# second instead of 27, measured on two cores beside one other process.
os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")

# ONNX Runtime's own builds, from 1.29 on, send names and digests of models to their maker unless told otherwise before
# they are loaded, and leave a file of their session among the temporary ones.
os.environ.setdefault("ORT_DISABLE_TELEMETRY", "1")

__version__ = "0.1.0"

__all__ = ["Hooks", "__version__", "advise", "backbones", "bundle", "compare", "demo", "doctor", "errors", "evaluate",
           "explain", "export", "features", "fetch", "inspect", "iter_epochs", "list_runs", "load", "plan", "predict",
           "rank", "recipes", "serve", "store", "train", "update", "verify", "write_report"]

if TYPE_CHECKING:
    from regraft import errors
    from regraft.api import (
        advise,
        backbones,
        bundle,
        compare,
        demo,
        doctor,
        evaluate,
        explain,
        export,
        features,
        fetch,
        inspect,
        iter_epochs,
        list_runs,
        load,
        plan,
        predict,
        rank,
        recipes,
        serve,
        store,
        train,
        update,
        verify,
        write_report,
    )
    from regraft.training.hooks import Hooks


def __getattr__(name: str) -> Any:
    """Import a door when it is first used: importing the package itself costs nothing."""
    import importlib

    if name == "errors":
        return importlib.import_module("regraft.errors")
    if name == "Hooks":
        return importlib.import_module("regraft.training.hooks").Hooks
    if name in __all__:
        return getattr(importlib.import_module("regraft.api"), name)
    raise AttributeError(f"module 'regraft' has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted(__all__)
