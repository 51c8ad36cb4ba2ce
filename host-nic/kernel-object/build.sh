#!/bin/bash
# Builds the switch as one relocatable object for the kernel module.
#
#   build.sh --out FILE [--target-dir DIR]
#
#   --out FILE        the object: exports postern_nic_call, postern_nic_size and
#                     postern_nic_take_bells, and needs nothing but the kernel's return thunk
#   --target-dir DIR  where cargo works (default: $CARGO_TARGET_DIR, or target in the checkout)
#
# Needs cargo with the target x86_64-unknown-none, and ld, objcopy and readelf of binutils.
set -euo pipefail

die() { echo "kernel-object/build.sh: $1" >&2; exit 1; }

here=$(cd "$(dirname "$0")" && pwd)
target=x86_64-unknown-none
exports=(postern_nic_call postern_nic_size postern_nic_take_bells)

out= dir=${CARGO_TARGET_DIR:-$here/../../target}
while [ $# -gt 0 ]; do
	case $1 in
	--out | --target-dir)
		[ $# -ge 2 ] || die "$1 needs a value"
		case $1 in
		--out) out=$2 ;;
		--target-dir) dir=$2 ;;
		esac
		shift 2 ;;
	-h | --help) sed -n '/^# /s/^# //p' "$0"; exit 0 ;;
	*) die "unknown argument '$1'; see --help" ;;
	esac
done
[ -n "$out" ] || die "no --out FILE; see --help"
for tool in cargo ld objcopy readelf; do
	command -v "$tool" >/dev/null || die "$tool is missing; install rustup's cargo and the package binutils"
done
[ -d "$(rustc --print sysroot)/lib/rustlib/$target" ] ||
	die "Rust has no target $target; run: rustup target add $target"

# The flags of the target are in .cargo/config.toml, which counts from where cargo runs. The
# kernel's own model is added: top 2 GiB, no position independence, no red zone. The target has no
# vector registers. Functions return by a jump to the kernel's thunk, which the kernel replaces as
# the processor wants it (RETBLEED, SRSO, ITS); the compiler calls that option unstable, and takes it
# for code of kernels alone. The exports need no ENDBR, since KVM calls them directly.
out=$(realpath -m "$out")
dir=$(realpath -m "$dir")
cd "$here"
unset RUSTFLAGS CARGO_ENCODED_RUSTFLAGS

# Any number of these may run at once. Cargo has a lock of its own, but lets go of it before the
# archive is read.
mkdir -p "$dir" "$(dirname "$out")"
exec 9>"$dir/.object.lock"
flock 9
flags="'-Crelocation-model=static','-Ccode-model=kernel','-Cno-redzone=yes'"
RUSTC_BOOTSTRAP=1 cargo build --quiet --target "$target" --target-dir "$dir" \
	--profile freestanding --config \
	"target.$target.rustflags=[$flags,'-Zfunction-return=thunk-extern']" 9>&-

archive=$dir/$target/freestanding/libpostern_nic_kernel.a
# Beside the result, so that the last step gives it its name and does nothing else.
work=$(mktemp -d "$out.XXXXXX")
trap 'rm -rf "$work"' EXIT

# One object: the members that the exports need, unused sections dropped, all else made local.
ld -r --gc-sections "${exports[@]/#/--undefined=}" -o "$work/linked.o" "$archive"
objcopy --strip-debug "${exports[@]/#/--keep-global-symbol=}" \
	--remove-section='.eh_frame' --remove-section='.rela.eh_frame' --remove-section='.comment' \
	--remove-section='.note.gnu.property' "$work/linked.o" "$work/object.o"

# Not nm, which asks LLVM's plugin first, where that is installed, and that gives up on this object.
missing=$(readelf --wide --symbols "$work/object.o" |
	awk '$7 == "UND" && $8 != "" && $8 != "__x86_return_thunk" { print $8 }')
[ -z "$missing" ] || die "the object needs symbols that the kernel may not have:"$'\n'"$missing"
mv "$work/object.o" "$out"
