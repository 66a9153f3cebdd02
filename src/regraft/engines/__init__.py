"""Run the frozen part of a network: pixels in, pooled features out, one contract for every engine."""
