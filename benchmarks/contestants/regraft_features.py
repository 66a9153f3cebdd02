"""Regraft's ``train --strategy features`` without its page; the environment's REGRAFT_STORE names the store."""

import sys

import regraft
from benchmarks.contestants.table import report

result = regraft.train(sys.argv[1], strategy="features", out=sys.argv[2], report="none", quiet=True)
assert result.test is not None
report(result.test.accuracy.value)
