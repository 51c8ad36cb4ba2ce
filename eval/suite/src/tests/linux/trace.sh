# Calls that are aborted, as postern trace and postern stat show them. The service of `faulty-image`
# stores to its own code on even vCPUs, and has an undefined instruction on odd ones.

program='postern-guest-linux send --to 02:00:00:00:ff:ff --frames 1 --sizes 60'
line="while read cpu; do taskset -c \$cpu $program; echo ended on \$cpu by \$?; done"
table() {
    cat << END
[[vm]]
name = "$1"
kernel = "$guest/kernel"
initrd = "$guest/initrd"
cmdline = 'console=ttyS0 panic=-1 quiet postern.run="$line"'
memory = "128M"
vcpus = $3
port = $2
path = "elisa"
END
}
{
    printf 'name = "lab"\n[nic]\nports = 2\nqueues = 2\nimage = "faulty-image"\n'
    table probe 0 2
    table other 1 1
} > lab.toml
./postern up lab.toml > up.out 2>&1 &
up=$!

# until NAME COMMAND...: waits for a command to succeed.
until_true() {
    what=$1
    shift
    until "$@" > /dev/null 2>&1; do
        if ! kill -0 $up; then
            echo "gave up: $what"
            tail -n 20 up.out *.txt *.err *.console
            exit 90
        fi
        sleep 0.05
    done
}
until_true 'two VMs' sh -c '[ "$(./postern ps | grep -c running)" = 2 ]'

# Input of a VM's console: join VM FD.
join() {
    mkfifo "$1.keys"
    ./postern console "$1" < "$1.keys" > "$1.console" 2>&1 &
    eval "exec $2> $1.keys"
}
join probe 3
join other 4
./postern trace probe > probe.txt 2> probe.err &
text=$!
./postern trace lab/probe --json > json.txt 2> json.err &
json=$!
./postern trace other > other.txt 2> other.err &
other=$!
instances=/sys/kernel/tracing/instances
tracing() { [ "$(cat $instances/*/events/kvm/kvm_ept_view_abort/enable | grep -c 1)" = "$1" ]; }
until_true 'three traces' tracing 3

lines() { [ "$(grep -c '' "$1")" = "$2" ]; }
echo 0 >&3
until_true 'an abort on vCPU 0' grep -q 'ended on 0 by' probe.console
echo 0 >&4
until_true 'an abort of the other VM' grep -q 'ended on 0 by' other.console
echo 1 >&3
until_true 'an abort on vCPU 1' grep -q 'ended on 1 by' probe.console
echo 1 >&3
until_true 'one more' sh -c '[ "$(grep -c "ended on 1 by" probe.console)" = 2 ]'
until_true 'lines of it' lines probe.txt 3
until_true 'lines of JSON' lines json.txt 3
until_true 'lines of the other VM' lines other.txt 1

hex='0x[0-9a-f]*'
code=0x100050000000
check 'the guest gets SIGILL' grep -q 'the first call raised SIGILL' probe.console
check 'an EPT violation has its addresses and its function' sh -c "head -n 1 probe.txt | grep -x \
    'VM probe, vCPU 0: view 204, exit reason 48 (EPT violation), GPA $hex, GVA $code, RIP $hex (postern_nic_image::fault::store_to_code+$hex)'"
check 'an exception has its function, and no address' sh -c "tail -n 1 probe.txt | grep -x \
    'VM probe, vCPU 1: view 204, exit reason 0 (exception or NMI), RIP $hex (postern_nic_image::fault::undefined_instruction+0x0)'"
check 'the GPA is in the range of views' sh -c "head -n 1 probe.txt | grep -E 'GPA 0x4[0-9a-f]{9},'"
check 'JSON says the same' sh -c "head -n 1 json.txt | grep '\"exit_reason\":48' \
    | grep '\"vm\":\"probe\"' | grep '\"gva\":$((code))' | grep -v '\"gpa\":null' \
    | grep '\"function\":\"postern_nic_image::fault::store_to_code'"
check 'JSON has no address where there is none' sh -c "tail -n 1 json.txt | grep '\"gpa\":null' \
    | grep '\"gva\":null' | grep '\"vcpu\":1'"
check 'another VM has its own aborts alone' grep -q '^VM other, vCPU 0: .*store_to_code' other.txt
check 'functions are named without a word about it' [ ! -s probe.err ]

./postern stat --prometheus lab > prometheus
./postern stat lab > people
aborts() { grep -F -x "postern_vcpu_view_aborts_total{topology=\"lab\",vm=\"$1\",vcpu=\"$2\"} $3" prometheus; }
check 'aborts are counted for each vCPU' aborts probe 0 1
check 'and for the next one' aborts probe 1 2
check 'and for each VM' aborts other 0 1
check 'people see them, too' grep -E '^lab +probe +1 .* 2 ' people
check 'the service was never called to its end' grep -F -x \
    'postern_port_calls_total{topology="lab",nic="nic",port="0",seat="0"} 0' prometheus

for process in $text $json $other; do
    kill -INT $process
    wait $process
    check 'Ctrl-C ends a trace' [ $? = 130 ]
done
check 'no trace is left behind' sh -c "! ls $instances | grep postern"
exec 3>&- 4>&-
./postern down lab
check 'the VMs are ended' [ $? = 0 ]
[ $failed = 0 ] || tail -n 20 up.out *.txt *.err *.console people prometheus
