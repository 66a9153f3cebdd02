"""Training by steps: views of the images, what is kept of them, rates, the loop, checkpoints."""
