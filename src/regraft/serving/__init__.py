"""A model over HTTP, and a page to try it: an exported file in ONNX Runtime, within limits, without PyTorch.

The room is not called ``serve``: a module of that name would hide the function :func:`regraft.serve`.
"""
