# What happens to postern-bridge, and what traffic makes of it. Two guests on the path elisa, of two vCPUs
# each; the server's bridge leaves its interface there when it ends, so that addresses and connections
# stay.

tell client 'ping -c 1 -W 5 10.0.0.1 > /dev/null'
tell server "mkdir -p /var/log/nginx /var/lib/nginx; head -c 8000000 /dev/urandom > /var/www/html/file; nginx"
sum=$(tell server 'sha256sum < /var/www/html/file')
fails() {
    what=$1 pattern=$2
    shift 2
    says "$what" "$pattern" "$1" "$2; [ \$? != 0 ]"
}
# begins NAME COMMAND: traffic in the background; ends WHAT NAME PATTERN: how it came out.
begins() { tell "$1" "($2) > /tmp/traffic 2>&1 & echo \$! > /tmp/traffic.pid"; }
ends() {
    says "$1" "$3" "$2" "while kill -0 \$(cat /tmp/traffic.pid) 2> /dev/null; do sleep 0.1; done; cat /tmp/traffic"
}
fetch="curl -sS --limit-rate 4M --retry-connrefused -m 100 http://10.0.0.1/file | sha256sum"
answers() { says "$1" ' 0% packet loss' client 'ping -q -i 0.05 -c 5 -W 5 10.0.0.1'; }

# Twice, and on interfaces that others have.
fails 'a bridge that is started twice is refused' 'a postern-bridge runs with postern0' server \
    'timeout 20 postern-bridge 2>&1'
fails 'one for another interface, with the same queues, is refused' 'queue' server \
    'timeout 20 postern-bridge --tap other 2>&1'
tell client 'kill $(cat /tmp/bridge.pid); while kill -0 $(cat /tmp/bridge.pid) 2> /dev/null; do sleep 0.05; done'
tell client 'ip tuntap add dev layer3 mode tun; ip link add cable type veth peer name other; ip tuntap add dev taken mode tap multi_queue user nobody; ethtool -K taken tx off > /dev/null; ip link set taken up'
for tap in layer3 cable; do
    fails "$tap, which is no TAP, is refused" "$tap" client "timeout 20 postern-bridge --tap $tap 2>&1"
done
can 'a TAP with another owner and other offloads is taken' client \
    'postern-bridge --tap taken > /tmp/bridge.log 2>&1 & echo $! > /tmp/bridge.pid; until grep -q 1 /sys/class/net/taken/carrier || ! kill -0 $!; do sleep 0.1; done 2> /dev/null; cat /tmp/bridge.log; kill -0 $! && ip addr add 10.0.0.2/24 dev taken'
answers 'and works'
can 'a bridge that is ended ends well' client \
    'kill $(cat /tmp/bridge.pid); wait $(cat /tmp/bridge.pid); ip link del taken'
bridge_client=--persist
join client 2
answers 'the next one has the queue'

# The bridge dies in the middle of traffic, at no instruction in particular.
restart='kill -9 $(cat /tmp/bridge.pid); wait $(cat /tmp/bridge.pid); postern-bridge --persist > /tmp/bridge.log 2>&1 & echo $! > /tmp/bridge.pid'
begins client "$fetch"
tell server 'sleep 0.2'
for name in server client server client; do
    tell $name "$restart; sleep 0.3"
done
ends 'curl goes on with bridges that were killed four times' client "^${sum:-none}"
begins client 'ping -q -i 0.01 -c 400 -W 1 10.0.0.1'
tell server "n=0; while [ \$n -lt 12 ]; do $restart; sleep 0.0\$((n % 5)); n=\$((n + 1)); done; sleep 0.3"
ends 'twelve bridges are killed as they begin' client 'packet loss'
answers 'and the next one has the queue'

# Moved, stopped, signalled, traced: of the path's calls none is lost.
threads='$(ls /proc/$(cat /tmp/bridge.pid)/task)'
begins client "$fetch"
tell server "n=0; while [ \$n -lt 20 ]; do for t in $threads; do taskset -c -p \$((n % 2)) \$t > /dev/null; done; kill -STOP \$(cat /tmp/bridge.pid); kill -CONT \$(cat /tmp/bridge.pid); kill -WINCH \$(cat /tmp/bridge.pid); n=\$((n + 1)); done; for t in $threads; do taskset -c -p 0,1 \$t > /dev/null; done"
ends 'curl goes on while the bridge is moved, stopped and signalled' client "^${sum:-none}"
begins client "$fetch"
tell server 'timeout 1 strace -f -p $(cat /tmp/bridge.pid) -o /tmp/calls; [ -s /tmp/calls ]'
ends 'curl goes on while the bridge is traced' client "^${sum:-none}"

# The NIC's owner dies in the middle of traffic, and another one takes over.
begins client "$fetch"
kill -9 $nic
wait $nic
sleep 0.3
begin_nic
ends 'curl goes on while the owner of the NIC is killed, and the next one comes' client "^${sum:-none}"
answers 'the next owner looks after those who sleep'

# A hostile guest rings all the time.
# The sum of a counter of the server's bridge over its queues.
count() { tell server 'postern-bridge --stats' | awk -F '[ ,]+' -v name="\"$1\":" '$1 == name { sum += $2 } $2 == name { sum += $3 } END { print sum + 0 }'; }
tell client 'kill $(cat /tmp/bridge.pid); while kill -0 $(cat /tmp/bridge.pid) 2> /dev/null; do sleep 0.05; done'
before=$(count spurious)
says 'a guest rings a peer 20000 times' 'rings=20000' client \
    'postern-guest-linux storm --port 1 --rings 20000'
sleep 0.5
woken=$(($(count spurious) - before))
echo "count bells: 20000 were rung, and woke the peer $woken times"
check 'it is counted, and bounded' [ $woken -ge 1 -a $woken -le 20000 ]
tell client 'postern-bridge --persist > /tmp/bridge.log 2>&1 & echo $! > /tmp/bridge.pid'
tell client "until grep -q 1 /sys/class/net/$device/carrier; do sleep 0.1; done 2> /dev/null"
answers 'and traffic goes on'

# Somebody takes the device from its driver, while the bridge has nothing to send.
tell server "ip link set $device down"
says 'a bridge whose device is unbound says so, and ends with status 75' 'status 75' server \
    'cd /sys/bus/pci/drivers/uio_pci_generic; for one in 0000:*; do echo $one > unbind; done; cd /; wait $(cat /tmp/bridge.pid); echo status $?; cat /tmp/bridge.log'
tell server "ip link set $device up; postern-bridge --persist > /tmp/bridge.log 2>&1 & echo \$! > /tmp/bridge.pid"
tell server "until grep -q 1 /sys/class/net/$device/carrier; do sleep 0.1; done 2> /dev/null"
answers 'the next one binds it again'

# The host takes the port away, whose bridge sends nothing that would be refused.
tell client "ip link set $device down"
./postern nic port nic.sock 2 revoke
says 'a bridge whose port is taken says so, and ends with status 75' 'status 75' client \
    'wait $(cat /tmp/bridge.pid); echo status $?; cat /tmp/bridge.log'
fails 'and the next one is refused' '.' client 'timeout 20 postern-bridge 2>&1'
can 'the guest goes on' client 'true'
[ $failed = 0 ] || { tail -n 20 ./*.err nic.out; for name in server client; do tell $name 'cat /tmp/bridge.log; dmesg | tail -n 20'; done; }
exit $failed
