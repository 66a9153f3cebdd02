"""A careful person's twenty lines: one pass of frozen features in PyTorch, scikit-learn's logistic regression.

fp32 in PyTorch's default memory format, a DataLoader with two workers, C chosen on a fifth of the training images.
"""

import pickle
import sys
import warnings
from pathlib import Path
from typing import Any

import numpy as np
import torch
from sklearn.exceptions import ConvergenceWarning
from sklearn.linear_model import LogisticRegression
from sklearn.model_selection import train_test_split
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

from benchmarks.contestants.network import Pictures, lite0, pixels
from benchmarks.contestants.table import Rows, read_table, report

train, test = read_table(sys.argv[1])
classes = sorted({label for _, label in train})
network = lite0().eval()
network.reset_classifier(0)


def features(rows: Rows) -> tuple[Any, Any]:
    """Pooled features of the last layer, [N, 1280], and the numbers of the classes."""
    loader = torch.utils.data.DataLoader(Pictures(rows, classes, pixels()), batch_size=32, num_workers=2)
    with torch.inference_mode():
        found = [(network(x).numpy(), y.numpy()) for x, y in loader]
    return np.concatenate([x for x, _ in found]), np.concatenate([y for _, y in found])


def fit(X: Any, y: Any, C: float) -> Any:
    """Standardised logistic regression."""
    return make_pipeline(StandardScaler(), LogisticRegression(C=C, max_iter=300)).fit(X, y)


warnings.simplefilter("ignore", ConvergenceWarning)
X, y = features(train)
learn, held = train_test_split(np.arange(len(y)), test_size=0.2, stratify=y, random_state=0)
best = max((0.001, 0.01, 0.1, 1.0, 10.0), key=lambda C: fit(X[learn], y[learn], C).score(X[held], y[held]))
head = fit(X, y, best)
X_test, y_test = features(test)
Path(sys.argv[2]).mkdir(parents=True)
torch.save(network.state_dict(), Path(sys.argv[2]) / "network.pt")
(Path(sys.argv[2]) / "head.pkl").write_bytes(pickle.dumps(head))
report(float((head.predict(X_test) == y_test).mean()))
