#!/usr/bin/env bash
# zarr 3.1.6 with numcodecs 0.16.6: `import zarr` fails as soon as zfpy 1.0.1.post0 is installed in the same environment.
#
# numcodecs supports zfpy and has an extra for it, so it looks whether it is there, and turns each part of its version into an
# integer. "post0" is none. zfpy is not imported, and zarr needs no codec of it; installing the package is enough, and all
# other codecs are gone with it. The same with zarr 3.4.2 and numcodecs 0.17.1, the newest of November 2026 (Python 3.12).
#
# Who is hurt: whoever compares compressors for vectors in one environment. The error names neither zfpy nor a way out:
# "ValueError: invalid literal for int() with base 10: 'post0'". What helps: zfpy==1.0.1.
#
# Exit status 0: the behaviour is as described. Anything else: it changed.
set -euo pipefail
folder="$(mktemp -d)"
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
install() { "$folder/venv/bin/pip" install --quiet --disable-pip-version-check "$@" 2>/dev/null; }
try() { "$folder/venv/bin/python" -c "import zarr; print('import zarr', zarr.__version__, 'works')" 2>&1 | tail -1 || true; }
install zarr==3.1.6 numcodecs==0.16.6 numpy==2.4.6
without="$(try)"
install zfpy==1.0.1.post0
with="$(try)"
echo "without zfpy: $without"
echo "with zfpy 1.0.1.post0: $with"
[ "$without" = "import zarr 3.1.6 works" ]
[ "$with" = "ValueError: invalid literal for int() with base 10: 'post0'" ]
