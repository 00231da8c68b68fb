#!/bin/sh
# The retrieval test wants many real pages. Puts Python's HTML documentation, as Debian packages it,
# into a folder without installing anything; where it cannot, says so and lets the test skip.
set -eu

place=${1:-build/python-docs}
[ ! -f "$place/index.html" ] || exit 0

missing() {
    echo "*** NO PYTHON DOCUMENTATION: $1; the retrieval test over it will be SKIPPED ***" >&2
    exit 0
}

for tool in apt-get apt-cache dpkg-deb; do
    command -v "$tool" >/dev/null 2>&1 || missing "no $tool here"
done

# python3-doc holds nothing: it depends on the package with the version of this release in its name.
versioned() {
    LC_ALL=C apt-cache depends python3-doc 2>/dev/null |
        awk '$1 == "Depends:" && $2 ~ /^python3\.[0-9]+-doc$/ { print $2; exit }'
}

# A network that swallows what is sent must not hold the tests up for long.
fetch() {
    "$@" -qq -o Acquire::http::Timeout=30 -o Acquire::https::Timeout=30 -o Acquire::Retries=0
} >"$work/said" 2>&1

# apt fetches as its own user when root asks, so the folder is handed to that user.
download() {
    package=$(versioned)
    [ -n "$package" ] || return 1
    if [ "$(id -u)" -eq 0 ] && id _apt >/dev/null 2>&1; then
        chown _apt "$work/package"
    fi
    (cd "$work/package" && fetch apt-get download "$package")
}

update() {
    if [ "$(id -u)" -eq 0 ]; then
        fetch apt-get update
    else
        fetch sudo -n apt-get update
    fi
}

work=$(mktemp -d)
unpacked=
trap 'rm -rf "$work" ${unpacked:+"$unpacked"}' EXIT
trap 'exit 1' HUP INT TERM
chmod 755 "$work"
mkdir "$work/package"

echo "Fetching Python's documentation for the retrieval test."
download || { update && download; } || {
    cat "$work/said" >&2 2>/dev/null || true
    missing "apt-get could not download what python3-doc depends on"
}

# Unpacked beside its place and moved there whole: a run that is cut off leaves nothing half done.
mkdir -p "$(dirname "$place")"
unpacked=$(mktemp -d "$place.XXXXXX")
dpkg-deb -x "$work"/package/*.deb "$unpacked" || missing "dpkg-deb could not unpack the package"
for html in "$unpacked"/usr/share/doc/python3.*/html; do
    if [ -f "$html/index.html" ] && [ ! -L "$html" ]; then
        rmdir "$place" 2>/dev/null || true
        [ ! -e "$place" ] || missing "something else is in the way at $place"
        mv "$html" "$place"
        exit 0
    fi
done
missing "the package holds no HTML pages where they are expected"
