"""Run the frozen part of a network: pixels in, pooled features out, one contract for every engine."""

import regraft.networks  # noqa: F401 - sets how threads wait, before any engine loads PyTorch
