#!/usr/bin/env bash
# Builds both distributions and uses them as a stranger would: installed from their wheels, outside the checkout.
#
#   PYTHON   interpreter that the virtual environments are made of; `make release-check` finds one
#   DIST     folder that keeps what was built, one folder for each distribution
#   WALK     shell command that is run where `zoo` is installed and that leaves an ONNX file in its folder; $ROOT is
#            the checkout. Without it: the demo of the README
#
# Needs about 7 GB of disk for the time that it runs, and the network that pip needs.
set -euo pipefail

ROOT=$(cd "$(dirname "$0")/.." && pwd)
export ROOT
PYTHON=${PYTHON:-python3}
ROOM=$(mktemp -d)
trap 'rm -rf "$ROOM"' EXIT
DIST=${DIST:-$ROOM/dist}
mkdir -p "$DIST" "$ROOM/work"
DIST=$(cd "$DIST" && pwd)
WALK=${WALK:-make --no-print-directory --file "\$ROOT/Makefile" demo BIN="\$BIN" INSTALLED=}

# Nothing of the checkout or of the user's settings may help out
unset PYTHONPATH PYTHONHOME VIRTUAL_ENV MAKEFLAGS MAKELEVEL
export ZOO_CACHE=$ROOM/cache PIP_DISABLE_PIP_VERSION_CHECK=1

say() { printf '\n== %s\n' "$*"; }
environment() { "$PYTHON" -m venv "$ROOM/$1" && "$ROOM/$1/bin/python" -m pip install --quiet "${@:2}"; }

say "build and check"
environment tools build twine
for project in packaging/backbone-zoo-serve packaging/backbone-zoo; do
  name=$("$ROOM/tools/bin/python" -c \
    "import sys, tomllib; print(tomllib.load(open(sys.argv[1], 'rb'))['project']['name'])" "$ROOT/$project/pyproject.toml")
  rm -rf "${DIST:?}/$name"
  "$ROOM/tools/bin/python" -m build --outdir "$DIST/$name" "$ROOT/$project" >"$ROOM/build.log" 2>&1 ||
    { cat "$ROOM/build.log"; exit 1; }
done
"$ROOM/tools/bin/twine" --no-color check --strict "$DIST"/*/*

say "backbone-zoo in an environment of its own"
cd "$ROOM/work"
wheel=$(echo "$DIST"/backbone-zoo/*.whl)
environment whole --find-links "$DIST/backbone-zoo-serve" "${wheel}[offline]"
BIN=$ROOM/whole/bin
export BIN PATH="$BIN:$PATH"
python -m pip check
python -c "import zoo, zoo_timm; assert all(one.__file__.startswith('$ROOM') for one in (zoo, zoo_timm)); print(zoo.__file__)"
zoo --version
zoo plugins
bash -euc "$WALK"
model=$(find "$PWD" -name '*.onnx' | head -1)
test -n "$model"

say "backbone-zoo-serve in an environment of its own"
environment serve "$DIST"/backbone-zoo-serve/*.whl
serve=$ROOM/serve/bin
"$serve/python" -m pip check
if "$serve/python" -m pip list --format freeze | grep -E '^(torch|torchvision|timm)='; then exit 1; fi
du -sh "$ROOM/whole" "$ROOM/serve" | sed "s|$ROOM/||"
"$serve/python" -c "from PIL import Image; Image.new('RGB', (64, 48), (200, 30, 40)).save('red.png')"
"$serve/zoo" verify "$model"
"$serve/zoo" predict "$model" red.png
"$serve/zoo" bench "$model" --runtime onnxruntime-cpu --batch-size 1 --seconds 1
# What needs more says so, by exit code 1
"$serve/zoo" train --data digits && exit 1 || test $? = 1

say "backbone-zoo removed, backbone-zoo-serve left whole"
python -m pip uninstall --quiet --yes backbone-zoo
zoo verify "$model"

say "ok: $(cd "$DIST" && echo */*)"
