# Definitions for scripts of tests with Linux guests: see mod.rs. For busybox's shell.

vm() {
    name=$1 guest=$2 line=$3
    shift 3
    # A guest with a root file system has it as its first disk.
    if [ -e "$guest/root.erofs" ]; then
        set -- --disk "path=$guest/root.erofs,readonly" "$@"
        line="root=/dev/vda $line"
    fi
    exec ./postern run --kernel "$guest/kernel" --initrd "$guest/initrd" \
        --memory "${memory:-128M}" --serial "$name.log" \
        --cmdline "console=ttyS0 panic=-1 quiet $line" "$@" > "$name.out" 2>&1
}

begin() {
    (vm "$@") &
    eval "pid_$1=$!"
}

run() {
    (vm "$@")
}

await() {
    eval "pid=\$pid_$1"
    until grep -q "$2" "$1.log" 2> /dev/null; do
        if ! kill -0 "$pid" 2> /dev/null; then
            echo "VM $1 has ended before it said $2"
            show "$1"
            exit 90
        fi
        sleep 0.05
    done
}

ended() {
    eval "wait \$pid_$1"
}

show() {
    tail -n 40 "$1.log" "$1.out"
}

# A TAP for VMs, with an address of the host: tap NAME ADDRESS/PREFIX [MTU].
tap() {
    debian ip tuntap add dev "$1" mode tap vnet_hdr multi_queue || exit 92
    [ -z "$3" ] || ip link set "$1" mtu "$3"
    ip addr add "$2" dev "$1"
    ip link set "$1" up
}

# What must hold: check NAME COMMAND...
check() {
    what=$1
    shift
    if "$@" > check.out 2>&1; then
        echo "ok $what"
    else
        echo "FAILED $what: status $? of $*"
        tail -n 20 check.out
        failed=1
    fi
}
failed=0
