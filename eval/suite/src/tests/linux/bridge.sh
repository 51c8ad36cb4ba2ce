# Two VMs over a bridge of the host's, with packets of 9000 bytes: one device's packets are moved by
# vhost-net, the other's by its VMM. The TAPs are the VMMs' own, and go with them.

ip link add br0 type bridge
ip link set br0 up
join() {
    until [ -e "/sys/class/net/$1" ]; do sleep 0.05; done
    ip link set "$1" master br0
}
net() {
    echo "ip=10.3.0.$1:::255.255.255.0::eth0:none"
}
begin two $guest "$(net 2) postern.run=\"cat /sys/class/net/eth0/mtu; echo two is ready; sleep 1000\"" \
    --net tap=tap2,mac=52:54:00:00:00:02,mtu=9000,backend=user
join tap2
await two 'two is ready'
check 'the MTU that the device has' grep -q '^9000' two.log
ping='until ping -c 1 -W 1 -q 10.3.0.2; do sleep 0.2; done
    ping -c 3 -q 10.3.0.2 && ping -c 3 -q -s 8972 10.3.0.2 && exit 5'
begin one $guest "$(net 1) postern.run=\"$(echo "$ping" | tr '\n' ' ' | sed 's/done /done; /')\"" \
    --net tap=tap1,mac=52:54:00:00:00:01,mtu=9000,backend=vhost
join tap1
ended one
check 'short and long packets come back' test $? = 5
[ $failed = 0 ] || show one
kill $pid_two
ended two
check 'a VMM that is ended while its guest works' test $? = 143
gone() {
    [ ! -e /sys/class/net/tap1 ] && [ ! -e /sys/class/net/tap2 ]
}
check 'TAPs that go with their VMMs' gone
exit $failed
