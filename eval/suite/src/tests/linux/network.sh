# Programs of Debian over virtio-net, between host and guest. $guest: its name; $backend: of its
# devices; $bytes: of the file that nginx gives. The guest has two interfaces, one with large packets.

tap tap0 10.1.0.1/24
tap tap1 10.2.0.1/24 9000

cat > udhcpd.conf << 'END'
interface tap0
start 10.1.0.50
end 10.1.0.60
option subnet 255.255.255.0
option router 10.1.0.1
lease_file leases
pidfile udhcpd.pid
END
: > leases
udhcpd -f udhcpd.conf > udhcpd.log 2>&1 &

cat > program << 'END'
set -e
mkdir -p /run/sshd /var/log/nginx /var/lib/nginx
sed -i 's/^root:[^:]*/root:/' /etc/shadow
/usr/sbin/sshd -o PermitRootLogin=yes -o PermitEmptyPasswords=yes -o UsePAM=no
head -c 999983 /dev/urandom > /tmp/piece
number=0
while [ $number -lt PIECES ]; do
    echo "piece $number"
    cat /tmp/piece
    number=$((number + 1))
done > /var/www/html/file
nginx
iperf3 -s -D
echo the guest is ready
while [ ! -e /tmp/done ]; do sleep 0.2; done
ping -c 2 -q 10.1.0.1
exit 5
END
sed -i "s/PIECES/$pieces/" program
mkdir -p more/postern && cp program more/postern/run
(cd more && echo postern/run | cpio -o -H newc) > more.cpio 2> /dev/null
mkdir -p with && cat "$guest/initrd" more.cpio > with/initrd

memory=512M
line="ip=eth0:dhcp ip=10.2.0.2:::255.255.255.0::eth1:none:9000"
mkdir -p node && ln -s "../$guest/kernel" node/kernel && mv with/initrd node/initrd
ln -s "../$guest/root.erofs" node/root.erofs
begin one node "$line" --net "tap=tap0,mac=52:54:00:00:00:01,backend=$backend" \
    --net "tap=tap1,mac=52:54:00:00:00:02,backend=$backend"
await one 'the guest is ready'

address=$(sed -n 's/.*eth0 has the address \([0-9.]*\).*/\1/p' one.log | head -n 1)
check 'an address by DHCP of the host' test "${address%.*}" = 10.1.0
check 'ping' debian ping -c 3 -q "$address"
check 'ping of 1500 bytes, whole' debian ping -c 2 -q -M do -s 1472 "$address"
check 'ping of 9000 bytes, whole' debian ping -c 2 -q -M do -s 8972 10.2.0.2
too_large() {
    ! debian ping -c 1 -W 1 -q -M do -s 1473 "$address"
}
check 'nothing larger than the MTU' too_large

# instructions, those of guests, exits, interrupts, packets of a TAP so far
numbers() {
    ./postern-init counters > numbers
    read -r _ instructions _ of_guests _ _ _ exits _ < numbers
    interrupts=0
    for file in /sys/kernel/debug/kvm/*-*/irq_injections; do
        read -r one < "$file"
        interrupts=$((interrupts + one))
    done
    read -r received < "/sys/class/net/$1/statistics/rx_packets"
    read -r sent < "/sys/class/net/$1/statistics/tx_packets"
    echo "$instructions $of_guests $exits $interrupts $((received + sent))"
}
# What COMMAND BYTES costs between these numbers.
cost() {
    tap=$1 bytes=$2
    shift 2
    before=$(numbers "$tap")
    "$@" "$bytes" || return
    set -- $before $(numbers "$tap")
    echo "$(($6 - $1)) $(($7 - $2)) $(($8 - $3)) $(($9 - $4)) $((${10} - $5))" > cost
}
# count NAME TAP SMALL LARGE COMMAND...: what a packet costs, by what a large number of bytes costs
# more than a small one. Large packets are segments of up to 64 KiB.
count() {
    name=$1 tap=$2 small=$3 large=$4
    shift 4
    # The first time it is read from the disk.
    check "$name" "$@" "$small"
    cost "$tap" "$small" "$@" > count.out || return
    set -- "$(cat cost)" "$@"
    less=$1
    shift
    check "$name, more" cost "$tap" "$large" "$@"
    set -- $less $(cat cost)
    n=$((${10} - $5))
    if [ $n -lt 50 ]; then
        # Segments of UDP, in Debian 13.
        echo "count $name: $n packets more, too few to say what one costs"
        return
    fi
    echo "count $name: of $n packets each $((($6 - $1) / n)) instructions, $((($7 - $2) / n)) of" \
        "them the guest's; of a thousand $((($8 - $3) * 1000 / n)) exits," \
        "$((($9 - $4) * 1000 / n)) interrupts"
}
count 'iperf3, TCP to the guest' tap0 1M 33M debian iperf3 -c "$address" -n
count 'iperf3, TCP from the guest' tap0 1M 33M debian iperf3 -c "$address" -R -n
count 'iperf3, TCP with large packets' tap1 1M 33M debian iperf3 -c 10.2.0.2 -n
count 'iperf3, UDP to the guest' tap0 100 2100 debian iperf3 -c "$address" -u -b 20M -l 1400 -k
count 'iperf3, UDP from the guest' tap0 100 2100 debian iperf3 -c "$address" -R -u -b 20M -l 1400 -k

ssh="ssh -q -o StrictHostKeyChecking=no -o UserKnownHostsFile=/dev/null -o BatchMode=yes root@$address"
session() {
    debian $ssh uname -r > release && test -s release
}
copy() {
    head -c 300000 /dev/urandom > /tmp/there && debian $ssh 'cat > /tmp/there' < /tmp/there &&
        debian $ssh 'cat /tmp/there' > /tmp/back && cmp /tmp/there /tmp/back
}
check 'a session of ssh' session
check 'ssh copies a file' copy
wanted=$(debian $ssh cksum /var/www/html/file | cut -d ' ' -f 1,2)
check "curl of ${wanted#* } bytes from nginx" debian curl -sS -o /tmp/file "http://$address/file"
check 'its checksum' test "$(debian cksum /tmp/file | cut -d ' ' -f 1,2)" = "$wanted"
debian $ssh 'touch /tmp/done'
ended one
check 'the status of the guest' test $? = 5
grep -i -E 'warning|BUG|call trace' one.log && failed=1
exit $failed
