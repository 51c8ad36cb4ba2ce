# Functions for the scripts of linux_nic.rs. They want $path, $vcpus, $memory, $line (more words for the
# guests' kernels) and $flags (of postern run).

# nic QUEUES FLAGS...: a NIC of four ports, in the background.
nic() {
    queues=$1; shift
    ./postern nic --socket nic.sock --ports 4 --queues $queues --image nic-image "$@" > nic.out 2>&1 &
    nic=$!
    until [ -S nic.sock ]; do
        kill -0 $nic 2> /dev/null || { cat nic.out; exit 80; }
        sleep 0.05
    done
}
# The end of the NIC.
no_nic() { kill $nic; wait $nic; }
# begin NAME PORT ARGUMENTS...: a VM at a port, in the background, that plays a role.
begin() {
    name=$1 port=$2; shift 2
    : > $name.log
    ./postern run --kernel kernel --initrd initrd --memory $memory --vcpus $vcpus --serial $name.log \
        --nic nic.sock --port $port --path $path $flags \
        --cmdline "console=ttyS0 panic=-1 quiet $line -- $*" > $name.out 2>&1 &
    eval "pid_$name=$!"
}
show() { echo "--- console of $1"; tail -n 30 $1.log; echo "--- output of $1"; tail -n 5 $1.out; }
pid() { eval "echo \$pid_$1"; }
# await NAME TEXT: until the text is on a VM's console.
await() {
    until grep -q "$2" $1.log; do
        kill -0 $(pid $1) 2> /dev/null || { echo "VM $1 ended before '$2'"; show $1; exit 81; }
        sleep 0.05
    done
}
# ended NAME STATUS: the VM's end, with this status and no complaint of its kernel.
ended() {
    wait $(pid $1); status=$?
    [ $status = $2 ] || { echo "VM $1 ended with $status, not $2"; show $1; exit 82; }
    if grep -E 'BUG|Oops|WARNING:|Call Trace|rcu: INFO' $1.log; then show $1; exit 83; fi
}
# Memory that the machine has to give, in KiB, once what can be given back is.
available() {
    sync; echo 3 > /proc/sys/vm/drop_caches; sleep 0.2
    sed -n 's/^MemAvailable: *\([0-9]*\) kB/\1/p' /proc/meminfo
}
