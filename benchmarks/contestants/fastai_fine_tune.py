"""fastai's ``vision_learner(...).fine_tune(4)``, or so many epochs, on the same network and weights, augmented.

Images are read in the process that learns: on two cores, which learning fills, workers made it a tenth to a fourth
slower (600 photos of clothes and 244 of ants and bees, two epochs), and batches of 64 instead of 32 another sixth.
"""

import sys
from pathlib import Path

import numpy as np
import pandas as pd
from fastai.vision.all import (
    CategoryBlock,
    ColReader,
    ColSplitter,
    CrossEntropyLossFlat,
    DataBlock,
    ImageBlock,
    Learner,
    Normalize,
    Resize,
    accuracy,
    aug_transforms,
    create_head,
    default_split,
    nn,
)

from benchmarks.contestants.network import lite0
from benchmarks.contestants.table import read_table, report

train, test = read_table(sys.argv[1])
epochs = int(sys.argv[3]) if len(sys.argv) > 3 else 4
table = pd.DataFrame([(*row, False) for row in train] + [(*row, True) for row in test],
                     columns=["path", "label", "held"])
block = DataBlock((ImageBlock, CategoryBlock), get_x=ColReader("path"), get_y=ColReader("label"),
                  splitter=ColSplitter("held"), item_tfms=Resize(256),
                  batch_tfms=[*aug_transforms(size=224), Normalize.from_stats([0.5] * 3, [0.5] * 3)])
loaders = block.dataloaders(table, bs=32, num_workers=0)
body = lite0()
body.reset_classifier(0, "")
classes = len(loaders.vocab)
network = nn.Sequential(body, create_head(1280, classes))
learner = Learner(loaders, network, loss_func=CrossEntropyLossFlat(), metrics=accuracy, splitter=default_split)
learner.freeze()
with learner.no_bar(), learner.no_logging():
    learner.fine_tune(epochs)
Path(sys.argv[2]).mkdir(parents=True)
learner.path = Path(sys.argv[2])
learner.export("model.pkl")
scores, targets = learner.get_preds(dl=loaders.valid)
report(float(np.mean(scores.argmax(1).numpy() == targets.numpy())))
