# A NIC of $ports ports, and a VM with one of them on $path, up to its first frame.

free() {
    while read -r name value _; do
        [ "$name" != MemFree: ] || echo "$value"
    done < /proc/meminfo
}

fail() {
    cat nic.log vm.log
    exit 90
}

before=$(free)
./postern nic --socket nic.sock --ports "$ports" --image nic-image > nic.log 2>&1 &
nic=$!
until ./postern nic show nic.sock paths > /dev/null 2>&1; do
    kill -0 $nic || fail
    sleep 0.1
done
echo "memory $((before - $(free)))"
./postern-init counters
./postern run --kernel guest --memory 16M --nic nic.sock --port 0 --path "$path" --counters emulated \
    --stats "$stats" --cmdline 'role=send input=64 frames=1 hello=off timer=100' > vm.log 2>&1 || fail
kill $nic
wait $nic
