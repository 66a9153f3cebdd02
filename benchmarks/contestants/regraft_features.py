"""Regraft's ``train --strategy features``; the environment's REGRAFT_STORE names the store."""

import sys

import regraft
from benchmarks.contestants.table import report

result = regraft.train(sys.argv[1], strategy="features", out=sys.argv[2], quiet=True)
assert result.test is not None
report(result.test.accuracy.value)
