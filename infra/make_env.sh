#!/usr/bin/env bash
# Make a file of settings of its example: every change-me becomes a secret of its own, and nobody else may read the file.
# usage: make_env.sh EXAMPLE FILE    e.g. infra/make_env.sh infra/compose/.env.example infra/compose/.env
set -euo pipefail
example=${1:?the example} file=${2:?the file to make}
[ ! -e "$file" ] || { echo "make_env.sh: $file is there already, and may be in use" >&2; exit 2; }
umask 077
while IFS= read -r line; do
  secret=$(head -c 24 /dev/urandom | od -An -v -tx1 | tr -d ' \n')
  if [[ $line == \#* ]]; then echo "$line"; else echo "${line/change-me/$secret}"; fi
done < "$example" > "$file.new"
mv "$file.new" "$file"
