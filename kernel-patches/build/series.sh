# SPDX-License-Identifier: GPL-2.0
#
# Part of build.sh: the series as it is read, mailed and checked.

# Git, as if nobody had configured it.
plain_git() {
	GIT_CONFIG_NOSYSTEM=1 GIT_CONFIG_GLOBAL=/dev/null git "$@"
}

# Writes files that the series adds, as it leaves them. It needs no kernel.
run_files() {
	local patch path include=()
	[ -n "$out" ] || die "no --out DIR; see --help"
	[ ${#arguments[@]} -gt 0 ] || die "no PATH; see --help"
	[ -n "$series" ] || series=$(default_series)
	read_series
	mkdir -p "$out"
	out=$(realpath "$out")
	include=("${arguments[@]/#/--include=}")
	for patch in "${patches[@]}" "${extra[@]}"; do
		case $patch in "$here"/series/"$series"/[0-9]*)
			for path in $(added_by "$(step_of "$patch")"); do
				case " ${arguments[*]} " in *" $path "*)
					install -D -m 644 "$here/new/$path" "$out/$path" ;;
				esac
			done ;;
		esac
		# The folder must not be taken for part of a repository.
		(cd "$out" && GIT_CEILING_DIRECTORIES=$(dirname "$out") \
			plain_git apply --unsafe-paths "${include[@]}" "$patch") ||
			die "$(basename "$patch") does not apply to what the series adds"
	done
	for path in "${arguments[@]}"; do
		[ -e "$out/$path" ] || die "the series $series does not add $path"
	done
}

# A repository with one commit a step on top of the kernel's own files, in which names, times and
# so the commits are those of the series.
series_repository() {
	local tree=$1 base=$2 patch author email date subject mail
	mail=$(mktemp -d)
	cp -a "$base/." "$tree"
	rm "$tree/.complete"
	(
		trap "rm -rf '$mail'" EXIT
		cd "$tree"
		plain_git init -q -b series
		export GIT_AUTHOR_NAME GIT_AUTHOR_EMAIL GIT_AUTHOR_DATE
		GIT_AUTHOR_NAME=$(fact "$series" source_package)
		GIT_AUTHOR_EMAIL=$(fact "$series" source_package)@localhost
		GIT_AUTHOR_DATE='2000-01-01 00:00:00 +0000'
		commit() {
			GIT_COMMITTER_NAME=$GIT_AUTHOR_NAME GIT_COMMITTER_EMAIL=$GIT_AUTHOR_EMAIL \
				GIT_COMMITTER_DATE=$GIT_AUTHOR_DATE plain_git commit -q "$@"
		}
		plain_git add -Af
		commit -m "KVM of $(fact "$series" source_package)"
		plain_git tag base
		for patch in "${patches[@]}"; do
			apply_step "$tree" "$patch"
			plain_git mailinfo "$mail/body" "$mail/diff" <"$patch" >"$mail/info"
			subject=$(sed -n 's/^Subject: //p' "$mail/info")
			author=$(sed -n 's/^Author: //p' "$mail/info")
			email=$(sed -n 's/^Email: //p' "$mail/info")
			date=$(sed -n 's/^Date: //p' "$mail/info")
			[ -n "$subject" ] && [ -n "$author" ] && [ -n "$email" ] && [ -n "$date" ] ||
				die "$(basename "$patch") is no mail with From, Date and Subject"
			GIT_AUTHOR_NAME=$author GIT_AUTHOR_EMAIL=$email GIT_AUTHOR_DATE=$date
			plain_git add -Af
			{ printf '%s\n\n' "$subject"; cat "$mail/body"; } | commit -F -
		done
	)
}

# The whole series as mails, like those of git format-patch.
run_series() {
	local tree base description patch
	[ -n "$out" ] || die "no --out DIR; see --help"
	[ ${#extra[@]} -eq 0 ] || die "--extra is for builds; the series has no such patch"
	[ -n "$series" ] || series=$(default_series)
	read_series
	mkdir -p "$cache/kvm"
	exec 9>"$cache/kvm/lock"
	flock 9
	base=$(base_tree)
	mkdir -p "$out"
	out=$(realpath "$out")
	[ -z "$(ls -A "$out")" ] || die "$out is not empty"
	tree=$(mktemp -d)
	trap "rm -rf '$tree'" EXIT
	series_repository "$tree" "$base"
	description="$(cat "$here/cover-letter.txt")

The base commit is that of a repository with nothing but the files of KVM, and
those that the series touches, of Debian's package $(fact "$series" source_package),
version $(fact "$series" source_version)."
	plain_git -C "$tree" config branch.series.description "$description"
	GIT_COMMITTER_NAME=$(plain_git -C "$tree" log -1 --format=%an) \
	GIT_COMMITTER_EMAIL=$(plain_git -C "$tree" log -1 --format=%ae) \
		plain_git -C "$tree" format-patch -q --cover-letter --cover-from-description=subject \
		--base=base --stat=80 -o "$out" base..series
	# Who looks for a patch finds it by one name.
	for patch in "${patches[@]}"; do
		[ -e "$out/$(basename "$patch")" ] ||
			die "$patch does not have the name that git format-patch gives it; see $out"
	done
	echo "$out"
}

# Makes a tree's sources those of another one. What is equal keeps its time, so that make leaves it
# alone.
update_tree() {
	local from=$1 to=$2 path
	(cd "$from" && find . -type f) | while read -r path; do
		cmp -s "$from/$path" "$to/$path" || install -D -m 644 "$from/$path" "$to/$path"
	done
	# A source that is gone could hide that one is missing. Some are made by the build.
	(cd "$to" && find . -name '*.[chS]' ! -name '*.mod.c' ! -name '*-asm-offsets.h') |
		while read -r path; do
			[ -e "$from/$path" ] || rm "$to/$path"
		done
}

# Builds the modules after each step, with warnings as errors, and prints "built PATCH" or "failed
# PATCH" for each. A step has a tree of its own in the cache, so that what it does not change is not
# built again. They are built under one name, as make compares commands, and names are in them.
run_steps() {
	local base all work scratch patch name tree last= failed=0
	[ ${#extra[@]} -eq 0 ] || die "--extra is no step"
	find_kernel
	read_series
	mkdir -p "$cache/kvm"
	exec 9>"$cache/kvm/lock"
	flock 9
	base=$(base_tree)
	exec 9>&-
	all=$cache/kvm/steps-$(build_name)
	work=$all/tree
	mkdir -p "$all"
	exec 8>"$all/lock"
	flock 8
	touch "$all"
	scratch=$(mktemp -d)
	trap "rm -rf '$scratch'" EXIT
	cp -a "$base" "$scratch/series"
	rm "$scratch/series/.complete"
	# What an interrupted run left.
	rm -rf "$work"
	for patch in "${patches[@]}"; do
		name=$(basename "$patch")
		tree=$all/$(step_of "$patch")
		apply_step "$scratch/series" "$patch"
		rm -rf "$scratch/adapted"
		cp -a "$scratch/series" "$scratch/adapted"
		adapt_tree "$scratch/adapted"
		if [ -e "$tree" ]; then
			mv "$tree" "$work"
		elif [ -n "$last" ]; then
			cp -a "$last" "$work"
		fi
		mkdir -p "$work"
		update_tree "$scratch/adapted" "$work"
		if make_modules "$work" -Werror; then
			echo "built $name"
		else
			echo "failed $name"
			grep -B1 -A4 -E 'error:|ERROR:|undefined!' "$work/build.log" | head -n 40 >&2 ||
				tail -n 20 "$work/build.log" >&2
			failed=1
		fi
		mv "$work" "$tree"
		last=$tree
	done
	[ "$failed" = 0 ] || die "not every step of the series $series builds"
}
