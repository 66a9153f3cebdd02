"""The folder that a model travels in to a machine without a connection."""
