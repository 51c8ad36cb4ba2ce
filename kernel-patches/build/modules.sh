# SPDX-License-Identifier: GPL-2.0
#
# Part of build.sh: the modules.

# Finds the kernel to build for: kdir, release, and the series unless it was named.
find_kernel() {
	: "${kdir:=/lib/modules/$(uname -r)/build}"
	[ -e "$kdir/Makefile" ] ||
		die "$kdir is no kernel build tree;" \
			"install the headers of the kernel or name another with --kdir"
	kdir=$(realpath "$kdir")
	release=$(sed -n 's/^#define UTS_RELEASE "\(.*\)"$/\1/p' \
		"$kdir/include/generated/utsrelease.h" 2>/dev/null)
	[ -n "$release" ] || die "$kdir is not configured: it has no include/generated/utsrelease.h"
	[ -n "$series" ] || series=$(series_for "$release")
	case $release in
	"$(fact "$series" linux)".*) ;;
	*) die "the series $series is not for the kernel $release;" \
		"install a kernel that it is for, and the package $(fact "$series" headers_package)" ;;
	esac
}

# The name of a build tree says what it is for.
build_name() {
	echo "$release-$(echo "$kdir" | sha256sum | cut -c1-8)"
}

# Builds the modules in a tree that adapt_tree made, with these flags for the compiler; what make
# says goes to the tree's build.log. Only KVM for Intel is of use. Debug data take half of the time,
# and nothing uses them; BTF is made of them. Warnings name their files from the top of the tree, so
# that modules are equal wherever they are built.
make_modules() {
	local tree=$1 flags=${2:-}
	flags="$flags -ffile-prefix-map=$tree/= -ffile-prefix-map=$kdir/="
	make -C "$kdir" M="$tree/arch/x86/kvm" CONFIG_KVM=m CONFIG_KVM_X86=m CONFIG_KVM_INTEL=m \
		CONFIG_KVM_AMD= CONFIG_DEBUG_INFO_BTF_MODULES= KCFLAGS="-g0 $flags" -j"$(nproc)" \
		modules >"$tree/build.log" 2>&1 8>&- 9>&-
}

run_build() {
	local source tree object new module
	find_kernel
	[ -z "$weakened" ] || extra+=("$here/series/$series/$(fact "$series" omit_defences)")
	# Any number of these may run at once. Trees are made by one at a time, and one builds in each.
	mkdir -p "$cache/kvm"
	exec 9>"$cache/kvm/lock"
	flock 9
	: "${out:=$cache/modules/$release$weakened}"

	source=$(source_tree)
	tree=$cache/kvm/build-$(build_name)-${source##*-}
	if [ ! -e "$tree/.complete" ]; then
		rm -rf "$tree"
		cp -a "$source" "$tree"
		rm "$tree/.complete"
		adapt_tree "$tree"
		touch "$tree/.complete"
	fi
	# Trees of older states of the series only take space.
	touch "$source" "$tree"
	find "$cache/kvm" -mindepth 1 -maxdepth 1 -type d -mtime +7 -exec rm -rf {} +
	exec 9>&-
	exec 8>"$tree/.lock"
	flock 8

	object=$tree/arch/x86/kvm/vmx/ept_view_service.o_shipped
	if [ "$service" = none ]; then
		rm -f "$object"
	else
		if [ -z "$service" ]; then
			service=$tree/ept_view_service.o
			"$here/../host-nic/kernel-object/build.sh" --out "$service" >&2 8>&-
		fi
		cmp -s "$service" "$object" || cp "$service" "$object"
	fi

	echo "build.sh: building KVM for $release" >&2
	make_modules "$tree" || {
		tail -n 20 "$tree/build.log" >&2
		die "the build failed; its log is $tree/build.log"
	}

	mkdir -p "$out"
	new=$(mktemp -d "$out/.new.XXXXXX")
	trap "rm -rf '$new'" EXIT
	for module in kvm kvm-intel; do
		strip -g -o "$new/$module.ko" "$tree/arch/x86/kvm/$module.ko"
		mv "$new/$module.ko" "$out/$module.ko"
	done
	echo "$out"
}

# True if a module says of itself that it can leave defences out.
is_weakened() {
	grep -aqF 'postern=TEST ONLY' "$1"
}

# Whether a module is loaded.
is_loaded() {
	grep -q "^$1 " /proc/modules
}

# What both need.
may_change_modules() {
	[ "$(id -u)" = 0 ] || die "$1 modules needs root; run as root or with sudo"
	[ -r /proc/modules ] || die "the running kernel takes no modules"
}

run_load() {
	: "${out:=$cache/modules/$(uname -r)$weakened}"
	[ -e "$out/kvm-intel.ko" ] ||
		die "$out has no modules for the running kernel; run build.sh first"
	if [ -z "$weakened" ] && is_weakened "$out/kvm-intel.ko"; then
		die "$out/kvm-intel.ko can leave defences out, for tests of attacks;" \
			"build another, or say --weakened on a host without guests of value"
	fi
	may_change_modules loading
	if is_loaded kvm; then
		die "KVM is loaded; stop all VMs and run build.sh unload first"
	fi
	modprobe irqbypass || die "cannot load irqbypass, on which KVM depends"
	insmod "$out/kvm.ko" || die "cannot load $out/kvm.ko; was it built for $(uname -r)?"
	insmod "$out/kvm-intel.ko" ept_views=1 ept_views_insist=$insist \
		ept_views_hypercall=$hypercall ||
		{ rmmod kvm; die "cannot load $out/kvm-intel.ko; dmesg tells why"; }
}

run_unload() {
	local module
	may_change_modules unloading
	for module in kvm_intel kvm_amd kvm; do
		if is_loaded "$module"; then
			rmmod "$module" || die "$module is in use; stop all VMs first"
		fi
	done
}
