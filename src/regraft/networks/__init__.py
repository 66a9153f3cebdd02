"""Pre-trained networks: what there is, how weights get in, where features are read."""

import os

# PyTorch's threads wait for each other by spinning unless told otherwise before it is loaded. As soon as anything
# else wants a core (our own decoding threads do), spinning costs a pass over images most of its speed: 4 images a
# second instead of 27, measured on two cores beside one other process.
os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
