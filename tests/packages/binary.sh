# What the binary of the packages is. Sourced by scripts/test-packages.

# Bookworm has 2.36; RHEL 9 has 2.34. An older one than the packages ask for is nobody's promise.
readonly OLDEST_GLIBC=2.34

# Only glibc and the unwinder; scripts/package has written the same versions as dependencies.
needs_only_glibc() {
    local newest needed
    needed=$(objdump -p "$1" | awk '$1 == "NEEDED" { print $2 }')
    never grep -vxE 'libc\.so\.6|libm\.so\.6|libgcc_s\.so\.1|ld-linux-(x86-64\.so\.2|aarch64\.so\.1)' <<<"$needed"
    newest=$(objdump -T "$1" | grep -oE 'GLIBC_[0-9.]+' | cut -d_ -f2 | sort -V | tail -n1)
    says "$newest" sh -c "printf '%s\n' $newest $OLDEST_GLIBC | sort -V | head -n1"
    dpkg-deb --field "$DEB" Depends | grep -c "libc6 (>= $newest)"
    rpm -qp --requires "$RPM" | grep -c "libc.so.6(GLIBC_$newest)(64bit)"
    echo "newest symbol version: GLIBC_$newest"
}

is_stripped_and_hardened() {
    local sections
    # `.debug_gdb_scripts` is a name of 34 bytes that is loaded with the rest, which `strip` leaves.
    sections=$(readelf -SW "$1" | grep -v '\.debug_gdb_scripts')
    never grep -E '\.(debug_|symtab)' <<<"$sections"
    says 3 sh -c "readelf -h '$1' | grep -c -E 'DYN|ELF64|AArch64|X86-64'"
    readelf -lW "$1" | grep -c GNU_RELRO
    readelf -dW "$1" | grep -c BIND_NOW
    readelf -lW "$1" | grep GNU_STACK | grep -cv RWE
}

# Of the machine that built it.
names_no_path() {
    local place
    for place in "$PWD" "$HOME/" "${CARGO_HOME:-$HOME/.cargo}"; do
        says 0 sh -c "grep -cF -- '$place' '$1' || true"
    done
}

# Two runs over the same binary are the same, byte by byte.
is_reproducible() {
    SMG_BINARY=$STAGED scripts/package "$WORK/again" >/dev/null
    cmp "$DEB" "$WORK/again/$(basename "$DEB")"
    cmp "$RPM" "$WORK/again/$(basename "$RPM")"
}

lintian_is_content() {
    # Root's privileges are what CI has.
    lintian --allow-root --fail-on error,warning "$DEB"
}

rpmlint_is_content() {
    local found
    found=$(rpmlint --config packaging/rpm/rpmlint.toml "$RPM") || { echo "$found"; return 1; }
    grep -q ' 0 errors, 0 warnings' <<<"$found" || { echo "$found"; return 1; }
}
