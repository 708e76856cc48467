#!/usr/bin/env bash
# Boots a real systemd, in namespaces of its own and on an overlay of this machine's files, with
# payd's own units, and tries what an operator does. Nothing of it is left on the machine.
#
#   boot.sh PAYD PAYCTL PACKAGING      the binaries, and the folder with the units
#
# Exit: 0 it worked; 77 this machine does not let it be tried (the reason is on stderr); else it failed.
set -euo pipefail
payd=$(realpath "$1") payctl=$(realpath "$2") packaging=$(realpath "$3")

skip() { echo "skipped: $*" >&2; exit 77; }
[ "$(id -u)" = 0 ] || skip "it takes root"
[ -x /usr/lib/systemd/systemd ] || skip "there is no systemd"
for tool in unshare nsenter pivot_root ip systemd-sysusers; do
  command -v "$tool" >/dev/null || skip "there is no $tool"
done
grep -q overlay /proc/filesystems || skip "the kernel has no overlay file system"

dir=$(mktemp -d)
cleanup() {
  # The namespaces, with every process and mount in them, go with their first process.
  if [ -n "${outer:-}" ]; then
    kill -KILL "$outer" 2>/dev/null || true
    wait "$outer" 2>/dev/null || true
  fi
  rm -rf "$dir"
}
trap cleanup EXIT

# Runs inside: makes the file system, and becomes systemd.
cat >"$dir/inside.sh" <<INSIDE
set -eu
mount -t tmpfs tmpfs "$dir"
mkdir "$dir/upper" "$dir/work" "$dir/root"
mount -t overlay -o lowerdir=/,upperdir="$dir/upper",workdir="$dir/work" overlay "$dir/root"
root="$dir/root"
mount --rbind /dev "\$root/dev"
mount -t proc proc "\$root/proc"
mount -t sysfs sysfs "\$root/sys" 2>/dev/null || true
mount -t cgroup2 cgroup2 "\$root/sys/fs/cgroup"
mount -t tmpfs tmpfs "\$root/run"
mount -t tmpfs tmpfs "\$root/tmp"
ip link set lo up
install -m 755 "$payd" "$payctl" "\$root/usr/bin/"
install -m 644 "$packaging"/systemd/payd.* "\$root/usr/lib/systemd/system/"
install -m 644 "$packaging/sysusers.d/payd.conf" "\$root/usr/lib/sysusers.d/"
chroot "\$root" systemd-sysusers payd.conf
# No other unit of this machine is to start: these stand in for the targets that units lean on.
mkdir "\$root/run/units"
for target in sysinit basic sockets multi-user network-online shutdown umount; do
  printf '[Unit]\nDefaultDependencies=no\n' >"\$root/run/units/\$target.target"
done
printf '[Unit]\nDefaultDependencies=no\nWants=payd.socket payd.service\n' >"\$root/run/units/default.target"
for unit in service socket; do
  ln -s "/usr/lib/systemd/system/payd.\$unit" "\$root/run/units/payd.\$unit"
done
# Not a chroot: there the kernel gives nobody a user namespace, as PrivateUsers= takes.
mkdir "\$root/run/old"
cd "\$root"
pivot_root . run/old
umount --lazy /run/old
exec env -i container=lxc PATH=/usr/sbin:/usr/bin:/sbin:/bin SYSTEMD_UNIT_PATH=/run/units \
  /usr/lib/systemd/systemd --system --unit=default.target --log-target=console --show-status=no
INSIDE
unshare --pid --fork --mount --ipc --uts --cgroup --net --kill-child --propagation private \
  bash "$dir/inside.sh" >"$dir.log" 2>&1 &
outer=$!
trap 'cleanup; rm -f "$dir.log"' EXIT

die() { echo "failed: $*" >&2; cat "$dir.log" >&2; exit 1; }
# Waits until a command succeeds; the limit is far beyond any need.
until_true() {
  local what=$1; shift
  for _ in $(seq 600); do
    if "$@" >/dev/null 2>&1; then return; fi
    kill -0 "$outer" 2>/dev/null || break
    sleep 0.1
  done
  if grep -q 'inside.sh\|mount:' "$dir.log"; then skip "$(tail -n 1 "$dir.log")"; fi
  die "not in time: $what"
}
first() { tr ' ' '\n' </proc/"$outer"/task/"$outer"/children | head -n 1; }
inside() { nsenter --target "$(first)" --all --root --wd env -i PATH=/usr/sbin:/usr/bin:/sbin:/bin "$@"; }
field() { inside systemctl show --value --property "$1" payd.service; }

until_true "payd is ready" inside systemctl --quiet is-active payd.service
[ "$(field StatusText)" != "" ] || die "there is no status text"

# It runs as nobody in particular, under the filters.
pid=$(field MainPID)
inside grep -q '^Seccomp:.2$' "/proc/$pid/status" || die "no system call filter"
inside grep -q '^NoNewPrivs:.1$' "/proc/$pid/status" || die "it can gain privileges"
inside grep -q '^CapEff:.0*$' "/proc/$pid/status" || die "it has capabilities"
[ "$(inside stat -c '%U %a' /var/lib/payd /run/payd | tr '\n' ' ')" = "payd 700 payd 750 " ] || die "modes of the directories"
[ "$(inside stat -c '%U:%G %a' /run/payd/payd.sock)" = "payd:payd 660" ] || die "mode of the socket"

# It works under them, on both listeners.
inside payctl invoice create inv-1 --amount 1000 --pay >/dev/null || die "pay"
inside payctl events tail >/dev/null || die "events"
inside payctl --host http://127.0.0.1:8080 --token-file /var/lib/payd/token invoice show inv-1 >/dev/null || die "TCP"
[ -n "$(inside sh -c 'ls /var/log/payd')" ] || die "no log file"

# Reload, restart, a kill: the sockets stay, and nothing is lost.
inside systemctl reload payd.service || die "reload"
inside systemctl restart payd.service || die "restart"
inside payctl invoice show inv-1 -o json | grep -q PAID || die "what was acknowledged is gone"
inside systemctl kill --signal=KILL payd.service
inside payctl invoice create inv-2 --amount 1000 --pay >/dev/null || die "a request while it was down"
inside systemctl stop payd.service 2>/dev/null || die "stop"
[ "$(field Result)" = success ] || die "it did not stop in time: $(field Result)"
inside payctl invoice show inv-2 -o json | grep -q PAID || die "a request did not start it"
until_true "it was started by its socket" inside systemctl --quiet is-active payd.service
echo ok
