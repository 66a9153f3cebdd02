"""What a model answered where it was made, asked again on another machine; nothing in this room needs PyTorch."""
