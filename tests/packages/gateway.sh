#!/usr/bin/env bash
# Starts the installed gateway in a root as its user, with what its unit would give it, and tries it.
# Runs within `alone`, so that whatever it started ends with it.
#
#     gateway.sh ROOT serve          probes answer, a reload is taken
#     gateway.sh ROOT rotate         logrotate, with files and an audit log
#     gateway.sh ROOT upgrade DEB    a package of another version takes over while it serves
set -euo pipefail

readonly ROOT=$1 TRIAL=$2
mount -t proc proc "$ROOT/proc"

within() {
    chroot "$ROOT" env -i PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin LC_ALL=C.UTF-8 \
        DEBIAN_FRONTEND=noninteractive "$@"
}
as_smg() { within setpriv --reuid=smg --regid=smg --clear-groups --inh-caps=-all env "$@"; }
live() { curl --silent --fail --output /dev/null --max-time 2 http://127.0.0.1:30001/liveness; }

# until_true COMMAND…: tries for ten seconds.
until_true() {
    local tries=100
    until "$@"; do
        tries=$((tries - 1))
        [ $tries -gt 0 ] || { echo "never true: $*"; tail -n 20 "$ROOT/tmp/gateway.log"; exit 1; }
        sleep 0.1
    done
}

start() {
    within install -d -o smg -g smg -m 0700 /var/lib/smg
    within install -d -o smg -g smg -m 0750 /var/log/smg
    as_smg RUNTIME_DIRECTORY=/run/smg STATE_DIRECTORY=/var/lib/smg \
        smg --config /etc/smg/smg.toml >"$ROOT/tmp/gateway.log" 2>&1 &
    until_true live
}

serve() {
    start
    within smg reload
    as_smg smg reload
    curl --silent --fail http://127.0.0.1:29000/metrics | grep -c '^smg_'
    [ "$(within stat -c '%U:%G %a' /run/smg/control.sock)" = "smg:smg 600" ]
}

# holds FILE TEXT: of a log.
holds() { grep -q "$2" "$ROOT/var/log/smg/$1" 2>/dev/null; }

rotate() {
    cat >"$ROOT/etc/smg/conf.d/logs.toml" <<'END'
version = 1
[logging]
dir = "/var/log/smg"
rotate = "never"
[audit]
path = "/var/log/smg/audit.log"
END
    chmod 0644 "$ROOT/etc/smg/conf.d/logs.toml"
    start
    within smg reload
    until_true holds audit.log reload
    until_true holds smg.log .
    within logrotate --force /etc/logrotate.d/smg
    local before
    before=$(cat "$ROOT/var/log/smg/smg.log.1" "$ROOT/var/log/smg/audit.log.1" | wc -l)
    [ "$before" -gt 0 ]
    # What is written from now on stands in the new files.
    within smg reload
    until_true holds smg.log .
    until_true holds audit.log reload
    [ "$(within stat -c '%U:%G %a' /var/log/smg/audit.log)" = "smg:smg 600" ]
    # The second time the first ones are compressed.
    within logrotate --force /etc/logrotate.d/smg
    [ -s "$ROOT/var/log/smg/audit.log.2.gz" ] && [ -s "$ROOT/var/log/smg/smg.log.2.gz" ]
    rm "$ROOT/etc/smg/conf.d/logs.toml"
}

# One process of the installed binary, not of one that has been replaced.
runs_installed() {
    local exe
    for exe in /proc/[0-9]*/exe; do
        [ "$(readlink "$exe" 2>/dev/null)" != "$ROOT/usr/bin/smg" ] || return 0
    done
    return 1
}

# There is no systemd here: something that notes what it was asked for stands in for `systemctl`.
upgrade() {
    install -d "$ROOT/run/systemd/system"
    printf '#!/bin/sh\necho "$@" >>/tmp/systemctl.log\n' >"$ROOT/usr/local/bin/systemctl"
    chmod 0755 "$ROOT/usr/local/bin/systemctl"
    start
    (
        # Each connection is a new one; one that fails is the end of it.
        while live; do sleep 0.01; done
        echo "not served" >"$ROOT/tmp/lost"
    ) &
    local asking=$!
    within dpkg --force-confold --install "/tmp/$(basename "$1")"
    until_true runs_installed
    live
    kill $asking
    [ ! -e "$ROOT/tmp/lost" ] || { echo "requests failed meanwhile"; tail -n 20 "$ROOT/tmp/gateway.log"; exit 1; }
    grep -q daemon-reload "$ROOT/tmp/systemctl.log"
    if grep -q restart "$ROOT/tmp/systemctl.log"; then
        echo "it had to be restarted"
        tail -n 20 "$ROOT/tmp/gateway.log"
        exit 1
    fi
    rm -r "$ROOT/usr/local/bin/systemctl" "$ROOT/run/systemd"
}

"$TRIAL" "${@:3}"
