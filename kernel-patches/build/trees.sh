# SPDX-License-Identifier: GPL-2.0
#
# Part of build.sh: the series as files of a kernel's tree.
#
# A series has numbered steps. A step adds files of new/, which new/steps says, and then applies its
# patch, which changes files of the kernel and, where this kernel needs it, the added ones.

# What KVM's Makefiles reach, whether the series touches it or not.
kvm_paths=(arch/x86/kvm virt/kvm arch/x86/include/asm/kvm_host.h)

# The value of a key in the series.toml of a folder of series/.
fact() {
	local value
	[ -e "$here/series/$1/series.toml" ] || die "there is no series $1 in $here/series"
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

# The series of the emulated machine, where nothing says which one.
default_series() {
	local file
	file=$(grep -lx 'default = true' "$here"/series/*/series.toml) ||
		die "no series in $here/series says 'default = true'"
	basename "$(dirname "$file")"
}

# The distribution's source that the series is applied to, a compressed archive.
tarball() {
	local tarball
	tarball=$(fact "$series" source_archive)
	if [ -d "${POSTERN_LINUX_SOURCE:-}" ]; then
		tarball=$POSTERN_LINUX_SOURCE/$(basename "$tarball")
	else
		tarball=${POSTERN_LINUX_SOURCE:-$tarball}
	fi
	[ -r "$tarball" ] || die "$tarball is missing;" \
		"install the package $(fact "$series" source_package) or set POSTERN_LINUX_SOURCE"
	echo "$tarball"
}

# Reads the series: patches[] in order, and added[], a line "STEP PATH" for each file of new/.
read_series() {
	local pattern step path number
	pattern=$(fact "$series" patches)
	patches=("$here/series/$series"/$pattern)
	[ -e "${patches[0]}" ] || die "no file in $here/series/$series is called $pattern"
	mapfile -t added < <(sed 's/#.*//; /^[[:space:]]*$/d' "$here/new/steps")
	for line in "${added[@]}"; do
		read -r step path <<<"$line"
		[ -f "$here/new/$path" ] || die "$here/new/steps names $path, which is not in $here/new"
		for number in "${patches[@]}"; do
			[ "$(step_of "$number")" = "$step" ] && continue 2
		done
		die "$here/new/steps: no patch of the series $series has the number $step," \
			"which adds $path"
	done
	# A file that no step adds would be missing only where it is used.
	[ ${#added[@]} -eq 0 ] || for path in $(cd "$here/new" && find . -type f ! -path ./steps); do
		path=${path#./}
		grep -q "[[:space:]]$path\$" <<<"$(printf '%s\n' "${added[@]}")" ||
			die "$here/new/steps does not say which step adds $path"
	done
}

# The number of a step, from the name of its patch.
step_of() {
	local name=${1##*/}
	echo "$((10#${name%%-*}))"
}

# The files of new/ that a step adds.
added_by() {
	local line step path
	for line in "${added[@]}"; do
		read -r step path <<<"$line"
		[ "$step" != "$1" ] || echo "$path"
	done
}

# The kernel's own files that the series or --extra touches.
touched() {
	local all=("${patches[@]}" "${extra[@]}") created
	created=$(printf '%s\n' "${added[@]##* }"
		awk 'old { if ($1 == "+++") print substr($2, 3) } { old = $0 == "--- /dev/null" }' "${all[@]}")
	sed -n 's#^--- a/##p' "${all[@]}" | sort -u | grep -vxF -e "$created" || true
}

# An unpacked tree with all of the kernel that the series needs; made once.
base_tree() {
	local tarball top tree path paths=("${kvm_paths[@]}")
	tarball=$(tarball)
	for path in $(touched); do
		case $path in arch/x86/kvm/* | virt/kvm/* | arch/x86/include/asm/kvm_host.h) ;;
		*) paths+=("$path") ;; esac
	done
	tree=$cache/kvm/base-$( {
		stat -c '%s %Y' "$tarball"
		echo "${paths[@]}"
	} | sha256sum | cut -c1-16)
	if [ ! -e "$tree/.complete" ]; then
		rm -rf "$tree"
		mkdir -p "$tree"
		top=$(basename "$tarball" .tar.xz)
		echo "build.sh: unpacking KVM from $tarball" >&2
		tar -C "$tree" --strip-components=1 -xf "$tarball" "${paths[@]/#/$top/}" ||
			die "cannot unpack $tarball; reinstall the package $(fact "$series" source_package)"
		touch "$tree/.complete"
	fi
	touch "$tree"
	echo "$tree"
}

# Applies the step of this patch to a tree.
apply_step() {
	local tree=$1 patch=$2 path
	for path in $(added_by "$(step_of "$patch")"); do
		[ ! -e "$tree/$path" ] || die "$path, which $(basename "$patch") adds, exists already"
		install -D -m 644 "$here/new/$path" "$tree/$path"
	done
	apply_patch "$tree" "$patch"
}

apply_patch() {
	patch -d "$1" -p1 -s -N -f --no-backup-if-mismatch <"$2" >&2 ||
		die "$(basename "$2") does not apply to $(tarball); the series is made for" \
			"$(fact "$series" source_package) $(fact "$series" source_version)"
}

# A patched tree; made once for each state of the series.
source_tree() {
	local base patch key tree
	read_series
	base=$(base_tree)
	key=$( {
		echo "$base"
		cd "$here"
		find build.sh build new "${patches[@]}" "${extra[@]}" -type f -exec sha256sum {} + |
			sort | sed "s#$here/##"
	} | sha256sum | cut -c1-16)
	tree=$cache/kvm/source-$key
	if [ ! -e "$tree/.complete" ]; then
		rm -rf "$tree"
		cp -a "$base" "$tree"
		rm "$tree/.complete"
		for patch in "${patches[@]}"; do
			apply_step "$tree" "$patch"
		done
		for patch in "${extra[@]}"; do
			apply_patch "$tree" "$patch"
		done
		touch "$tree/.complete"
	fi
	echo "$tree"
}

# Makes a tree one to build out of the kernel's own tree. That has no Makefile.kvm, or has headers
# of KVM without the series: the copy finds its own. And it takes the service of the hypercall path
# from an object beside it, if there is one.
adapt_tree() {
	local kvm=$1/arch/x86/kvm top='$(src)/../../..'
	{
		echo "LINUXINCLUDE := -I$top/arch/x86/include -I$top/include -I$top/include/uapi" \
			'-I$(src) $(LINUXINCLUDE)'
		sed "s#\$(srctree)/virt/kvm/Makefile.kvm#$top/virt/kvm/Makefile.kvm#" "$kvm/Makefile"
		cat "$here/build/service.mk"
	} >"$kvm/Makefile.new"
	mv "$kvm/Makefile.new" "$kvm/Makefile"
	install -m 644 "$here/build/ept_view_returns.S" "$kvm/vmx"
	sed -i 's#^\#define TRACE_INCLUDE_PATH .*#\#define TRACE_INCLUDE_PATH .#' "$kvm/trace.h"
}
