#!/bin/sh
# The tests in a real browser need one. Installs Debian's Chromium where that takes no question;
# elsewhere says so and lets the tests skip.
set -eu

for name in chromium chromium-browser google-chrome; do
    if command -v "$name" >/dev/null 2>&1; then
        exit 0
    fi
done

missing() {
    echo "*** NO BROWSER: $1; the tests in a real Chromium will be SKIPPED ***" >&2
    exit 0
}

as_root=
if [ "$(id -u)" -ne 0 ]; then
    sudo -n true 2>/dev/null || missing "install the package chromium (neither root nor sudo here)"
    as_root="sudo -n"
fi
command -v apt-get >/dev/null 2>&1 || missing "install Chromium or Chrome (no apt-get here)"

echo "Installing Chromium for the tests in a real browser."
{
    $as_root apt-get update -qq &&
        $as_root env DEBIAN_FRONTEND=noninteractive \
            apt-get install -y -qq --no-install-recommends chromium >/dev/null
} || missing "apt-get could not install chromium"
