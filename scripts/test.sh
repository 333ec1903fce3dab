#!/usr/bin/env bash
# Makes the environment, installs, and runs every check. Arguments go to pytest.
set -euo pipefail
cd "$(dirname "$0")/.."
source scripts/environment.sh bench,service,simulator,test
ruff check .
ruff format --check .
mypy
# Trials want the machine for themselves, and the others are two at a time. Exit code 5: the
# arguments choose none of these.
pytest -m "not trial" --numprocesses 2 --dist loadfile "$@" || [ $? -eq 5 ]
pytest -m trial "$@" || [ $? -eq 5 ]
