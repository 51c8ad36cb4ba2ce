# Two Linux guests, joined by one of the networks that are compared, and told from here what to run.
# For busybox's shell. It wants $guest, the directory with a guest's kernel, initrd and root.erofs,
# and $network: vhost-net, virtio-user or the name of a path of the NIC. $flags_server, $flags_client are
# more flags of postern run, $bridge_server and $bridge_client of postern-bridge.
#
# | function | does |
# | --- | --- |
# | `start_pair [FLAGS...]` | boots `server` (10.0.0.1, fd00::1) and `client` (10.0.0.2, fd00::2), and joins them |
# | `start NAME NUMBER [FLAGS...]` | boots a guest at the port of this number, which is not joined yet |
# | `join NAME NUMBER` | gives a guest its interface: $device |
# | `tell NAME COMMAND` | has a guest, or `machine`, run a command of its shell; its output comes here, its status is that of `tell` |
# | `uplink` | joins the host to the network, by its interface $outside |
# | `says WHAT PATTERN NAME COMMAND`, `can WHAT NAME COMMAND`, `check WHAT COMMAND` | what must hold: a line `ok WHAT`, or `FAILED WHAT` and $failed |
# | `sample WHAT UNITS NAME COMMAND` | `tell`, and prints a line with what was counted meanwhile |
# | `breakdown WHAT UNITS NAME COMMAND` | `tell`, and prints a line with the exits by reason |

# Descriptors of a guest's console: what is typed, and what it says.
console() {
    case $1 in
        server) keys=5 said=6 ;;
        client) keys=7 said=8 ;;
    esac
}

# What a guest runs: lines of its console, each to its end.
cat > shell << 'END'
stty -echo -onlcr
printf '\n@done@ 0\n'
while read -r line; do
    eval "$line" < /dev/null
    # On a line of its own, whatever the command has said.
    printf '\n@done@ %s\n' "$?"
done
END

mkdir -p more/postern
cp shell more/postern/run
[ ! -e programs ] || cp programs/* more/postern/
(cd more && find postern -type f | cpio -o -H newc) > more.cpio 2> /dev/null
cat "$guest/initrd" more.cpio > initrd

answer() {
    console "$1"
    while read -r -t 300 word rest <&$said; do
        case $word in
            @done@) return "${rest%%[!0-9]*}" ;;
            *) [ -z "$word$rest" ] || echo "$word $rest" ;;
        esac
    done
    # What a guest says may go to a file.
    {
        echo "no answer of $1"
        tail -n 20 "$1.err" says.out sample.out 2> /dev/null
    } >&2
    exit 90
}

tell() {
    [ "$1" != machine ] || { eval "$2"; return; }
    console "$1"
    echo "$2" >&$keys
    answer "$1"
}

start() {
    name=$1 number=$2
    shift 2
    mkfifo "$name.keys" "$name.said"
    case $name in
        server) exec 5<> server.keys 6<> server.said ;;
        client) exec 7<> client.keys 8<> client.said ;;
    esac
    mac=52:54:00:00:00:0$number
    eval "flags=\$flags_$name"
    case $network in
        vhost-net) set -- --net "tap=tap$number,mac=$mac,mtu=$mtu,backend=vhost" "$@" ;;
        virtio-user) set -- --net "tap=tap$number,mac=$mac,mtu=$mtu,backend=user" "$@" ;;
        *) set -- --nic nic.sock --port "$number" --path "$network" "$@" ;;
    esac
    ./postern run --kernel "$guest/kernel" --initrd initrd --memory "${memory:-512M}" \
        --vcpus "${vcpus:-1}" --cpu view-compatible --name "$name" \
        --disk "path=$guest/root.erofs,readonly" \
        --cmdline "console=ttyS0 panic=-1 quiet root=/dev/vda" $flags "$@" \
        < "$name.keys" > "$name.said" 2> "$name.err" &
    eval "pid_$name=$!"
}

# MTU of what joins the guests, which use 1500 themselves until they are told otherwise.
mtu=${mtu:-1500}
join() {
    # Nobody is there who would tell of a router.
    tell "$1" 'sysctl -q -w net.ipv6.conf.default.accept_ra=0 net.ipv6.conf.all.accept_ra=0'
    case $network in
        vhost-net | virtio-user) device=eth0 ;;
        *)
            device=postern0
            eval "bridge=\$bridge_$1"
            tell "$1" "postern-bridge $bridge --tap $device > /tmp/bridge.log 2>&1 & echo \$! > /tmp/bridge.pid"
            tell "$1" "until grep -q 1 /sys/class/net/$device/carrier; do kill -0 \$(cat /tmp/bridge.pid) || break; sleep 0.1; done 2> /dev/null" ;;
    esac
    for command in "ip addr add 10.0.0.$2/24 dev $device" "ip addr add fd00::$2/64 dev $device nodad" \
        "ip link set $device mtu 1500 up"; do
        tell "$1" "$command" || { echo "$1 has no $device: $command"; tell "$1" 'cat /tmp/bridge.log'; exit 92; }
    done
}

# A NIC, or the next owner of the one that there is.
begin_nic() {
    # Room for as many large segments as TCP has on their way.
    ./postern nic --socket nic.sock --ports 3 --queues "${vcpus:-1}" --ring 1M --lane 1M \
        --image nic-image >> nic.out 2>&1 &
    nic=$!
    until ./postern nic show nic.sock paths > /dev/null 2>&1; do
        kill -0 $nic 2> /dev/null || { cat nic.out; exit 91; }
        sleep 0.05
    done
}

# Before the guests.
make_network() {
    # One instruction takes ten nanoseconds here: to spin for a guest that halts would be much of what
    # the host does.
    echo 0 > /sys/module/kvm/parameters/halt_poll_ns
    echo 1 > /proc/sys/net/ipv6/conf/default/disable_ipv6
    case $network in
        vhost-net | virtio-user)
            ip link add lan type bridge
            ip link set lan mtu "$mtu" up
            for tap in tap1 tap2; do
                debian ip tuntap add dev $tap mode tap vnet_hdr
                ip link set $tap mtu "$mtu" master lan up
            done ;;
        *)
            begin_nic ;;
    esac
}

# The host's own end of the network: an interface named $outside.
uplink() {
    case $network in
        vhost-net | virtio-user) outside=lan ;;
        *)
            outside=tap0
            debian ip tuntap add dev tap0 mode tap vnet_hdr
            ip link set tap0 up
            ./postern nic uplink nic.sock add 0 tap:tap0 || exit 93 ;;
    esac
}

start_pair() {
    make_network
    start server 1 "$@"
    start client 2 "$@"
    answer server
    answer client
    [ "$unjoined" = yes ] || join_pair
}

join_pair() {
    join server 1
    join client 2
}

# The machine's counters, and the sum of KVM's over all VMs.
counts() {
    ./postern-init counters
    for name in exits io_exits mmio_exits halt_exits irq_exits hypercalls irq_injections; do
        sum=0
        for file in /sys/kernel/debug/kvm/*-*/$name; do
            read -r one < "$file"
            sum=$((sum + one))
        done
        echo "kvm_$name $sum"
    done
}

# What the guests have counted: packets that the server has received and sent, segments of TCP that
# either has sent again.
guest_counts() {
    packets=$(tell server "cat /sys/class/net/$device/statistics/[rt]x_packets")
    again=
    for name in server client; do
        again="$again $(tell $name "awk '/^Tcp: [0-9]/ { print \$13 }' /proc/net/snmp")"
    done
    sum=0
    for one in $packets; do sum=$((sum + one)); done
    echo "packets $sum"
    sum=0
    for one in $again; do sum=$((sum + one)); done
    echo "retransmits $sum"
}

sample() {
    what=$1 units=$2
    shift 2
    # The machine's own counters come last before, and first behind.
    before=$({ [ "$device" = "" ] || guest_counts; counts | sort -r; } | tr '\n' ' ')
    tell "$@" > sample.out || { echo "FAILED $what: status $? of $2"; cat sample.out; failed=1; return 1; }
    after=$({ counts; [ "$device" = "" ] || guest_counts; } | tr '\n' ' ')
    echo "sample $what units $units before $before after $after"
}

# The exits of a command by reason, and what they were for, as the kernel traces them.
# breakdown WHAT UNITS NAME COMMAND
breakdown() {
    what=$1 units=$2
    shift 2
    tracing=/sys/kernel/tracing
    echo 32768 > $tracing/buffer_size_kb
    for event in kvm_exit kvm_msr kvm_pio kvm_inj_virq; do echo 1 > $tracing/events/kvm/$event/enable; done
    before=$(guest_counts)
    echo > $tracing/trace
    echo 1 > $tracing/tracing_on
    tell "$@" > sample.out || { echo "FAILED $what: status $? of $2"; cat sample.out; failed=1; }
    echo 0 > $tracing/tracing_on
    echo 0 > $tracing/events/kvm/enable
    # packets N retransmits N packets M retransmits M
    set -- $before $(guest_counts)
    packets=$(($6 - $2))
    # The lines of one kind are alike from the event's name on.
    sed -n \
        -e 's/^.* kvm_exit:.* reason \([A-Z_0-9]*\) .*/exit_\1/p' \
        -e 's/^.* kvm_msr: msr_\([a-z]*\) \([0-9a-f]*\) .*/msr_\1_\2/p' \
        -e 's/^.* kvm_pio: pio_\([a-z]*\) at 0x\([0-9a-f]*\) .*/pio_\1_\2/p' \
        -e 's/^.* kvm_inj_virq: .*\(0x[0-9a-f]*\).*/irq_\1/p' \
        $tracing/trace | sort | uniq -c | while read -r count name; do echo "$name $count"; done > sample.out
    echo "exits $what units $units packets $packets $(tr '\n' ' ' < sample.out)"
    echo > $tracing/trace
}
failed=0

# says WHAT PATTERN NAME COMMAND: a command succeeds, and prints a line that the pattern matches.
says() {
    what=$1 pattern=$2
    shift 2
    # Nothing has no line for a pattern.
    if tell "$@" > says.out && echo >> says.out && grep -q -E "$pattern" says.out; then
        echo "ok $what"
    else
        echo "FAILED $what: $2"
        tail -n 20 says.out
        failed=1
    fi
}
can() {
    what=$1
    shift
    says "$what" '' "$@"
}
check() {
    what=$1
    shift
    if "$@"; then echo "ok $what"; else echo "FAILED $what: $*"; failed=1; fi
}
