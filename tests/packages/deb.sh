# The .deb in clean Debian roots. Sourced by scripts/test-packages.

# Where a root has systemd, its tools make the user; elsewhere `useradd` does.
deb_installs() {
    local root=$1
    cp "$DEB" "$root/tmp/"
    inside "$root" dpkg --install "/tmp/$(basename "$DEB")"
    inside "$root" getent passwd smg | grep -c '^smg:.*:/var/lib/smg:/usr/sbin/nologin$'
    says "root:smg 750" mode_of "$root" /etc/smg
    says "root:smg 750" mode_of "$root" /etc/smg/conf.d
    says "root:smg 640" mode_of "$root" /etc/smg/smg.toml
    says "smg:smg 750" mode_of "$root" /run/smg
    says "root:root 755" mode_of "$root" /usr/bin/smg
    inside "$root" dpkg --verify smg
    # A second time changes nothing.
    inside "$root" /var/lib/dpkg/info/smg.postinst configure ""
}

deb_is_not_started() {
    local root=$1 unit
    for unit in smg.service smg.socket; do
        says disabled inside "$root" sh -c "systemctl --root=/ is-enabled $unit || true"
    done
    inside "$root" systemd-analyze verify --man=no /usr/lib/systemd/system/smg.service
}

config_is_valid() {
    inside "$1" smg check-config
    inside "$1" setpriv --reuid=smg --regid=smg --clear-groups smg check-config
    # Nobody else reads what may hold keys.
    never inside "$1" setpriv --reuid=nobody --regid=nogroup --clear-groups cat /etc/smg/smg.toml
}

completions_load() {
    inside "$1" bash -c 'source /usr/share/bash-completion/completions/smg && complete -p smg'
    grep -q '^#compdef smg' "$1$2/_smg"
    grep -q 'complete -c smg' "$1/usr/share/fish/vendor_completions.d/smg.fish"
}

pages_render() {
    local page
    for page in man1/smg.1 man5/smg.toml.5; do
        gzip -dc "$1/usr/share/man/$page.gz" | mandoc -T utf8 -W error >"$WORK/page"
        sed 's/.\x08//g' "$WORK/page" | grep -c '^NAME'
    done
}

deb_upgrades() {
    local root=$1
    cp "$DEB2" "$root/tmp/"
    echo '# mine' >>"$root/etc/smg/smg.toml"
    chmod 0600 "$root/etc/smg/smg.toml"
    inside "$root" dpkg --force-confold --install "/tmp/$(basename "$DEB2")"
    tail -n1 "$root/etc/smg/smg.toml" | grep -qx '# mine'
    grep -q "$CONFIG2_MARK" "$root/etc/smg/smg.toml.dpkg-dist"
    # The administrator's mode stays.
    says "root:smg 600" mode_of "$root" /etc/smg/smg.toml
    inside "$root" dpkg-query -W -f '${Version} ${Status}' smg | grep -c "^$VERSION2-1 install ok installed$"
}

deb_removes() {
    local root=$1
    inside "$root" dpkg --remove smg
    absent "$root/usr/bin/smg" "$root/usr/lib/systemd/system/smg.service" "$root/usr/share/smg" \
        "$root/usr/lib/sysusers.d/smg.conf"
    tail -n1 "$root/etc/smg/smg.toml" | grep -qx '# mine'
}

deb_purges() {
    local root=$1
    # As `systemctl enable` and a run would have left them.
    install -d "$root/var/lib/smg" "$root/var/log/smg" "$root/etc/systemd/system/multi-user.target.wants"
    ln -sf /usr/lib/systemd/system/smg.service "$root/etc/systemd/system/multi-user.target.wants/smg.service"
    echo 'version = 1' >"$root/etc/smg/conf.d/mine.toml"
    inside "$root" dpkg --purge smg
    absent "$root/etc/smg" "$root/var/lib/smg" "$root/var/log/smg" "$root/run/smg" "$root/etc/logrotate.d/smg"
    rm -f "$root"/tmp/smg*.deb
    says "" find "$root" -xdev -name '*smg*' -not -path "$root/proc/*"
    # The number is not given away: files elsewhere may have it.
    inside "$root" getent passwd smg
}

deb_hands_over() {
    local root=$1
    cp "$DEB2" "$root/tmp/"
    alone bash tests/packages/gateway.sh "$root" upgrade "$DEB2"
}
