#!/bin/sh
# Installs the packages beside this file, without a network, checks the model, and serves it on this machine.
# What is typed after the script's name goes to `regraft serve`, such as: sh start.sh --port 9000
set -eu
cd "$$(dirname "$$0")"
commands=
if [ -d wheels ]; then
    python=$${PYTHON:-python$python}
    commands=venv/bin/
    if [ ! -f venv/complete ]; then
        if ! "$$python" -c 'import sys; sys.exit("%d.%d" % sys.version_info[:2] != "$python")'; then
            echo "the packages are for Python $python; install it, or name it: PYTHON=FILE sh start.sh" >&2
            exit 1
        fi
        rm -rf venv
        "$$python" -m venv venv
        venv/bin/python -m pip install --quiet --disable-pip-version-check --no-index --find-links wheels \
            "regraft[serve]"
        : > venv/complete
    fi
fi
"$${commands}regraft" verify .
exec "$${commands}regraft" serve model.onnx "$$@"
