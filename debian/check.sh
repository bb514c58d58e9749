#!/bin/sh
# Holds a package to what it promises: lintian finds no error, and in a Debian that has nothing else it
# installs, runs as its own user, logs people in at a simulated MX, is upgraded, removed and purged.
#
#   debian/check.sh PACKAGE.deb [FOLDER]      as root; `make deb-check` calls it
#
# FOLDER keeps the small Debian (debootstrap, some minutes) for the next time.
set -eu

package=$(realpath "$1")
root=${2:-$(mktemp -d)/root}
mirror=${DEBIAN_MIRROR:-http://deb.debian.org/debian}
port=${MXFLEX_CHECK_PORT:-18080}
mx_port=$((port + 1))
monitor_port=$((port + 2))

say() { printf '\n== %s\n' "$*"; }
fail() { printf 'deb-check: %s\n' "$*" >&2; exit 1; }
inside() { chroot "$root" env -i PATH=/usr/sbin:/usr/bin:/sbin:/bin DEBIAN_FRONTEND=noninteractive \
    ${http_proxy+http_proxy="$http_proxy"} "$@"; }
start() {
    # Not a function in the background: the number would be that of a shell around it.
    chroot "$@" &
    pids="$! $pids"
}
eventually() {
    for _ in $(seq 300); do if "$@" > /dev/null 2>&1; then return; fi; sleep 0.2; done
    fail "in vain: $*"
}
pids=
trap 'for pid in $pids; do kill "$pid" || true; done' EXIT
for taken in "$port" "$mx_port" "$monitor_port"; do
    if curl -s "telnet://127.0.0.1:$taken" < /dev/null; then
        fail "somebody listens at port $taken; name others with MXFLEX_CHECK_PORT"
    fi
done

say lintian
lintian --allow-root --fail-on error "$package"

say "a Debian with nothing else"
. /etc/os-release
if [ ! -e "$root/usr/bin/python3" ]; then
    debootstrap --variant=minbase --include=python3,python3-minimal,systemd "$VERSION_CODENAME" \
        "$root" "$mirror"
fi
printf '#!/bin/sh\nexit 101\n' > "$root/usr/sbin/policy-rc.d"
chmod 755 "$root/usr/sbin/policy-rc.d"
inside dpkg --purge mxflex > /dev/null 2>&1 || true

say install
cp "$package" "$root/tmp/mxflex.deb"
inside apt-get install -q -y --no-install-recommends /tmp/mxflex.deb
owner=$(inside stat -c '%U:%G %a' /etc/mxflex/mxflex.yaml)
[ "$owner" = "root:mxflex 640" ] || fail "mxflex.yaml belongs to $owner"
[ ! -e "$root/etc/systemd/system/multi-user.target.wants/mxflex.service" ] \
    || fail "the service is enabled, and nobody has configured it"
inside systemd-analyze verify mxflex.service mxflex.socket

say "an MX, and MXFlex as its service starts it"
unit="$root/lib/systemd/system/mxflex.service"
printf 'swordfish\n' > "$root/etc/mxflex/mx-password"
chmod 600 "$root/etc/mxflex/mx-password"
sed -i "s,192.0.2.10,127.0.0.1:$mx_port,; s,localhost:8080,localhost:$port," \
    "$root/etc/mxflex/mxflex.yaml"
cat > "$root/tmp/scenario.yaml" << END
company: {server: {login: mxflex, password: swordfish}}
users: [{ext: "3095", login: anna, password: secret}]
END
start "$root" /usr/lib/mxflex/bin/twistd --nodaemon --pidfile= mxsim --port $mx_port \
    --scenario /tmp/scenario.yaml > "$root/tmp/mxsim.log" 2>&1
eventually grep -q "simulated MX listens" "$root/tmp/mxsim.log"
inside mxflex --check-config
# What systemd does with LoadCredential= and WorkingDirectory=.
inside install -D -o mxflex -m 400 /etc/mxflex/mx-password /run/credentials/mx-password
command=$(sed -n 's/^ExecStart=//p' "$unit")
folder=$(sed -n 's/^WorkingDirectory=//p' "$unit")
preload=$(sed -n 's/^Environment=LD_PRELOAD=//p' "$unit")
start --userspec=mxflex:mxflex "$root" env -i PATH=/usr/bin:/bin PYTHONDONTWRITEBYTECODE=1 \
    MXFLEX_MX_PASSWORD_FILE=/run/credentials/mx-password \
    MXFLEX_MONITOR_LISTEN="tcp:$monitor_port:interface=127.0.0.1" LD_PRELOAD="$preload" \
    sh -c "cd $folder && exec $command" > "$root/tmp/mxflex.log" 2>&1
eventually curl -sf "http://127.0.0.1:$monitor_port/readyz"
grep -q "$preload" "/proc/${pids%% *}/maps" || fail "it runs without $preload"
curl -sf "http://localhost:$port/" | grep -q '<html' || fail "there is no page"
curl -sf "http://localhost:$port/api/login" -d login=anna -d password=secret | grep -q access_token \
    || fail "nobody can log in"
if grep -E 'Traceback|plugin cache| critical ' "$root/tmp/mxflex.log"; then fail "see above"; fi
for pid in $pids; do
    kill "$pid"
    status=0
    wait "$pid" || status=$?
    # 143: once it has stopped in order, twistd dies of the signal.
    [ "$status" = 143 ] || fail "a daemon ended with $status"
done
pids=

say upgrade
inside apt-get install -q -y --reinstall /tmp/mxflex.deb
grep -q "127.0.0.1:$mx_port" "$root/etc/mxflex/mxflex.yaml" || fail "the configuration is lost"

say "upgrade to a version with another sample"
dpkg-deb -R "$package" "$root/tmp/next"
sed -i 's/^\(Version: .*\)/\1+next/' "$root/tmp/next/DEBIAN/control"
echo '# A key of the next version.' >> "$root/tmp/next/etc/mxflex/mxflex.yaml"
dpkg-deb -b "$root/tmp/next" "$root/tmp/next.deb"
inside dpkg -i --force-confdef --force-confold /tmp/next.deb
rm -rf "$root/tmp/next" "$root/tmp/next.deb"
grep -q "127.0.0.1:$mx_port" "$root/etc/mxflex/mxflex.yaml" || fail "the configuration is lost"
for file in mxflex.yaml mxflex.yaml.dpkg-dist; do
    mode=$(inside stat -c '%U:%G %a' "/etc/mxflex/$file")
    [ "$mode" = "root:mxflex 640" ] || fail "$file belongs to $mode"
done

say "back to the version before"
inside dpkg -i --force-confdef --force-confold /tmp/mxflex.deb
inside mxflex --check-config --config /etc/mxflex/mxflex.yaml | grep -q '^ok   configuration' \
    || fail "the version before does not read the configuration"

say "remove, then purge"
inside apt-get remove -q -y mxflex
[ -e "$root/etc/mxflex/mxflex.yaml" ] || fail "remove has taken the configuration"
[ ! -e "$root/usr/lib/mxflex" ] || fail "left over: $(find "$root/usr/lib/mxflex" | head)"
mkdir -p "$root/var/lib/mxflex/certs"
inside dpkg --purge mxflex
for left in etc/mxflex var/lib/mxflex usr/lib/mxflex usr/share/mxflex; do
    [ ! -e "$root/$left" ] || fail "left over: $(find "$root/$left" | head)"
done

say "all is well"
