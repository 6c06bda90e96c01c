#!/bin/sh
# Set R2D2 up as the images do, in steps of which each is a layer of its own: a change of the code alone leaves the first
# two as they are. The work itself is the Makefile's.
# usage: install.sh system            what the build needs of Debian (root)
#        install.sh packages [GPU=1]  the locked packages, and Horovod, which is compiled
#        install.sh project [GPU=1]   R2D2, its kernels; then what only builds and tests need goes
set -eu
cd "$(dirname "$0")/../.."
step=${1:?system, packages or project}
shift
case $step in
system)
  apt-get update
  apt-get install --yes --no-install-recommends g++ make
  rm -rf /var/lib/apt/lists/* ;;
packages)
  make packages "$@" ;;
project)
  make setup "$@"
  .venv/bin/python -m compileall -q r2d2
  unneeded=$(.venv/bin/python -c '
import re, tomllib
extras = tomllib.load(open("pyproject.toml", "rb"))["project"]["optional-dependencies"]
print(*(re.match(r"[\w.-]+", name)[0] for name in extras["dev"]), "cmake")')
  # shellcheck disable=SC2086  # names, one a word
  .venv/bin/uv pip uninstall --quiet --python .venv/bin/python $unneeded uv ;;
*)
  echo "install.sh: $step: neither system, packages nor project" >&2
  exit 2 ;;
esac
