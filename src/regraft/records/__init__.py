"""What flows from room to room: frozen, checked at birth, with a format version."""
