"""Which part of a picture spoke for an answer."""
