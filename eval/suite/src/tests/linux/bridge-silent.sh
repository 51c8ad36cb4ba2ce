# A peer that never rings: its device has no doorbell. What sleeps is woken by the NIC's owner, who looks
# ten times a second.

says 'ping: each waits for one look of the owner at most' ' 0% packet loss' client \
    'ping -q -i 0.3 -c 20 -W 5 10.0.0.1'
longest=$(sed -n 's|^rtt .* = [^/]*/[^/]*/\([0-9]*\).*|\1|p' says.out)
echo "count ping to a peer that nobody rings for: $longest ms at most (emulated)"
check 'and none for longer' [ "${longest:-1000}" -lt 250 ]
says 'it was asleep, and the owner has rung' '"interrupts": [1-9]' server 'postern-bridge --stats'
[ $failed = 0 ] || { tail -n 20 ./*.err nic.out; for name in server client; do tell $name 'cat /tmp/bridge.log'; done; }
exit $failed
