"""What a command does from beginning to end, and the folder in which it can be taken up again."""
