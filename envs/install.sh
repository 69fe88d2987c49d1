#!/usr/bin/env bash
# Usage: envs/install.sh cpu|cuda FOLDER — a virtual environment with the pinned packages.
#
# The default build of torch on Linux brings several gigabytes of CUDA libraries. Where the
# configured package index would deliver that one, the CPU build is taken through uv, which knows
# where it is published. On a GPU machine "make env CUDA=1" takes the CUDA build and faiss-gpu.
set -euo pipefail
build=$1
folder=$2
here=$(cd "$(dirname "$0")" && pwd)
torch=$(grep '^torch==' "$here/constraints.txt")

[ -x "$folder/bin/python" ] || "${PYTHON:-python3}" -m venv "$folder"
pip() { "$folder/bin/python" -m pip --disable-pip-version-check "$@"; }

if [ "$build" = cuda ]; then
    echo "installing $torch, CUDA build"
    # A CPU build would count as installed, and faiss-cpu would lie over faiss-gpu.
    pip uninstall -q -y torch faiss-cpu
    rm -f "$folder/.installed-cpu"
    pip install -q "$torch"
    pip install -q -c "$here/constraints.txt" -e "$here/..[gpu,test]"
    exit
fi

if ! "$folder/bin/python" -c 'import torch' 2>/dev/null; then
    echo "installing $torch, CPU build (on a GPU machine: make env CUDA=1)"
    plan=$(mktemp)
    trap 'rm -f "$plan"' EXIT
    pip install -q --dry-run --report "$plan" "$torch"
    if grep -qE '"name": "(nvidia|cuda)-' "$plan"; then
        pip install -q uv
        "$folder/bin/uv" pip install -q --python "$folder/bin/python" --torch-backend cpu "$torch"
    else
        pip install -q "$torch"
    fi
fi
pip install -q -c "$here/constraints.txt" -e "$here/..[cpu,test]"
