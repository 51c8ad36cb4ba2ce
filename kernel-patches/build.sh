#!/bin/bash
# SPDX-License-Identifier: GPL-2.0
#
# Builds, loads and unloads the patched KVM modules, out of tree, and writes the series out.
#
#   build.sh [build] [--kdir DIR] [--series NAME] [--out DIR] [--service FILE] [--weakened]
#            [--extra PATCH --out DIR]
#   build.sh load    [--out DIR] [--hypercall] [--insist] [--weakened]
#   build.sh unload
#   build.sh deb     [--series NAME] [--out DIR] [--service FILE]
#   build.sh series  [--series NAME] --out DIR
#   build.sh steps   [--series NAME] [--kdir DIR]
#   build.sh files   [--series NAME] [--extra PATCH] --out DIR PATH...
#
#   build           builds kvm.ko and kvm-intel.ko
#   load, unload    puts them in place of the distribution's, until the next boot; takes them out
#   deb             writes a Debian package that builds and installs them for each kernel (DKMS),
#                   for one series or all
#   series          writes the complete series, to be mailed or applied with git am
#   steps           builds the modules after each step of the series, and says which failed
#   files           writes files that the series adds, as it leaves them
#
#   --kdir DIR      build tree or headers of the kernel to build for
#                   (default: /lib/modules/$(uname -r)/build)
#   --series NAME   folder of series/ (default: the one for that kernel's release)
#   --out DIR       where the results go (default for modules: the cache, by kernel release)
#   --service FILE  object of the exit-kernel path (default: host-nic/kernel-object/build.sh's);
#                   "none" builds without that path
#   --weakened      for tests of attacks: with the series' patch that can leave defences out; such
#                   modules taint the kernel, have a folder of their own, and load refuses them
#   --extra PATCH   apply one more patch on top of the series
#   --hypercall     load with ept_views_hypercall=1, which the path exit-kernel needs
#   --insist        load although the CPU leaks data between views (postern check says what)
#
# The source is a package of the distribution, which the series' series.toml names; the series is
# applied to a copy of its KVM directories. Build trees live in $POSTERN_CACHE (default
# ~/.cache/postern).
set -euo pipefail
shopt -s inherit_errexit

here=$(cd "$(dirname "$0")" && pwd)
cache=${POSTERN_CACHE:-${XDG_CACHE_HOME:-$HOME/.cache}/postern}
cache=${cache%/}

die() { echo "build.sh: $*" >&2; exit 1; }

command=build
case "${1:-}" in
build | load | unload | deb | series | steps | files) command=$1; shift ;;
esac
kdir= series= out= service= insist=0 hypercall=0 weakened= extra=() arguments=()
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
	--hypercall) hypercall=1; shift ;;
	--weakened) weakened=-weakened; shift ;;
	-h | --help) sed -n '/^#   /s/^# \{0,3\}//p' "$0"; exit 0 ;;
	*)
		case $command:$1 in
		files:-*) ;;
		files:*) arguments+=("$1"); shift; continue ;;
		esac
		die "unknown argument '$1'; see --help" ;;
	esac
done

# What load takes without being told otherwise has the series, and nothing else.
if [ ${#extra[@]} -gt 0 ] && [ "$command" = build ]; then
	[ -n "$out" ] || die "--extra needs --out DIR: such modules are not those that load is for"
	case $(realpath -m "$out")/ in
	"$cache/modules"/*/) [ "$(dirname "$(realpath -m "$out")")" != "$cache/modules" ] ||
		die "$out is a folder that load takes modules from; name another for --extra" ;;
	esac
fi

for part in trees modules series deb; do
	. "$here/build/$part.sh"
done
"run_$command"
