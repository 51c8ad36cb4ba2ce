#!/bin/bash
# SPDX-License-Identifier: GPL-2.0
#
# Builds, loads and unloads the patched KVM modules, out of tree.
#
#   build.sh [build] [--kdir DIR] [--series NAME] [--out DIR] [--service FILE] [--extra PATCH]...
#   build.sh load    [--out DIR] [--insist]
#   build.sh unload
#
#   --kdir DIR      build tree or headers of the kernel to build for
#                   (default: /lib/modules/$(uname -r)/build)
#   --series NAME   folder of series/ (default: the one for that kernel's release)
#   --out DIR       where the modules go (default: the cache, by kernel release)
#   --service FILE  object of the exit-kernel path (default: host-nic/kernel-object/build.sh's);
#                   "none" builds without that path
#   --extra PATCH   apply one more patch on top of the series (tests use it to take defences out)
#   --insist        load although the CPU leaks data between views (L1TF, MDS)
#
# The source is a package of the distribution, which the series' series.toml names; the series is
# applied to a copy of its KVM directories. Build trees live in $POSTERN_CACHE (default
# ~/.cache/postern).
set -euo pipefail

here=$(cd "$(dirname "$0")" && pwd)
cache=${POSTERN_CACHE:-${XDG_CACHE_HOME:-$HOME/.cache}/postern}
cache=${cache%/}

die() { echo "build.sh: $*" >&2; exit 1; }

command=build
case "${1:-}" in
build | load | unload) command=$1; shift ;;
esac
kdir= series= out= service= insist=0 extra=()
while [ $# -gt 0 ]; do
	case $1 in
	--kdir | --series | --out | --service | --extra)
		[ $# -ge 2 ] || die "$1 needs a value"
		case $1 in
		--kdir) kdir=$2 ;;
		--series) series=$2 ;;
		--out) out=$2 ;;
		--service) service=$2 ;;
		--extra) extra+=("$(realpath "$2")") ;;
		esac
		shift 2 ;;
	--insist) insist=1; shift ;;
	-h | --help) sed -n '/^#   /s/^# \{0,3\}//p' "$0"; exit 0 ;;
	*) die "unknown argument '$1'; see --help" ;;
	esac
done

# Paths of the kernel tree that the series touches or that KVM's Makefiles reach.
paths=(arch/x86/kvm virt/kvm arch/x86/include/asm/kvm_host.h Documentation/virt/kvm/x86)

# The value of a key in the series.toml of a folder of series/.
fact() {
	local value
	value=$(sed -n "s/^$2 = \"\(.*\)\"\$/\1/p" "$here/series/$1/series.toml")
	[ -n "$value" ] || die "$here/series/$1/series.toml has no line '$2 = \"...\"'"
	echo "$value"
}

# The folder of series/ for a release of Linux.
series_for() {
	local file name linux
	for file in "$here"/series/*/series.toml; do
		name=$(basename "$(dirname "$file")")
		linux=$(fact "$name" linux)
		case $1 in "$linux".*) echo "$name"; return ;; esac
	done
	die "there is no series for the kernel $1, only for" "$(cd "$here/series" && echo *)"
}

# An unpacked, patched tree; made once for each state of the series.
source_tree() {
	local tarball package version cover pattern patches=() patch key top tree
	package=$(fact "$series" source_package)
	version=$(fact "$series" source_version)
	tarball=${POSTERN_LINUX_SOURCE:-$(fact "$series" source_archive)}
	[ -r "$tarball" ] ||
		die "$tarball is missing; install the package $package or set POSTERN_LINUX_SOURCE"
	cover=$(fact "$series" cover_letter)
	pattern=$(fact "$series" patches)
	for patch in "$here/series/$series"/$pattern; do
		[ "$(basename "$patch")" = "$cover" ] || patches+=("$patch")
	done
	patches+=("${extra[@]}")
	key=$( {
		stat -c '%s %Y' "$tarball"
		sha256sum "$here/build.sh" "${patches[@]}" | cut -d' ' -f1
	} | sha256sum | cut -c1-16)
	tree=$cache/kvm/source-$key
	if [ ! -e "$tree/.complete" ]; then
		rm -rf "$tree"
		mkdir -p "$tree"
		top=$(basename "$tarball" .tar.xz)
		echo "build.sh: unpacking KVM from $tarball" >&2
		tar -C "$tree" --strip-components=1 -xf "$tarball" "${paths[@]/#/$top/}" ||
			die "cannot unpack $tarball; reinstall the package $package"
		for patch in "${patches[@]}"; do
			patch -d "$tree" -p1 -s -N -f --no-backup-if-mismatch <"$patch" >&2 ||
				die "$(basename "$patch") does not apply to $tarball;" \
					"the series is made for $package $version"
		done
		touch "$tree/.complete"
	fi
	echo "$tree"
}

# A kernel's build tree has no Makefile.kvm, or has headers of KVM without the series: make the copy
# find its own.
adapt_tree() {
	local tree=$1 kvm=$1/arch/x86/kvm
	{
		echo "LINUXINCLUDE := -I$tree/arch/x86/include -I$tree/include -I$tree/include/uapi" \
			"-I$kvm \$(LINUXINCLUDE)"
		sed 's#$(srctree)/virt/kvm/Makefile.kvm#$(src)/../../../virt/kvm/Makefile.kvm#' "$kvm/Makefile"
	} >"$kvm/Makefile.new"
	mv "$kvm/Makefile.new" "$kvm/Makefile"
	sed -i 's#^\#define TRACE_INCLUDE_PATH .*#\#define TRACE_INCLUDE_PATH .#' "$kvm/trace.h"
}

build() {
	: "${kdir:=/lib/modules/$(uname -r)/build}"
	[ -e "$kdir/Makefile" ] ||
		die "$kdir is no kernel build tree;" \
			"install the headers of the kernel or name another with --kdir"
	kdir=$(realpath "$kdir")
	local release source tree object
	release=$(sed -n 's/^#define UTS_RELEASE "\(.*\)"$/\1/p' \
		"$kdir/include/generated/utsrelease.h" 2>/dev/null)
	[ -n "$release" ] || die "$kdir is not configured: it has no include/generated/utsrelease.h"
	[ -n "$series" ] || series=$(series_for "$release")
	[ -e "$here/series/$series/series.toml" ] ||
		die "there is no series $series in $here/series"
	case $release in
	"$(fact "$series" linux)".*) ;;
	*) die "the series $series is not for the kernel $release;" \
		"install a kernel that it is for, and the package $(fact "$series" headers_package)" ;;
	esac

	# Any number of these may run at once; all work in the same trees.
	mkdir -p "$cache/kvm"
	exec 9>"$cache/kvm/lock"
	flock 9
	: "${out:=$cache/modules/$release}"

	source=$(source_tree)
	tree=$cache/kvm/build-$release-$(echo "$kdir" | sha256sum | cut -c1-8)-${source##*-}
	if [ ! -e "$tree/.complete" ]; then
		rm -rf "$tree"
		cp -a "$source" "$tree"
		adapt_tree "$tree"
	fi
	object=$tree/arch/x86/kvm/vmx/ept_view_service.o_shipped
	if [ "$service" = none ]; then
		rm -f "$object"
	else
		if [ -z "$service" ]; then
			service=$cache/kvm/ept_view_service.o
			"$here/../host-nic/kernel-object/build.sh" --out "$service" >&2 9>&-
		fi
		cmp -s "$service" "$object" || cp "$service" "$object"
		touch "$tree/arch/x86/kvm/vmx/.ept_view_service.o.cmd"
	fi

	echo "build.sh: building KVM for $release" >&2
	make -C "$kdir" M="$tree/arch/x86/kvm" CONFIG_KVM=m CONFIG_KVM_INTEL=m CONFIG_KVM_AMD= \
		-j"$(nproc)" modules >"$tree/build.log" 2>&1 9>&- || {
		tail -n 20 "$tree/build.log" >&2
		die "the build failed; its log is $tree/build.log"
	}
	touch "$tree/.complete"
	# Trees of older states of the series only take space.
	touch "$source" "$tree"
	find "$cache/kvm" -mindepth 1 -maxdepth 1 -type d -mtime +7 -exec rm -rf {} +

	mkdir -p "$out"
	local new
	new=$(mktemp -d "$out/.new.XXXXXX")
	trap "rm -rf '$new'" EXIT
	for module in kvm kvm-intel; do
		# BTF of a module must match the kernel's own, debug data only takes load time.
		strip -g -R .BTF -R .BTF_ids -o "$new/$module.ko" "$tree/arch/x86/kvm/$module.ko"
		mv "$new/$module.ko" "$out/$module.ko"
	done
	echo "$out"
}

load() {
	[ "$(id -u)" = 0 ] || die "loading modules needs root; run as root or with sudo"
	: "${out:=$cache/modules/$(uname -r)}"
	[ -e "$out/kvm-intel.ko" ] ||
		die "$out has no modules for the running kernel; run build.sh first"
	[ -r /proc/modules ] || die "the running kernel takes no modules"
	if grep -q '^kvm ' /proc/modules; then
		die "KVM is loaded; stop all VMs and run build.sh unload first"
	fi
	modprobe irqbypass || die "cannot load irqbypass, on which KVM depends"
	insmod "$out/kvm.ko" || die "cannot load $out/kvm.ko; was it built for $(uname -r)?"
	insmod "$out/kvm-intel.ko" ept_views=1 ept_views_insist=$insist ||
		{ rmmod kvm; die "cannot load $out/kvm-intel.ko; dmesg tells why"; }
}

unload() {
	[ "$(id -u)" = 0 ] || die "unloading modules needs root; run as root or with sudo"
	[ -r /proc/modules ] || die "the running kernel takes no modules"
	for module in kvm_intel kvm_amd kvm; do
		if grep -q "^$module " /proc/modules; then
			rmmod "$module" || die "$module is in use; stop all VMs first"
		fi
	done
}

$command
