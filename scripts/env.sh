# shellcheck shell=bash
# Where the tools are. Sourced by the other scripts; it installs nothing and leaves the shell in the repository root.
#
#   UVIT_TOOLS     folder for the tools that scripts/setup builds   (default: ~/.cache/uvit-web)
#   CHROMIUM       the browser that the tests drive                 (default: searched for)
#   CHROMEDRIVER   its driver, of the same major version            (default: searched for)
#   FIREFOX        another browser that the tests drive             (default: searched for)

cd "$(dirname "${BASH_SOURCE[0]}")/.." || exit

# The crate's pin decides the version of the command, so that the two cannot differ.
WASM_BINDGEN_VERSION=$(sed -n 's/^wasm-bindgen *= *"=\([0-9.]*\)".*/\1/p' Cargo.toml)
WASM_BINDGEN_ROOT=${UVIT_TOOLS:-${XDG_CACHE_HOME:-$HOME/.cache}/uvit-web}/wasm-bindgen-$WASM_BINDGEN_VERSION
export WASM_BINDGEN_VERSION WASM_BINDGEN_ROOT
export PATH=$WASM_BINDGEN_ROOT/bin:$PATH

# Prints the comment on top of a script.
usage() { sed -n '2,/^[^#]/s/^# \{0,1\}//p' "$1"; }

# The first of the given names or paths that can be run; nothing if there is none.
first_command() {
  local name
  for name in "$@"; do
    if command -v "$name"; then return; fi
  done
}

if [ -z "${CHROMIUM:-}" ]; then
  CHROMIUM=$(first_command chromium google-chrome google-chrome-stable chromium-browser \
    '/Applications/Google Chrome.app/Contents/MacOS/Google Chrome' \
    '/Applications/Chromium.app/Contents/MacOS/Chromium')
fi
if [ -z "${CHROMEDRIVER:-}" ]; then
  CHROMEDRIVER=$(first_command chromedriver /usr/lib/chromium/chromedriver)
fi
if [ -z "${FIREFOX:-}" ]; then
  FIREFOX=$(first_command firefox-esr firefox '/Applications/Firefox.app/Contents/MacOS/firefox')
fi
export CHROMIUM CHROMEDRIVER FIREFOX

# Mesa warns where a session manager has not set it.
if [ -z "${XDG_RUNTIME_DIR:-}" ]; then
  XDG_RUNTIME_DIR=${TMPDIR:-/tmp}/uvit-web-$(id -u)
  (umask 077 && mkdir -p "$XDG_RUNTIME_DIR")
  export XDG_RUNTIME_DIR
fi
