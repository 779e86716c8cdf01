#!/bin/sh
# The node image's entry: makes /proc/sys writable where the container may (it is read-only in an unprivileged one, and the
# agent sets each pod device's sysctls), waits for $WAIT_FOR_ADDRESS, then becomes the command. With $RESTART_AFTER_S it
# stays and starts the command again when it ends: a lab's container must not end, since its links would go with it.
set -eu
if [ ! -w /proc/sys/net/ipv4/ip_forward ]; then
    mount -o remount,rw /proc/sys 2>/dev/null || echo "entrypoint: /proc/sys stays read-only; see SYS_ADMIN and AppArmor" >&2
fi
tries=600
while [ -n "${WAIT_FOR_ADDRESS:-}" ] && [ $tries -gt 0 ]; do
    ip -o address show | grep -qwF "$WAIT_FOR_ADDRESS" && break
    tries=$((tries - 1))
    sleep 0.1
done
[ -n "${RESTART_AFTER_S:-}" ] || exec "$@"
trap 'kill "$child" 2>/dev/null || :; exit 0' TERM INT
while :; do
    "$@" &
    child=$!
    wait "$child" || echo "entrypoint: $1 ended with $?; again in $RESTART_AFTER_S s" >&2
    sleep "$RESTART_AFTER_S"
done
