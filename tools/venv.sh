#!/bin/sh
# Builds .venv with everything that `make demo` and `make test` need; says what to do where it cannot.
set -eu

fail() {
    printf 'blockgraph: %s\n' "$1" >&2
    exit 1
}

# The newest Python that the pinned torch has wheels for.
find_python() {
    for name in ${PYTHON:-} python3.13 python3.12 python3.11 python3.14 python3; do
        command -v "$name" >/dev/null 2>&1 || continue
        "$name" -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null && { echo "$name"; return; }
    done
    fail 'needs Python 3.11 or newer; on Debian or Ubuntu: apt-get install python3 python3-venv; on macOS: brew install python'
}

# Debian keeps venv in a package of its own.
make_venv() {
    "$1" -m venv .venv 2>/dev/null && return
    version=$("$1" -c 'import sys; print("python%d.%d-venv" % sys.version_info[:2])')
    if command -v apt-get >/dev/null 2>&1; then
        if [ "$(id -u)" = 0 ]; then apt-get update -qq && apt-get install -y -qq "$version"
        elif sudo -n true 2>/dev/null; then sudo apt-get update -qq && sudo apt-get install -y -qq "$version"
        fi
    fi
    "$1" -m venv .venv || fail "cannot make a virtual environment; on Debian or Ubuntu: sudo apt-get install $version"
}

# A build of torch without CUDA is a tenth of the download; take it where there is no NVIDIA driver.
torch_index() {
    [ "$(uname)" = Linux ] && ! command -v nvidia-smi >/dev/null 2>&1 || return 0
    .venv/bin/pip install -q --dry-run --no-deps 'torch==2.13.0+cpu' >/dev/null 2>&1 && return 0
    echo '--extra-index-url https://download.pytorch.org/whl/cpu'
}

[ -x .venv/bin/python ] || make_venv "$(find_python)"
echo 'installing into .venv (torch is the largest part) ...'
# shellcheck disable=SC2046  # the index is two words
.venv/bin/pip install -q --disable-pip-version-check -c constraints.txt $(torch_index) -e '.[data,dev]' ||
    fail 'the installation failed; the lines above say why'
.venv/bin/python -c 'import pygraphviz' 2>/dev/null || command -v dot >/dev/null 2>&1 ||
    printf 'note: no Graphviz was found, so figures come as DOT, Mermaid and TikZ; for SVG, PDF and PNG: %s\n' \
        'apt-get install graphviz, or brew install graphviz' >&2
