# The .rpm in a clean root, by the rpm of this machine. Sourced by scripts/test-packages.

# There are no packages of rpm in the root, whose names it could depend on.
rpm_in() {
    local root=$1
    shift
    alone rpm --root "$(realpath "$root")" --define '_dbpath /var/lib/rpm' --nodeps "$@"
}

rpm_query() {
    local root=$1
    shift
    rpm --root "$(realpath "$root")" --define '_dbpath /var/lib/rpm' "$@"
}

rpm_installs() {
    local root=$1
    rpm_in "$root" --install "$RPM"
    inside "$root" getent passwd smg | grep -c '^smg:.*:/var/lib/smg:/sbin/nologin$'
    says "root:smg 750" mode_of "$root" /etc/smg
    says "root:smg 640" mode_of "$root" /etc/smg/smg.toml
    says "smg:smg 750" mode_of "$root" /var/log/smg
    says "smg:smg 750" mode_of "$root" /run/smg
    rpm_query "$root" --verify --nodeps smg
    absent "$root/etc/systemd/system/multi-user.target.wants/smg.service"
}

rpm_upgrades() {
    local root=$1
    echo '# mine' >>"$root/etc/smg/smg.toml"
    rpm_in "$root" --upgrade "$RPM2"
    tail -n1 "$root/etc/smg/smg.toml" | grep -qx '# mine'
    grep -q "$CONFIG2_MARK" "$root/etc/smg/smg.toml.rpmnew"
    says "$VERSION2" rpm_query "$root" --query --qf '%{VERSION}' smg
    [ -x "$root/usr/bin/smg" ] && [ -d "$root/run/smg" ]
}

rpm_erases() {
    local root=$1
    rpm_in "$root" --erase smg
    absent "$root/usr/bin/smg" "$root/usr/lib/systemd/system/smg.service" "$root/usr/share/smg" "$root/run/smg"
    tail -n1 "$root/etc/smg/smg.toml.rpmsave" | grep -qx '# mine'
}
