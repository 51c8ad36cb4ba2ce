#!/bin/bash
# Builds the switch as the image that runs in the NIC view.
#
#   build.sh --out FILE [--target-dir DIR] [--features LIST]
#
#   --out FILE        the image, an ELF for postern nic --image
#   --target-dir DIR  where cargo works (default: $CARGO_TARGET_DIR, or target in the checkout)
#   --features LIST   of cargo; tests only
#
# Needs cargo with the target x86_64-unknown-none.
set -euo pipefail

die() { echo "image/build.sh: $1" >&2; exit 1; }

here=$(cd "$(dirname "$0")" && pwd)
target=x86_64-unknown-none

out= dir=${CARGO_TARGET_DIR:-$here/../../target} features=
while [ $# -gt 0 ]; do
	case $1 in
	--out | --target-dir | --features)
		[ $# -ge 2 ] || die "$1 needs a value"
		case $1 in
		--out) out=$2 ;;
		--target-dir) dir=$2 ;;
		--features) features=$2 ;;
		esac
		shift 2 ;;
	-h | --help) sed -n '/^# /s/^# //p' "$0"; exit 0 ;;
	*) die "unknown argument '$1'; see --help" ;;
	esac
done
[ -n "$out" ] || die "no --out FILE; see --help"
command -v cargo >/dev/null || die "cargo is missing; install Rust with rustup"
[ -d "$(rustc --print sysroot)/lib/rustlib/$target" ] ||
	die "Rust has no target $target; run: rustup target add $target"

# The flags of the target are in .cargo/config.toml, which counts from where cargo runs.
out=$(realpath -m "$out")
dir=$(realpath -m "$dir")
cd "$here"
unset RUSTFLAGS CARGO_ENCODED_RUSTFLAGS

# Any number of these may run at once. Cargo has a lock of its own, but lets go of it before the
# image, which builds with other features replace, is copied.
mkdir -p "$dir" "$(dirname "$out")"
exec 9>"$dir/.image.lock"
flock 9
cargo build --quiet --target "$target" --target-dir "$dir" --profile freestanding \
	--features "$features" 9>&-

new=$(mktemp "$out.XXXXXX")
trap 'rm -f "$new"' EXIT
cp "$dir/$target/freestanding/postern-nic-image" "$new"
chmod 755 "$new"
mv "$new" "$out"
