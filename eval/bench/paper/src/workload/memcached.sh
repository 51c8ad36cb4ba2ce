# memcached in one guest, asked from the other at each of $rates, $requests times.

start_pair
tell client 'ping -c 1 -W 5 10.0.0.1 > /dev/null'
tell server 'memcached -d -u nobody -l 10.0.0.1 -m 16 -t 1'
ask=/proc/1/root/postern/postern-nettest
# What is read from the disk for the first time.
tell client "$ask open-loop:10.0.0.1:11211:100:20" > /dev/null
for rate in $rates; do
    tell client "$ask open-loop:10.0.0.1:11211:$rate:$requests" > said.out || failed=1
    echo "rate $rate $(grep ANSWERED said.out || cat said.out)"
done
[ $failed = 0 ] || tail -n 20 ./*.err
exit $failed
