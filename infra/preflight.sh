#!/usr/bin/env bash
# Says in one line what this machine lacks to set R2D2 up, and which package brings it; with `browser`: to test it.
set -u
python=${PYTHON:-python3.11}
need() { echo "r2d2: $1" >&2; exit 2; }

if [ "${1:-}" = browser ]; then
    command -v chromium >/dev/null || command -v google-chrome >/dev/null || need "no chromium here, which the tests open the dashboard in; install it (Debian, Ubuntu: apt install chromium)"
    exit 0
fi

command -v "$python" >/dev/null || need "no $python here; install Python 3.11 (Debian, Ubuntu: apt install python3.11 python3.11-venv), or name it: make PYTHON=/path/to/python3.11"
"$python" -c 'import sys; sys.exit(sys.version_info[:2] != (3, 11))' || need "$python is $("$python" --version 2>&1), R2D2 needs Python 3.11; install it (Debian, Ubuntu: apt install python3.11 python3.11-venv), or name it: make PYTHON=/path/to/python3.11"
"$python" -c 'import venv, ensurepip' 2>/dev/null || need "$python has no venv module; install it (Debian, Ubuntu: apt install python3.11-venv)"
command -v "${CXX:-g++}" >/dev/null || need "no C++ compiler, which Horovod's build needs; install one (Debian, Ubuntu: apt install g++)"
[ -z "${GPU:-}" ] || command -v nvcc >/dev/null || need "no nvcc here, CUDA's compiler, which Horovod's build with NCCL needs; install CUDA 12 or 13 and put its bin folder on PATH, or leave out GPU=1"
