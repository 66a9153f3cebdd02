"""What lies before the cut is computed once and kept: the store, and the one pass that fills it."""
