# SPDX-License-Identifier: GPL-2.0
#
# Part of build.sh: a Debian package with the patched source of KVM, which DKMS builds for each
# kernel that is installed, now and later.

package=postern-kvm-dkms
dkms_name=postern-kvm

# Fills in the templates of build/deb.
deb_file() {
	local name=$1 to=$2 mode=$3
	install -D -m "$mode" /dev/null "$to"
	sed -e "s/@NAME@/$dkms_name/g; s/@PACKAGE@/$package/g; s/@VERSION@/$deb_version/g" \
		-e "s/@LINES@/$deb_lines/g; s/@PATTERN@/$deb_pattern/g" "$here/build/deb/$name" >"$to"
}

run_deb() {
	local all root tree source deb_version deb_lines= deb_pattern= file
	[ ${#extra[@]} -eq 0 ] && [ -z "$weakened" ] || die "a package has the series and nothing else"
	command -v dpkg-deb >/dev/null || die "dpkg-deb is missing; install the package dpkg"
	if [ -n "$series" ]; then
		all=("$series")
	else
		mapfile -t all < <(cd "$here/series" && for file in */series.toml; do dirname "$file"; done)
	fi
	deb_version=$(sed -n '/^\[workspace.package\]/,/^\[[^w]/s/^version = "\(.*\)"$/\1/p' \
		"$here/../Cargo.toml")
	[ -n "$deb_version" ] || die "$here/../Cargo.toml has no version"
	mkdir -p "$cache/kvm"
	: "${out:=$cache/deb}"
	mkdir -p "$out"
	root=$(mktemp -d)
	trap "rm -rf '$root'" EXIT
	chmod 755 "$root"
	if [ -z "$service" ]; then
		service=$root.o
		trap "rm -rf '$root' '$root.o'" EXIT
		"$here/../host-nic/kernel-object/build.sh" --out "$service" >&2
	fi

	source=$root/usr/src/$dkms_name-$deb_version
	for series in "${all[@]}"; do
		(
			exec 9>"$cache/kvm/lock"
			flock 9
			tree=$(source_tree)
			mkdir -p "$source"
			cp -a "$tree" "$source/$series"
		)
		rm "$source/$series/.complete"
		rm -rf "$source/$series/Documentation" "$source/$series/tools"
		adapt_tree "$source/$series"
		# DKMS replaces no module of the kernel by one that has the same version or, like it, none.
		for file in x86.c vmx/vmx.c; do
			echo "MODULE_VERSION(\"$deb_version-postern\");" >>"$source/$series/arch/x86/kvm/$file"
		done
		[ "$service" = none ] ||
			install -m 644 "$service" "$source/$series/arch/x86/kvm/vmx/ept_view_service.o_shipped"
		deb_lines+="${deb_lines:+, }$series"
		deb_pattern+="${deb_pattern:+|}${series//./\\\\.}"
	done

	deb_file control "$root/DEBIAN/control" 644
	deb_file conffiles "$root/DEBIAN/conffiles" 644
	deb_file postinst "$root/DEBIAN/postinst" 755
	deb_file prerm "$root/DEBIAN/prerm" 755
	deb_file dkms.conf "$source/dkms.conf" 644
	deb_file build "$source/build" 755
	deb_file modprobe.conf "$root/etc/modprobe.d/$dkms_name.conf" 644
	deb_file copyright "$root/usr/share/doc/$package/copyright" 644
	find "$root" -type d -exec chmod 755 {} +
	# The same sources make the same package.
	find "$root" -exec touch -h -d @946684800 {} +
	file=$out/${package}_${deb_version}_amd64.deb
	SOURCE_DATE_EPOCH=946684800 dpkg-deb --root-owner-group -b "$root" "$file.new" >&2
	mv "$file.new" "$file"
	echo "$file"
}
