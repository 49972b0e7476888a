#!/usr/bin/env bash
# Brings what the tests of the page for browsers need: Node.js, Chromium with its driver,
# and in .web/ the npm package that the page runs on. Without them, these tests are skipped.
set -u
cd "$(dirname "${BASH_SOURCE[0]}")/.." || exit 1

PLACE=.web
PINS=gluon_compress/deployment/web/package.json

has() { command -v "$1" >/dev/null 2>&1; }

missing() {
    has chromium || echo chromium
    has chromedriver || echo chromium-driver
    has npm || echo nodejs npm
}

packages=$(missing)
if [ -n "$packages" ] && has apt-get && [ "$(id -u)" = 0 ]; then
    echo "make web-tools: installing" $packages
    apt-get update -qq &&
        DEBIAN_FRONTEND=noninteractive apt-get install -qq -y --no-install-recommends \
            $packages >/dev/null
fi
packages=$(missing)
if [ -n "$packages" ]; then
    echo "make web-tools: missing; on Debian: apt-get install" $packages >&2
    exit 1
fi

# The copy of the pins is written last: an interrupted install never looks current.
cmp -s "$PINS" $PLACE/installed.json && exit 0
echo "make web-tools: installing the npm packages of $PINS into $PLACE"
mkdir -p $PLACE && cp "$PINS" $PLACE/package.json &&
    npm install --prefix $PLACE --no-package-lock --ignore-scripts --no-audit --no-fund \
        --loglevel error </dev/null >/dev/null &&
    cp "$PINS" $PLACE/installed.json
