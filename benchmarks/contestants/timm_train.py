"""What timm's train script does, of timm's own parts: its loader, augmentation, AdamW, cosine schedule; 10 epochs.

The script itself is not in timm's package. Everything learns: a rate of 1e-4 after an epoch of warm-up, weight decay
0.05, colours jittered, label smoothing 0.1, batches of 32; the last epoch is kept, as no image is held out.
"""

import sys
from pathlib import Path

import torch
from timm.data import create_loader
from timm.loss import LabelSmoothingCrossEntropy
from timm.optim import create_optimizer_v2
from timm.scheduler import create_scheduler_v2

from benchmarks.contestants.network import Pictures, lite0, pixels, share_right
from benchmarks.contestants.table import read_table, report

train, test = read_table(sys.argv[1])
epochs = int(sys.argv[3]) if len(sys.argv) > 3 else 10
classes = sorted({label for _, label in train})
loader = create_loader(Pictures(train, classes, None), (3, 224, 224), batch_size=32, is_training=True,
                       use_prefetcher=False, hflip=0.5, color_jitter=0.4, interpolation="bicubic", mean=(0.5,) * 3,
                       std=(0.5,) * 3, num_workers=2, device=torch.device("cpu"), persistent_workers=True)
network = lite0(len(classes))
optimizer = create_optimizer_v2(network, "adamw", lr=1e-4, weight_decay=0.05)
schedule, _ = create_scheduler_v2(optimizer, "cosine", num_epochs=epochs, warmup_epochs=1, warmup_lr=1e-6)
loss = LabelSmoothingCrossEntropy(0.1)
schedule.step(0)
for epoch in range(epochs):
    network.train()
    for x, y in loader:
        optimizer.zero_grad()
        loss(network(x), y).backward()
        optimizer.step()
    schedule.step(epoch + 1)
Path(sys.argv[2]).mkdir(parents=True)
torch.save(network.state_dict(), Path(sys.argv[2]) / "network.pt")
report(share_right(network, Pictures(test, classes, pixels())))
