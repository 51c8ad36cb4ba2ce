# Memory of Linux VMs: the smallest, and more than there is room for below 4 GiB. `vmlinux` is the same
# kernel as `small/kernel`, as the ELF file that is entered by PVH; `tiny` is an initrd with one program,
# which ends the VM.

# boot NAME KERNEL INITRD MEMORY
boot() {
    ./postern run --kernel "$2" --initrd "$3" --memory "$4" --serial "$1.log" --on-reboot exit \
        --cmdline 'console=ttyS0 panic=-1 -- count-boot' > "$1.out" 2>&1
}
status() {
    wanted=$1
    shift
    "$@"
    [ $? = "$wanted" ]
}
# What the kernel says of its memory: has NAME LEAST, in KiB.
has() {
    kib=$(sed -n 's,.*Memory: [0-9]*K/\([0-9]*\)K available.*,\1,p' "$1.log")
    echo "$1: $kib KiB"
    [ "$kib" -gt "$2" ]
}
for kernel in small/kernel vmlinux; do
    for memory in 32 4096; do
        name=${kernel#*/}-$memory
        check "$kernel boots in $memory MiB" status 0 boot $name $kernel tiny ${memory}M
        # But for what PCs have below 1 MiB.
        check "$kernel finds $memory MiB" has $name $((memory * 1024 - 500))
        [ $failed = 0 ] || { show $name; exit 1; }
    done
done
# With less than it needs a kernel is not started, and one sentence says how much that is.
for kernel in small/kernel vmlinux; do
    name=${kernel#*/}
    check "$kernel in 8 MiB is refused" status 64 boot $name-8 $kernel tiny 8M
    check "$kernel in 8 MiB: one line" [ "$(wc -l < $name-8.out)" = 1 ]
    needed=$(sed -n 's/.*give the VM at least \([0-9]*\) MiB with --memory.*/\1/p' $name-8.out)
    echo "count $kernel needs $needed MiB to be loaded"
    # That is enough for the kernel, and not for a large initrd.
    check "$kernel in $needed MiB: the initrd is refused" \
        status 64 boot $name-least $kernel small/initrd "${needed}M"
    check "$kernel in $needed MiB: one line" [ "$(wc -l < $name-least.out)" = 1 ]
    check "$kernel in $needed MiB: how much the initrd needs" \
        grep -q 'initrd small/initrd.*give the VM at least [0-9]* MiB with --memory' $name-least.out
    [ $failed = 0 ] || cat $name-8.out $name-least.out
done
exit $failed
