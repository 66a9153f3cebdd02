"""What one writes: a DataLoader, PyTorch in fp32 and its default memory format, the last layer's features.

    python -m benchmarks.contestants.plain_pass LIST WORKERS

LIST is a text file with a picture's path a line. Prints the seconds of the loop alone, imports and weights apart.
"""

import sys
import time
from pathlib import Path

import torch

from benchmarks.contestants.network import Pictures, lite0, pixels

network = lite0().eval()
network.reset_classifier(0)
rows = [(line, "") for line in Path(sys.argv[1]).read_text("utf-8").splitlines()]
loader = torch.utils.data.DataLoader(Pictures(rows, [""], pixels()), batch_size=32, num_workers=int(sys.argv[2]))
started = time.perf_counter()
with torch.inference_mode():
    for x, _ in loader:
        network(x)
print(time.perf_counter() - started)
