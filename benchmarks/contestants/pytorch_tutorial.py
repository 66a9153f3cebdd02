"""The loop of PyTorch's tutorial on transfer learning: everything learns, 25 epochs of SGD in batches of 4.

Random crops, mirrored at random; a rate of 0.001, a tenth of it after every 7 epochs; the epoch that does best on a
fifth of the training images is kept.
"""

import copy
import sys
from pathlib import Path

import torch
from sklearn.model_selection import train_test_split
from torch import nn
from torchvision import transforms as t

from benchmarks.contestants.network import Pictures, lite0, pixels, share_right
from benchmarks.contestants.table import read_table, report

train, test = read_table(sys.argv[1])
epochs = int(sys.argv[3]) if len(sys.argv) > 3 else 25
classes = sorted({label for _, label in train})
learn, held = train_test_split(train, test_size=0.2, stratify=[label for _, label in train], random_state=0)
augmented = t.Compose([t.RandomResizedCrop(224), t.RandomHorizontalFlip(), t.ToTensor(),
                       t.Normalize((0.5,) * 3, (0.5,) * 3)])
loader = torch.utils.data.DataLoader(Pictures(learn, classes, augmented), batch_size=4, shuffle=True, num_workers=2)
network = lite0(len(classes))
optimizer = torch.optim.SGD(network.parameters(), lr=0.001, momentum=0.9)
schedule = torch.optim.lr_scheduler.StepLR(optimizer, step_size=7, gamma=0.1)
best, state = -1.0, {}
for _ in range(epochs):
    network.train()
    for x, y in loader:
        optimizer.zero_grad()
        torch.autograd.backward(nn.functional.cross_entropy(network(x), y))
        optimizer.step()
    schedule.step()
    found = share_right(network, Pictures(held, classes, pixels()))
    if found > best:
        best, state = found, copy.deepcopy(network.state_dict())
network.load_state_dict(state)
Path(sys.argv[2]).mkdir(parents=True)
torch.save(state, Path(sys.argv[2]) / "network.pt")
report(share_right(network, Pictures(test, classes, pixels())))
