#!/bin/bash
# SPDX-License-Identifier: GPL-2.0
#
# Builds the series' selftest with the selftests' library of a kernel, linked statically, without
# the rest of that kernel's tree.
#
#   selftest.sh --source TARBALL --work DIR --out FILE
#
#   --source TARBALL   the kernel's source, a compressed archive
#   --work DIR         where to unpack and build; what is there is not unpacked again
#   --out FILE         the program
set -euo pipefail

die() { echo "selftest.sh: $*" >&2; exit 1; }

here=$(cd "$(dirname "$0")/.." && pwd)
while [ $# -gt 0 ]; do
	[ $# -ge 2 ] || die "$1 needs a value"
	case $1 in
	--source) source=$2 ;;
	--work) work=$2 ;;
	--out) out=$2 ;;
	*) die "unknown argument $1" ;;
	esac
	shift 2
done
: "${source:?--source is missing}" "${work:?--work is missing}" "${out:?--out is missing}"

tools=$work/tools
kvm=$tools/testing/selftests/kvm
top=$(basename "$source" .tar.xz)
if [ ! -e "$work/.unpacked" ]; then
	mkdir -p "$work"
	tar -C "$work" --strip-components=1 -xf "$source" \
		"$top/tools/testing/selftests/kvm" "$top/tools/testing/selftests/kselftest.h" \
		"$top/tools/include" "$top/tools/arch/x86/include" "$top/tools/lib/rbtree.c" ||
		die "cannot unpack $source"
	touch "$work/.unpacked"
fi

# The headers of this kernel for user space, as far as they differ from the distribution's, and the
# series' own.
headers=$work/headers
mkdir -p "$headers/linux" "$headers/asm" "$work/objects"
cp "$tools/include/uapi/linux/kvm.h" "$here/new/include/uapi/linux/kvm_ept_view.h" "$headers/linux"
cp "$tools/arch/x86/include/uapi/asm/kvm.h" "$headers/asm"

# As the selftests' Makefile has them.
flags=(-std=gnu99 -O2 -g -Wall -D_GNU_SOURCE= -U_FORTIFY_SOURCE -fno-stack-protector -fno-PIE
	-fno-strict-aliasing -fno-builtin-memcmp -fno-builtin-memcpy -fno-builtin-memset
	-fno-builtin-strnlen -I"$headers" -I"$tools/include" -I"$tools/arch/x86/include"
	-I"$kvm/include" -I"$kvm/include/x86_64" -I"$kvm/lib" -I"$tools/testing/selftests")
objects=()
for file in "$kvm"/lib/*.c "$kvm"/lib/x86_64/*.[cS]; do
	object=$work/objects/$(echo "${file#"$kvm"/lib/}" | tr / -).o
	freestanding=()
	[ "$(basename "$file")" != string_override.c ] || freestanding=(-ffreestanding)
	gcc "${flags[@]}" "${freestanding[@]}" -c "$file" -o "$object"
	objects+=("$object")
done
gcc "${flags[@]}" -Werror -static -no-pie -pthread \
	"$here/new/tools/testing/selftests/kvm/x86_64/ept_view_test.c" "${objects[@]}" -o "$out"
strip "$out"
