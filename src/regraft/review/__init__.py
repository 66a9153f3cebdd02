"""Stored answers to what a person wants to look at: mistakes, confused classes, doubtful labels, a map."""
