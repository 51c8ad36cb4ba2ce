# Programs of Debian in two guests that a network joins. $megabytes: of the file that nginx gives;
# $requests: of each command of redis; $answers: of memcached; $all: yes, or the most important ones
# alone.

tell client 'ping -c 1 -W 5 10.0.0.1 > /dev/null'
says 'ping: none of 1000 is lost' '1000 received' client 'ping -f -q -c 1000 10.0.0.1'
says 'ping6: none of 1000 is lost' '1000 received' client 'ping -6 -f -q -c 1000 fd00::1'

tell server 'iperf3 -s -D > /dev/null'
for bytes in 'client' 'server'; do
    reverse=
    [ $bytes = client ] || reverse=-R
    can "iperf3, TCP, sent by the $bytes" client "iperf3 -c 10.0.0.1 $reverse -n 16M | tee /tmp/out; grep -q receiver /tmp/out"
    echo "count iperf3, TCP, sent by the $bytes: $(grep sender says.out | tr -d '\r')"
    # Datagrams at a rate at which the machine's processor is not always busy.
    says "iperf3, UDP, sent by the $bytes" '/[0-9]+ \(0%\).*receiver' client \
        "iperf3 -c 10.0.0.1 $reverse -u -b 5M -l 1400 -k 400"
done

# No piece of the file is like another.
tell server "mkdir -p /var/log/nginx /var/lib/nginx; head -c 999983 /dev/urandom > /tmp/piece"
tell server "n=0; while [ \$n -lt $megabytes ]; do printf '%017d' \$n; cat /tmp/piece; n=\$((n + 1)); done > /var/www/html/file; nginx"
sum=$(tell server 'sha256sum < /var/www/html/file')
says "curl of $megabytes MB from nginx" "^${sum:-none}" client 'curl -sS http://10.0.0.1/file | sha256sum'

if [ "$all" = yes ]; then
    tell server 'redis-server --save "" --daemonize yes --bind 10.0.0.1 --protected-mode no > /dev/null'
    # A line for each kind of command, 20 of redis 7.
    can 'redis-benchmark, all commands' client \
        "redis-benchmark -h 10.0.0.1 -n $requests -c 4 --csv > /tmp/out && cut -d , -f 1,2 /tmp/out | tr '\n' ' ' && [ \$(grep -c '^\"[A-Z].*,\"[0-9]' /tmp/out) -ge 19 ]"
    echo "count redis, requests a second (emulated): $(cat says.out)"

    tell server 'memcached -d -u nobody -l 10.0.0.1 -m 16 -t 1'
    says 'memcached, open loop' "ANSWERED $answers of" client \
        "/proc/1/root/postern/postern-nettest open-loop:10.0.0.1:11211:200:$answers"
    echo "count memcached (emulated): $(grep ANSWERED says.out)"

    tell server 'mkdir -p /run/sshd /root/.ssh; ssh-keygen -A > /dev/null'
    tell client 'mkdir -p /root/.ssh; ssh-keygen -q -t ed25519 -N "" -f /root/.ssh/id_ed25519'
    key=$(tell client 'cat /root/.ssh/id_ed25519.pub')
    tell server "echo '$key' > /root/.ssh/authorized_keys; chmod 700 /root /root/.ssh; sed -i 's/^root:[^:]*/root:*/' /etc/shadow"
    can 'a server of ssh' server '/usr/sbin/sshd -o UsePAM=no -h /etc/ssh/ssh_host_ed25519_key'
    can 'a session of ssh copies a file' client \
        'head -c 300000 /dev/urandom > /tmp/there; options="-q -o BatchMode=yes -o StrictHostKeyChecking=no"; scp $options /tmp/there root@10.0.0.1:/tmp/there && scp $options root@10.0.0.1:/tmp/there /tmp/back && cmp /tmp/there /tmp/back'
fi

# The smallest MTU of IPv4 (RFC 791), the smallest that every host takes (RFC 1122), and the largest of the
# network. Linux' TCP makes no segments that the first would carry (net.ipv4.tcp_min_snd_mss).
for size in 68 576 9000 1500; do
    for name in server client; do tell $name "ip link set $device mtu $size"; done
    says "MTU $size" '3 received' client "ping -q -c 3 -i 0.2 -M do -s $((size - 28)) 10.0.0.1"
    if tell client "ping -q -c 1 -W 1 -M do -s $((size - 27)) 10.0.0.1" > says.out; then
        echo "FAILED MTU $size: a larger packet goes, too"
        failed=1
    fi
    [ $size = 68 ] || can "MTU $size: TCP" client "curl -sS -r 0-99999 -o /tmp/part http://10.0.0.1/file && [ \$(stat -c %s /tmp/part) = 100000 ]"
done

if [ "$all" = yes ]; then
    # A server of DHCP in the host's namespace, at the host's end of an uplink.
    uplink
    cat > udhcpd.conf << END
interface $outside
start 10.1.0.50
end 10.1.0.60
option subnet 255.255.255.0
lease_file leases
pidfile udhcpd.pid
END
    : > leases
    ip addr add 10.1.0.1/24 dev $outside
    udhcpd -f udhcpd.conf > udhcpd.log 2>&1 &
    mkdir -p www && head -c 1000000 /dev/urandom > www/file
    httpd -f -h www -p 10.1.0.1:80 &
    says 'an address by DHCP of the host' 'lease of 10.1.0.5' client "udhcpc -i $device -q -n 2>&1"
    sum=$(sha256sum < www/file)
    says 'curl from the host' "^${sum%% *}" client 'curl -sS http://10.1.0.1/file | sha256sum'
fi

for name in server client; do
    can "no complaint of the kernel of the $name" $name "! dmesg | grep -E 'WARNING:|BUG:|Call Trace'"
done
[ $failed = 0 ] || { tail -n 20 ./*.err; for name in server client; do tell $name 'cat /tmp/bridge.log'; done; }
exit $failed
