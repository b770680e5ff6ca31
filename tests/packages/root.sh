# Clean roots, and what runs in them. Sourced by scripts/test-packages.

readonly ROOTS=build/roots
readonly ENVIRONMENT=(PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin HOME=/root
    LC_ALL=C.UTF-8 DEBIAN_FRONTEND=noninteractive)

# image SUITE VARIANT PACKAGES: prints the path of a root's tar file, made where there is none of the
# last month.
image() {
    local name path
    name=$(printf '%s\n' "$@" | sha256sum | cut -c1-12)
    path=$ROOTS/$1-$name.tar
    if [ -z "$(find "$path" -mtime -30 2>/dev/null)" ]; then
        mkdir -p "$ROOTS"
        TMPDIR=$WORK mmdebstrap --quiet --variant="$2" --include="$3" "$1" "${path%.tar}.new.tar" >&2
        mv "${path%.tar}.new.tar" "$path"
    fi
    echo "$path"
}

# fresh NAME IMAGE: an untouched root at $WORK/NAME.
fresh() {
    mkdir "$WORK/$1"
    tar -x --numeric-owner -f "$2" -C "$WORK/$1"
}

# alone COMMAND…: in a network and a space of processes of its own, all of which end with it.
alone() {
    unshare --net --mount --pid --fork --kill-child --mount-proc \
        bash -euo pipefail -c 'ip link set lo up; exec "$@"' alone "$@"
}

# inside ROOT COMMAND…: the same, within the root.
inside() {
    local root=$1
    shift
    alone bash -euo pipefail -c 'mount -t proc proc "$1/proc"; root=$1; shift; exec chroot "$root" "$@"' \
        inside "$root" env -i "${ENVIRONMENT[@]}" "$@"
}

# mode_of ROOT PATH: as `root:smg 640`. The names are those of the root.
mode_of() { inside "$1" stat -c '%U:%G %a' "$2"; }

# says EXPECTED COMMAND…
says() {
    local expected=$1 found
    shift
    found=$("$@")
    [ "$found" = "$expected" ] || { echo "\`$*\` says \`$found\`, not \`$expected\`"; return 1; }
}

# never COMMAND…: fails if it succeeds, which `!` would not.
never() {
    if "$@"; then
        echo "\`$*\` succeeds"
        return 1
    fi
}

absent() {
    local path
    for path in "$@"; do
        [ ! -e "$path" ] && [ ! -L "$path" ] || { echo "\`$path\` is still there"; return 1; }
    done
}
