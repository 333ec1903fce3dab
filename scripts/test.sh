#!/usr/bin/env bash
# Makes the environment, installs, and runs every check. Arguments go to pytest.
set -euo pipefail
cd "$(dirname "$0")/.."
source scripts/environment.sh test,bench,simulator
ruff check .
ruff format --check .
mypy
pytest "$@"
