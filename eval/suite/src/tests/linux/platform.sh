# What a VM is to Linux: its kernel, processors, timers, console, and how it ends. `guest` names the
# guest, `panic` says how it panics: by a request, or because it has no first process. `ways` is `all`,
# or `some`: then what the VMM does for any kernel alike is left to another guest.

# A VM without a root file system, in place of this shell: bare NAME 'SCRIPT' FLAGS...; `words` are for
# its kernel.
bare() {
    name=$1 script=$2
    shift 2
    exec ./postern run --kernel "$guest/kernel" --initrd "$guest/initrd" \
        --memory "${memory:-128M}" --serial "$name.log" \
        --cmdline "console=ttyS0 panic=-1 quiet $words postern.run=\"$script\"" \
        "$@" > "$name.out" 2>&1
}

# ends STATUS NAME 'SCRIPT' FLAGS...
ends() {
    want=$1
    shift
    (bare "$@")
    status=$?
    [ "$status" = "$want" ] && return
    echo "$1 ended with $status, not $want"
    show "$1"
    return 1
}

said() {
    grep -q "$2" "$1.log" && return
    echo "$1 did not say $2"
    show "$1"
    return 1
}

# It waits by its timer, prints by interrupts, and switches itself off.
sound='set -- $(grep LOC: /proc/interrupts); before=$2; sleep 1;
 set -- $(grep LOC: /proc/interrupts); [ $2 -gt $before ] && echo the timer works;
 set -- $(grep ttyS0 /proc/interrupts);
 case $2$3 in 0|00|0IO-APIC) ;; *) echo the console interrupts;; esac;
 echo processors $(nproc), packages $(grep physical.id /proc/cpuinfo | sort -u | wc -l);
 grep -q hypervisor /proc/cpuinfo && echo it has a hypervisor;
 poweroff -f'
sound=$(echo "$sound" | tr '\n' ' ')
case $ways in all) numbers='1 2' resets='its-own acpi kbd pci' ;; *) numbers=2 resets=its-own ;; esac
for processors in $numbers; do
    vm=processors-$processors
    check "$vm: it switches itself off" ends 0 $vm "$sound" --vcpus $processors
    check "$vm: timer" said $vm "the timer works"
    check "$vm: console" said $vm "the console interrupts"
    check "$vm: topology" said $vm "processors $processors, packages 1"
    check "$vm: hypervisor" said $vm "it has a hypervisor"
done

# Resets, by each way that kernels have.
for way in $resets; do
    words="reboot=$way"
    # A word of any kind keeps Linux from its own choice.
    [ $way != its-own ] || words=
    check "a reset by $way" ends 72 "reset-$way" 'reboot -f' --on-reboot exit
done
words="reboot=t"
[ $ways != all ] || check "a triple fault" ends 67 triple 'reboot -f'
words=

# It starts again, with its devices: on two processors, the second of which has run.
head -c 65536 /dev/urandom > disk.img
sum=$(md5sum < disk.img)
: > again.log
(bare again 'md5sum < /dev/vda; echo booted; reboot -f' --vcpus 2 --disk path=disk.img,readonly) &
pid_again=$!
until [ "$(grep -c booted again.log)" -ge 3 ] || ! kill -0 "$pid_again"; do
    sleep 0.1
done
kill "$pid_again"
wait "$pid_again"
check "SIGTERM ends it" [ $? = 143 ]
check "it starts again after a reset" [ "$(grep -c booted again.log)" -ge 3 ]
check "its disk is there each time" [ "$(grep -c "$sum" again.log)" -ge 3 ]
check "it is never amiss" sh -c '! grep -E "BUG|WARNING|Call Trace" again.log'

# A panic.
case $panic in
    request) check "a panic" ends 71 panic 'echo c > /proc/sysrq-trigger' ;;
    *)
        words="rdinit=/none"
        check "a panic" ends 71 panic true
        words=
        ;;
esac
check "the reason of a panic" sh -c 'grep -q "panicked" panic.out'

# Memory beyond the hole at 3 GiB, of which little is touched.
memory=3584M
check "3584 MiB" ends 0 large 'grep MemTotal /proc/meminfo; poweroff -f'
check "3584 MiB are there" sh -c '[ $(sed -n "s/.*MemTotal: *\([0-9]*\) kB.*/\1/p" large.log) -gt 3400000 ]'
memory=

# The processor that views need, and the host's.
flags='for f in pcid invpcid fpu; do grep -qw $f /proc/cpuinfo && echo has $f; done; poweroff -f'
vms=view
if [ $ways = all ]; then
    vms="views view"
    check "a processor as for views" ends 0 views "$flags" --cpu view-compatible
    check "a processor as the host's" ends 0 host "$flags"
    check "PCID" said host "has pcid"
fi
# VMs with a view have no other processor; a VM with a port, but no view, has the host's.
./postern nic --socket nic.sock --ports 2 --image nic-image > nic.out 2>&1 &
nic=$!
until [ -S nic.sock ]; do kill -0 $nic || { cat nic.out; exit 80; }; sleep 0.05; done
check "a VM with a view" ends 0 view "$flags" --nic nic.sock --port 0 --path elisa
check "a VM with a port" ends 0 port "$flags" --nic nic.sock --port 1 --path exit-user
check "PCID without a view" said port "has pcid"
kill $nic
wait $nic
for vm in $vms; do
    check "$vm: its processor is known" said $vm "has fpu"
    check "$vm: no PCID" sh -c "! grep -q 'has pcid' $vm.log"
    check "$vm: no INVPCID" sh -c "! grep -q 'has invpcid' $vm.log"
done
exit $failed
