# Frames from one guest to the other: of each of $sizes, each of $counts.

start_pair
tell client 'ping -c 1 -W 5 10.0.0.1 > /dev/null'
program=/proc/1/root/postern/postern-nettest
# Whoever sends does not know when the receiver gets the one processor: its socket takes all frames of a run.
tell server 'sysctl -q -w net.core.rmem_max=16777216 net.core.rmem_default=16777216 net.core.netdev_max_backlog=10000'

# pass SIZE COUNT: all frames of a run.
pass() {
    tell server "$program receive:$device:$1:$2 > /tmp/received 2>&1 & receiver=\$!"
    # Until it listens.
    tell server 'until grep -q begin /tmp/received; do sleep 0.01; done'
    # With a pause after each call, in which the other guest runs.
    tell client "$program send:$device:$1:$2:32:4000 > /dev/null"
    # Not for the bridge, which that shell has started, too.
    tell server 'wait $receiver; grep -q DONE /tmp/received || { cat /tmp/received; false; }'
}

pass 64 64
for size in $sizes; do
    for count in $counts; do
        sample "frames-$size" "$count" machine "pass $size $count"
    done
done
[ $failed = 0 ] || tail -n 20 ./*.err
exit $failed
