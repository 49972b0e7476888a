#!/usr/bin/env bash
# Makes .venv with the package (editable) and its dev extra, unless it is current. All
# versions are those of constraints/pyXY.txt, which `make lock` refreshes.
# PYTHON chooses the Python; otherwise the first fitting one on the PATH is taken.
set -u -o pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.." || exit 1

VENV=.venv
STAMP=$VENV/.installed # written last: an interrupted install never looks current
LOG=.venv-install.log
FIT='import sys; sys.exit(not (3, 8) <= sys.version_info[:2] <= (3, 11))'

fail() {
    echo "make venv: $1" >&2
    exit 1
}

# Candidates are run, not just looked for: a version manager's stubs exist and fail.
fits() { "$1" -c "$FIT" </dev/null >/dev/null 2>&1; }
has_venv() { "$1" -c 'import venv, ensurepip' </dev/null >/dev/null 2>&1; }

find_python() {
    local name dir dirs without=
    IFS=: read -r -a dirs <<<"$PATH"
    for name in python3.11 python3.10 python3.9 python3.8 python3 python; do
        for dir in "${dirs[@]}"; do
            [ -x "$dir/$name" ] && fits "$dir/$name" || continue
            if has_venv "$dir/$name"; then
                echo "$dir/$name"
                return
            fi
            without=$dir/$name
        done
    done
    if [ -n "$without" ]; then
        fail "$without has no venv module; on Debian: apt-get install python3-venv"
    fi
    fail "no Python 3.8 to 3.11 on the PATH; install one, or: make venv PYTHON=/path/to/python"
}

chosen_python() {
    if [ -z "${PYTHON:-}" ]; then
        find_python
        return
    fi
    fits "$PYTHON" || fail "PYTHON=$PYTHON is not a Python 3.8 to 3.11 that runs"
    has_venv "$PYTHON" || fail "PYTHON=$PYTHON has no venv module"
    echo "$PYTHON"
}

is_wanted_python() {
    fits $VENV/bin/python || return
    [ -z "${PYTHON:-}" ] || [ "$("$PYTHON" -V 2>&1)" = "$($VENV/bin/python -V 2>&1)" ]
}

make_empty() {
    local python
    python=$(chosen_python) || exit 1
    echo "make venv: $VENV from $python ($("$python" -V 2>&1))"
    "$python" -m venv --clear $VENV >"$LOG" 2>&1 ||
        fail "$python -m venv failed; its output is in $LOG"
}

constraints() {
    echo "constraints/py$($VENV/bin/python -c 'import sys
print("%d%d" % sys.version_info[:2])').txt"
}

# What is never imported need not be compiled: Python compiles the rest when it is.
pip_install() {
    $VENV/bin/python -m pip install --disable-pip-version-check --no-compile \
        --constraint "$(constraints)" "$@" </dev/null 2>&1
}

install() {
    echo "make venv: installing (some minutes the first time; details in $LOG)"
    # The locked setuptools builds the package, not the newest one of a build of its own.
    { pip_install pip setuptools wheel &&
        pip_install --no-build-isolation -e '.[dev]'; } | tee "$LOG" |
        sed -un 's/^ *Downloading \([^ ]*\/\)*/  getting /p
                 s/^Installing collected packages: .*/  unpacking (about a minute)/p' ||
        fail "pip failed: $(grep -a '^ERROR' "$LOG" | tail -n 1) (all it said is in $LOG)"
}

# opencv-python wants a desktop's libraries. Its headless build is the same library
# without windows, which nothing here opens.
settle_cv2() {
    $VENV/bin/python -c 'import cv2' >>"$LOG" 2>&1 && return
    echo "make venv: no desktop libraries here, taking the headless OpenCV"
    pip_install --no-deps --force-reinstall opencv-python-headless >>"$LOG" ||
        fail "OpenCV does not load, nor could its headless build be installed; see $LOG"
}

# ncnn's converter is a program inside a wheel that asks for PyTorch, which only the
# wheel's Python part uses. Without it, its tests are skipped.
settle_pnnx() {
    pip_install --no-deps pnnx >>"$LOG" ||
        echo "make venv: no pnnx here; detectors cannot be exported for ncnn"
}

# This also compiles most of what is imported, before several processes do at once.
check_imports() {
    local error
    error=$($VENV/bin/python -W ignore -c 'import gluon_compress.pipeline' 2>&1 </dev/null) ||
        fail "installed, but: ${error##*$'\n'} (for a missing lib*.so on Debian: apt-get install libgomp1 libquadmath0)"
}

# Making an environment empties its folder, which may be another checkout's.
[ ! -L $VENV ] || fail "$VENV is a link to $(readlink $VENV); remove the link first"
# Two lines: other requirements need an installation, a moved checkout a new .venv.
current=$(set -o pipefail; cat setup.py constraints/*.txt | cksum && pwd) ||
    fail "setup.py or constraints/ is missing"
stamped=$(cat "$STAMP" 2>/dev/null)
if [ -z "$stamped" ] || [ "${stamped#*$'\n'}" != "$PWD" ] || ! is_wanted_python; then
    make_empty
elif [ "$stamped" = "$current" ]; then
    exit 0
fi
rm -f "$STAMP"
install
settle_cv2
settle_pnnx
check_imports
echo "$current" >"$STAMP"
