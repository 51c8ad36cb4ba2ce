# A VM with all kinds of devices at once, all of them in use. Its guest resets it; then it is looked at,
# joined, stopped for a while and taken down.

./postern nic --socket nic.sock --ports 2 --queues 2 --paths exit-user > nic.out 2>&1 &
nic=$!
while [ ! -e nic.sock ]; do sleep 0.05; done
# The shell reads the disk to its end.
{
    cat guest.sh
    yes '' | head -c 16384
} | head -c 16384 > script.img
{
    echo first
    yes '' | head -c 1048576
} | head -c 1048576 > data.img
address() {
    until [ -e "/sys/class/net/$1" ]; do kill -0 $pid_all || { show all; exit 91; }; sleep 0.05; done
    ip addr add "$2" dev "$1"
}
net='ip=10.5.0.2:::255.255.255.0::eth0:none ip=10.6.0.2:::255.255.255.0::eth1:none'
begin all $guest "$net postern.run=\"sh /dev/vda\"" --name all --vcpus 2 --rng --vsock cid=5 \
    --disk path=script.img,readonly --disk path=data.img,queues=2 \
    --net tap=user,backend=user,queues=2 --net tap=kernel,backend=vhost,queues=2 \
    --nic nic.sock --port 0 --path exit-user --stats all.json
address user 10.5.0.1/24
address kernel 10.6.0.1/24
await all 'boot second'
await all tick
says() { [ "$(grep -c -x "$1"'.\?' all.log)" = 2 ]; }
for what in 'random 256' 'sockets to the host' '10.5.0.1 answers' '10.6.0.1 answers'; do
    check "before and after the reset: $what" says "$what"
done
check 'it is listed' sh -c './postern ps | grep -q -w running'
check 'its exits are shown' sh -c './postern stat all --json | grep -q io_exits'
check 'its console is joined' sh -c './postern console all < /dev/null | grep -q tick'
ticks() { grep -c tick all.log; }
kill -STOP $pid_all
sleep 2
kill -CONT $pid_all
before=$(ticks)
until [ "$(ticks)" -gt $((before + 3)) ] || ! kill -0 $pid_all; do
    sleep 0.1
done
check 'it goes on after a pause' [ "$(ticks)" -gt $((before + 3)) ]
check 'it is taken down' ./postern down all
ended all
check 'by a signal, in good order' [ $? = 143 ]
check 'it was confined' grep -q '"seccomp": true' all.json
[ $failed = 0 ] || show all
kill $nic
wait $nic
check 'the NIC ends in good order' [ $? = 0 ]
exit $failed
