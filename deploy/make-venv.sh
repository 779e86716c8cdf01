#!/usr/bin/env bash
# make-venv.sh DIR: the virtual environment, exactly as requirements.lock says. One that was left half made is made anew.
set -euo pipefail
venv=$1
echo "venv: the pinned dependencies go into $venv (half a minute, once)"
[ ! -e "$venv/.unfinished" ] || rm -rf "$venv"
mkdir -p "$venv" && touch "$venv/.unfinished"
[ -x "$venv/bin/pip" ] || python3 -m venv "$venv" || { rm -rf "$venv"; /usr/bin/python3 -m venv "$venv"; }
"$venv/bin/pip" install --quiet --disable-pip-version-check --require-hashes -r requirements.lock
# A plain path: the finder that setuptools makes otherwise costs every start of Python as much again as Python itself.
"$venv/bin/pip" install --quiet --disable-pip-version-check --no-deps -e . --config-settings editable_mode=compat
"$venv/bin/python" -m compileall -q "$venv/lib" felixpy birdpy ipam >/dev/null 2>&1 || true
rm -f "$venv/.unfinished"
