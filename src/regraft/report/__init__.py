"""Pictures of records. Nothing is computed here; matplotlib is imported when something is drawn."""
