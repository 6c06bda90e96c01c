#!/usr/bin/env bash
# Do without Docker what the CPU image's build does: the same steps in a fresh Debian 12, then a first look as its user.
# usage: try_in_debian.sh FOLDER     root; needs debootstrap, 7 GB in FOLDER, which must not exist, and ten minutes
# The settings of pip are those of this machine.
set -euo pipefail
root=$(realpath --canonicalize-missing "${1:?the folder of the new Debian}")
[ ! -e "$root" ] || { echo "try_in_debian.sh: $root is there already" >&2; exit 2; }
cd "$(dirname "$0")/../.."
debootstrap --variant=minbase --include=ca-certificates bookworm "$root"
trap 'umount --recursive "$root/proc" "$root/dev"' EXIT
mount -t proc proc "$root/proc"
mount --rbind /dev "$root/dev" && mount --make-rslave "$root/dev"
cp /etc/resolv.conf /etc/hosts "$root/etc/"
cp /etc/ssl/certs/ca-certificates.crt "$root/etc/ssl/certs/"
[ ! -e /etc/pip.conf ] || cp /etc/pip.conf "$root/etc/"

mkdir -p "$root/opt/r2d2"
git ls-files -z --cached --others --exclude-standard | tar --null --files-from=- --create | tar --extract -C "$root/opt/r2d2"
inside() { chroot "$root" /usr/bin/env --chdir=/opt/r2d2 "$@"; }
# What the image that the build begins with brings.
inside apt-get install --quiet --quiet --yes --no-install-recommends python3.11 python3.11-venv python3.11-dev
for step in system packages project; do
  began=$SECONDS
  inside sh infra/docker/install.sh "$step"
  echo "== $step: $((SECONDS - began)) s"
done
inside useradd --uid 1000 --create-home r2d2
as_user() { inside runuser -u r2d2 -- env PATH=/opt/r2d2/.venv/bin:/usr/bin:/bin R2D2_HOME=/home/r2d2/home "$@"; }
as_user r2d2 doctor
as_user python -c 'import horovod.tensorflow as hvd; assert hvd.gloo_built(); print("Horovod with Gloo")'
echo "== $(du -sh "$root/opt/r2d2" | cut -f1) in /opt/r2d2"
