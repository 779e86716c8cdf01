#!/usr/bin/env bash
# make-image.sh [TAG]: the node image (default felixpy/node:dev) from Debian packages and this checkout, with no registry.
# Needs a running docker and debootstrap (both are Debian packages: docker.io, debootstrap), and root.
# Where a registry is at hand, `docker build -f deploy/Dockerfile .` makes the same image.
set -euo pipefail
tag=${1:-felixpy/node:dev}
cd "$(dirname "$0")/.."
for need in docker debootstrap; do
    command -v $need >/dev/null || { echo "image: $need is missing: apt-get install docker.io debootstrap" >&2; exit 1; }
done
docker version >/dev/null 2>&1 || { echo "image: docker does not answer: systemctl start docker" >&2; exit 1; }
[ "$(id -u)" = 0 ] || { echo "image: debootstrap needs root" >&2; exit 1; }
make --no-print-directory venv cni gobgpd

work=$(mktemp -d /var/tmp/felixpy-image.XXXXXX)
root=$work/root
trap 'rm -rf --one-file-system "$work"' EXIT
packages=$(grep -v '^#' deploy/image-packages.txt | paste -sd,)
echo "image: Debian bookworm with $packages"
debootstrap --variant=minbase --include="$packages" bookworm "$root" ${DEBIAN_MIRROR:+"$DEBIAN_MIRROR"} >"$work/log" 2>&1 ||
    { tail -n 20 "$work/log" >&2; exit 1; }

echo "image: felixpy"
mkdir -p "$work/wheels" "$work/source"
# Wheels are made outside, as requirements.lock says, so that the image's own pip needs no network; and from a copy,
# since setuptools leaves its work behind.
cp -r pyproject.toml README.md birdpy felixpy ipam "$work/source"
.venv/bin/pip wheel --quiet --no-deps --wheel-dir "$work/wheels" "$work/source"
.venv/bin/pip download --quiet --disable-pip-version-check --require-hashes --only-binary=:all: \
    --python-version 3.11 --no-deps -r requirements.lock --dest "$work/wheels"
cp -r "$work/wheels" "$root/wheels"
chroot "$root" env -i PATH=/usr/bin:/bin python3 -m venv /opt/felixpy
chroot "$root" env -i PATH=/usr/bin:/bin /opt/felixpy/bin/pip install --quiet --disable-pip-version-check --no-index --find-links /wheels felixpy
rm -rf "$root/wheels"
install -D -m 755 build/felixpy-cni "$root/opt/cni/bin/felixpy-cni"
install -D -m 644 deploy/10-felixpy.conflist "$root/opt/felixpy/share/10-felixpy.conflist"
ln -s /opt/cni/bin/felixpy-cni "$root/usr/local/bin/felixpy-cni"
install -m 755 "$(readlink -f build/gobgpd)" "$root/usr/local/bin/gobgpd"
install -m 755 deploy/entrypoint.sh "$root/usr/local/bin/entrypoint"
mkdir -p "$root/run/bird" "$root/run/felixpy" "$root/run/netns"
rm -rf "$root"/var/cache/apt "$root"/var/lib/apt/lists "$root"/usr/share/{doc,man,locale}

echo "image: $tag"
tar -C "$root" -c . | docker import \
    --change 'ENTRYPOINT ["/usr/local/bin/entrypoint"]' \
    --change 'CMD ["felixpy"]' \
    --change 'ENV PATH=/opt/felixpy/bin:/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin' \
    - "$tag"
