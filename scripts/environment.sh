# Sourced by the other scripts: a virtual environment in .venv with the extras named,
# from versions that are known to work together (constraints.txt).
python=${PYTHON:-python3}
if ! "$python" -c 'import sys; sys.exit(sys.version_info < (3, 11))'; then
    echo "weir: needs Python 3.11 or newer; name one with PYTHON=python3.12 bash $0" >&2
    exit 2
fi
[ -x .venv/bin/python ] || "$python" -m venv .venv
wanted=$(cat pyproject.toml constraints.txt | cksum)
stamp=.venv/weir-${1:-base}
if [ "$(cat "$stamp" 2>/dev/null)" != "$wanted" ]; then
    .venv/bin/python -m pip install -qq --disable-pip-version-check \
        --constraint constraints.txt --editable ".${1:+[$1]}"
    echo "$wanted" >"$stamp"
fi
PATH=$PWD/.venv/bin:$PATH
