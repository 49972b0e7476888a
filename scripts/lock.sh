#!/usr/bin/env bash
# Writes constraints/pyXY.txt: the version of everything that `make venv` installs, for
# each supported Python on Linux x86-64, from the ranges in setup.py.
set -eu -o pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."

UV=${UV:-uv}
if ! command -v "$UV" >/dev/null; then
    echo "make lock: uv is missing (pip install uv); or name one: make lock UV=/path/to/uv" >&2
    exit 1
fi

compile() {
    "$UV" pip compile --quiet --upgrade --no-header --no-annotate --no-emit-index-url \
        --no-emit-find-links --python-platform x86_64-manylinux_2_28 "$@"
}

for version in 3.8 3.9 3.10 3.11; do
    file=constraints/py${version/./}.txt
    {
        echo "# Made by \`make lock\` for Python $version."
        compile --python-version "$version" --extra dev setup.py
        compile --python-version "$version" --no-deps constraints/tools.in
    } >"$file.tmp"
    mv "$file.tmp" "$file"
    echo "make lock: $file"
done
