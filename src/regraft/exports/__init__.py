"""One file from pixels to probabilities for other programs, refused unless it agrees with the model.

The room is not called ``export``: a module of that name would hide the function :func:`regraft.export`.
"""
