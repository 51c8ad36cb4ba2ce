# Frames between a VM and an interface of the host, a TAP that is the NIC's uplink.
# It wants $path, $direction (send or receive, as the VM sees it), $size, $batch, $few and $many.

fail() {
    cat nic.log vm.log
    exit 90
}

# Frames that came out of the NIC.
came_out() {
    read -r count < /sys/class/net/wire/statistics/rx_packets
    echo "$count"
}

./postern nic --socket nic.sock --ports 2 --ring 1M --lane 4M --image nic-image > nic.log 2>&1 &
nic=$!
until ./postern nic show nic.sock paths > /dev/null 2>&1; do
    kill -0 $nic || fail
    sleep 0.1
done
echo 1 > /proc/sys/net/ipv6/conf/default/disable_ipv6
./postern nic uplink nic.sock add 1 tap:wire > /dev/null || fail
vm="./postern run --kernel guest --memory 32M --nic nic.sock --port 0 --path $path --counters emulated"

# The VM sends. It is done before the owner has passed on the last frame.
send() {
    before=$(came_out)
    echo "$1 before $(./postern-init counters)"
    $vm --stats "$1.json" \
        --cmdline "role=send input=$size frames=$2 batch=$batch hello=off timer=100" > vm.log 2>&1 || fail
    while [ $(($(came_out) - before)) -lt "$2" ]; do
        sleep 0.01
    done
    echo "$1 after $(./postern-init counters)"
}

# The VM receives; what it costs is between its own marks. Its first beacon says that it is ready.
receive() {
    before=$(came_out)
    $vm --stats "$1.json" --outbox /dev/null \
        --cmdline "role=receive frames=$2 batch=$batch timer=100" > vm.log 2>&1 &
    vm_pid=$!
    while [ "$(came_out)" = "$before" ]; do
        kill -0 $vm_pid || fail
        sleep 0.01
    done
    # With a pause after each call, in which others get the processor.
    ./postern-nettest "send:wire:$size:$2:32:500" > sender.log || { cat sender.log; fail; }
    wait $vm_pid || fail
}

$direction few "$few"
$direction many "$many"
kill $nic
wait $nic
