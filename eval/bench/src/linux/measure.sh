# What the networks cost: the lines that `samples.rs` reads. Of each kind there are a short run and a
# long one, so that what both have in common, such as the start of a program, counts for nothing.

ping="ping -f -q -s 56 10.0.0.1 -c"
tcp="iperf3 -c 10.0.0.1 -n"
get="redis-benchmark -h 10.0.0.1 -t get -d 64 -c 4 -q -n"

# An idle pair, which has no bridge yet where there is one.
tell machine 'sleep 30'
sample nothing 0 machine true
sample idle-without 60 machine 'sleep 60'
join_pair
tell client 'ping -q -c 3 10.0.0.1'
tell client 'ping -q -c 3 fd00::1'
tell machine 'sleep 30'
sample nothing 0 machine true
sample idle 60 machine 'sleep 60'

# TCP makes segments as large as what it sends in a millisecond (tcp_tso_autosize), by a clock in which an
# instruction takes ten nanoseconds, and a copied byte as long: a machine that is a hundred times as fast
# sends whole segments. So they are made as large here.
for name in server client; do
    tell $name 'sysctl -q -w net.ipv4.tcp_pacing_ss_ratio=1000 net.ipv4.tcp_pacing_ca_ratio=1000'
done
tell server 'iperf3 -s -D > /dev/null'
tell server 'redis-server --save "" --daemonize yes --bind 10.0.0.1 --protected-mode no > /dev/null'
# What is read from the disk for the first time.
for command in "$ping 20" "$tcp 200000" "$get 100"; do tell client "$command > /dev/null"; done

sample ping $short_ping client "$ping $short_ping > /dev/null"
sample ping $long_ping client "$ping $long_ping > /dev/null"
for count in 50 250; do breakdown ping $count client "$ping $count > /dev/null"; done
sample tcp $short_tcp client "$tcp $short_tcp > /dev/null"
sample tcp $long_tcp client "$tcp $long_tcp > /dev/null"
for count in 1000000 17000000; do breakdown tcp $count client "$tcp $count > /dev/null"; done
sample get $short_get client "$get $short_get > /dev/null"
sample get $long_get client "$get $long_get > /dev/null"
[ $failed = 0 ] || tail -n 20 ./*.err
exit $failed
