"""What is timed against each other: a program each, from a table of images to a saved model and its test accuracy.

Each is run as ``python -m benchmarks.contestants.NAME TABLE OUT`` in a process of its own. TABLE is a CSV file with
``path``, ``label`` and ``split`` (``train`` or ``test``); the last line printed is JSON with ``accuracy`` on the test
images.
"""
