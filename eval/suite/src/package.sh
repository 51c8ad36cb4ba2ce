#!/bin/bash
# Tries the package of the modules in a clean Debian system, with a mount namespace of its own:
#
#   package.sh SYSTEM SCRATCH ORDER MODULE...
#
#   SYSTEM    directory of the system, which stays as it is
#   SCRATCH   directory with the package, where the rest is made
#   ORDER     package-last or kernel-last: which of package and kernel is there first
#   MODULE    kvm.ko, kvm-intel.ko: the kernel's own
set -euo pipefail
system=$1 scratch=$2 order=$3
shift 3
root=$scratch/root
mkdir "$root" "$scratch/upper" "$scratch/work"
# Where it cannot be laid over, on some file systems, it is copied.
mount -t overlay overlay -o "lowerdir=$system,upperdir=$scratch/upper,workdir=$scratch/work" \
	"$root" 2>/dev/null || cp -a "$system/." "$root"
mount -t proc proc "$root/proc"
mount --rbind /dev "$root/dev"
cp "$scratch"/postern-kvm-dkms_*.deb "$root/package.deb"
own=$(echo "$root"/lib/modules/*-cloud-amd64)/kernel/arch/x86/kvm
install -D -m 644 -t "$own" "$@"
# The kernels of other lines that a host may have, too.
mkdir -p "$root/lib/modules/5.10.0-1-amd64"
exec chroot "$root" /usr/bin/env -i PATH=/usr/sbin:/usr/bin:/sbin:/bin LC_ALL=C \
	DEBIAN_FRONTEND=noninteractive bash -euo pipefail -s "$order" <<'END'
fail() {
	echo "error: $*"
	cat /var/lib/dkms/postern-kvm/*/build/make.log 2>/dev/null | tail -n 40
	exit 1
}
order=$1
release=$(cd /lib/modules && ls -d -- *-cloud-amd64)
modules=/lib/modules/$release
if [ "$order" = kernel-last ]; then
	mv "$modules" /later
fi
dpkg -i /package.deb || fail "the package cannot be installed"
if [ "$order" = kernel-last ]; then
	[[ $(dkms status -m postern-kvm) != *installed* ]] || fail "built for no kernel"
	mv /later "$modules"
	# What the packages of kernels and headers run.
	/etc/kernel/header_postinst.d/dkms "$release" || fail "the hook for new kernels failed"
fi
[[ $(dkms status -m postern-kvm) == *"$release"*': installed'* ]] ||
	fail "not installed for $release"
depmod "$release"
for module in kvm kvm_intel; do
	file=$(modinfo -k "$release" -n "$module")
	case $file in
	"$modules"/updates/dkms/"${module/_/-}".ko*) ;;
	*) fail "$module is $file" ;;
	esac
	[[ $(modinfo -k "$release" -F vermagic "$module") == "$release "* ]] ||
		fail "$module is not for $release"
done
parameters=$(modinfo -k "$release" -F parm kvm_intel)
for parameter in ept_views ept_views_hypercall; do
	grep -q "^$parameter:" <<<"$parameters" || fail "it has no parameter $parameter"
done
[ -z "$(modinfo -k "$release" -F postern kvm_intel)" ] || fail "it is for tests of attacks"
grep -q '^#options kvm_intel ept_views=1$' /etc/modprobe.d/postern-kvm.conf ||
	fail "no parameters to choose from"
if grep -v '^#' /etc/modprobe.d/postern-kvm.conf; then
	fail "a parameter is set"
fi
dpkg --purge postern-kvm-dkms || fail "the package cannot be removed"
for left in "$modules/updates" /usr/src/postern-kvm-* /var/lib/dkms/postern-kvm \
	/etc/modprobe.d/postern-kvm.conf; do
	[ -z "$(find "$left" -type f 2>/dev/null)" ] || fail "$left is left"
done
[[ $(modinfo -k "$release" -n kvm_intel) == "$modules"/kernel/arch/x86/kvm/kvm-intel.ko* ]] ||
	fail "the kernel's own module is not back"
echo "all is well"
END
